"""Events under one signature: each proves by itself who said it, and nothing else passes for one (U-15)."""

import random

import msgspec
import pytest

from overlay.audit import signing
from overlay.audit.event import Event, EventName, Outcome
from overlay.audit.merkle import all_proofs, leaf_hash, root
from overlay.audit.proofs import root_by_proof
from overlay.audit.signing import MAX_GROUP, EventReader, SignedEvent, sign_events
from overlay.errors import DecodeError, FerruleError, TrustError
from overlay.identity.certificate import Role
from overlay.identity.keys import verify
from overlay.identity.trust import sign_body
from overlay.wire.codec import Signed, decode, encode
from tests.support.pki import DAY, NOW, Pki

PKI = Pki()
EDGE, OTHER = PKI.edge("edge-a"), PKI.edge("edge-b")


def event(number: int, node: str = "edge-a") -> Event:
    return Event(node, number, NOW, EventName.CIRCUIT_OPEN, Outcome.ALLOWED, who=f"hmi-{number}")


def group(size: int, credentials=EDGE) -> list[bytes]:
    return sign_events([encode(event(one)) for one in range(1, size + 1)], credentials)


def reader() -> EventReader:
    return EventReader(PKI.signers(EDGE, OTHER))


def opened(data: bytes, by: EventReader | None = None) -> Event:
    found, leaf = (by or reader()).open(data, NOW, name="edge-a", role=Role.EDGE)
    assert leaf == EDGE.leaf
    return found


def changed(data: bytes, **fields) -> bytes:
    return encode(msgspec.structs.replace(decode(SignedEvent, data), **fields))


@pytest.mark.parametrize("size", [2, 3, 7, 8, 33, MAX_GROUP])
def test_each_event_of_a_group_opens_by_itself_in_any_order(size: int):
    signed = group(size)
    assert len({decode(Signed, one).signature for one in signed}) == 1
    for number, one in random.Random(1).sample(list(enumerate(signed, start=1)), size):
        assert opened(one) == event(number)


def test_the_signature_of_a_group_covers_what_the_protocol_says():
    bodies = [encode(event(one)) for one in (1, 2, 3)]
    top = root([leaf_hash(body) for body in bodies])
    covered = b"ferrule/1/events\0" + PKI.anchor.digest + b"\0\3" + top
    first, *_ = (decode(Signed, one) for one in sign_events(bodies, EDGE))
    verify(EDGE.key.public, first.signature, covered)


def test_one_event_alone_is_signed_as_any_body():
    assert group(1) == [sign_body(event(1), EDGE.key, PKI.anchor)]
    assert opened(group(1)[0]) == event(1)


def test_the_first_of_a_group_brings_the_certificates():
    signed = sign_events([encode(event(1)), encode(event(2))], EDGE, EDGE.chain)
    assert [bool(decode(Signed, one).chain) for one in signed] == [True, False]
    stranger = EventReader(PKI.signers())
    with pytest.raises(TrustError, match="not known here"):
        stranger.open(signed[1], NOW)
    assert [stranger.open(one, NOW)[0] for one in signed] == [event(1), event(2)]


def test_a_signature_is_checked_once_for_a_group_and_few_are_remembered(monkeypatch):
    checked: list[bytes] = []

    def counted(public: bytes, signature: bytes, data: bytes) -> None:
        checked.append(signature)
        verify(public, signature, data)

    monkeypatch.setattr(signing, "verify", counted)
    monkeypatch.setattr(signing, "_REMEMBERED", 8)
    by = reader()
    for one in group(MAX_GROUP):
        opened(one, by)
    assert len(checked) == 1
    for size in range(2, 22):
        opened(group(size)[0], by)
    assert len(by._verified) <= 8


MEDDLED = {
    "another body": lambda one, other: {"body": other.body},
    "another place": lambda one, other: {"index": other.index},
    "the place of none": lambda one, other: {"index": 40},
    "a larger group": lambda one, other: {"size": one.size + 1},
    "a smaller group": lambda one, other: {"size": one.size - 1},
    "no group": lambda one, other: {"size": 0},
    "no proof": lambda one, other: {"proof": b""},
    "half a hash": lambda one, other: {"proof": one.proof[:-16]},
    "a hash less": lambda one, other: {"proof": one.proof[:-32]},
    "a hash more": lambda one, other: {"proof": one.proof + bytes(32)},
    "the proof of another": lambda one, other: {"proof": other.proof},
    "another signature": lambda one, other: {"signature": bytes(64)},
    "another label": lambda one, other: {"type": "grant"},
    "another signer": lambda one, other: {"signer": OTHER.key.key_id},
}


@pytest.mark.parametrize("how", MEDDLED)
@pytest.mark.parametrize("seen", [False, True])
def test_nothing_else_passes_for_an_event_of_a_group(how: str, seen: bool):
    signed = group(21)
    by = reader()
    if seen:  # that the group's signature was checked before lets nothing else in
        for one in signed:
            opened(one, by)
    first, other = decode(SignedEvent, signed[4]), decode(SignedEvent, signed[9])
    with pytest.raises(TrustError):
        opened(changed(signed[4], **MEDDLED[how](first, other)), by)


@pytest.mark.parametrize(
    "fields", [{"size": MAX_GROUP + 1}, {"index": -1}, {"proof": bytes(7 * 32)}, {"index": "one"}]
)
def test_a_group_has_bounds(fields: dict):
    with pytest.raises(DecodeError):
        opened(changed(group(2)[0], **fields))


def test_a_group_is_of_one_plant_one_node_and_one_label():
    other = Pki()  # another root, and the same keys of nodes
    with pytest.raises(TrustError, match="does not hold"):
        EventReader(other.signers(other.edge("edge-a"))).open(group(2)[0], NOW)
    with pytest.raises(TrustError, match="must be signed by edge-a"):
        opened(group(2, OTHER)[0])
    with pytest.raises(TrustError, match="must be signed by a router"):
        reader().open(group(2)[0], NOW, role=Role.ROUTER)
    # the signature of a group is none of a body, nor the other way round
    leaves = [leaf_hash(encode(event(one))) for one in (1, 2)]
    fake = (2).to_bytes(2, "big") + root(leaves)
    alone = decode(Signed, group(2)[0])
    with pytest.raises(TrustError):
        opened(encode(Signed("event", fake, alone.signer, alone.signature)))


def test_an_event_whose_certificate_has_ended_still_opens_and_one_before_it_does_not():
    signed = group(3)[1]
    assert reader().open(signed, NOW + 60 * DAY)[0] == event(2)
    with pytest.raises(TrustError, match="not valid now"):
        reader().open(signed, NOW - 60 * DAY)


def test_whatever_bytes_come_it_is_this_event_or_an_error():
    rng, signed = random.Random(7), group(13)[6]
    by = reader()
    opened(signed, by)
    for _ in range(3000):
        bad = bytearray(signed)
        for _ in range(rng.choice((1, 1, 2, 5))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            found = opened(bytes(bad[: rng.choice((len(bad), rng.randrange(len(bad) + 1)))]), by)
        except FerruleError:
            continue
        assert found == event(7)


@pytest.mark.parametrize("size", range(1, 20))
def test_proofs_of_all_leaves_lead_to_the_root(size: int):
    leaves = [leaf_hash(bytes([one])) for one in range(size)]
    top, proofs = all_proofs(leaves)
    assert top == root(leaves)
    for index, proof in enumerate(proofs):
        assert root_by_proof(leaves[index], index, size, proof) == top
        with pytest.raises(TrustError):
            root_by_proof(leaves[index], size, size, proof)
        if proof:
            with pytest.raises(TrustError, match="too short"):
                root_by_proof(leaves[index], index, size, proof[:-1])
        with pytest.raises(TrustError, match="too long"):
            root_by_proof(leaves[index], index, size, [*proof, bytes(32)])
