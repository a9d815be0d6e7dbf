"""How nodes sign their events, many at once where many happen (docs/protocol/audit.md, U-15).

A signature costs more than all else that is done for an event, so one is made for a group: over the root of the Merkle
tree whose leaves are the events' bodies. Each event carries its place in the tree and the hashes that lead to the
root, so that it proves by itself who said it.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Annotated, NamedTuple

from msgspec import Meta

from overlay.audit.event import Event
from overlay.audit.merkle import HASH_SIZE, all_proofs, leaf_hash
from overlay.audit.proofs import root_by_proof
from overlay.identity.certificate import Leaf, Role
from overlay.identity.keys import verify
from overlay.identity.trust import Credentials, Signers, sign_encoded, signer_of
from overlay.wire.codec import Signed, decode, encode, signing_input

MAX_GROUP = 64
"""Events under one signature: more of them make each one larger and nothing cheaper."""
SIGNED_BYTES = 360
"""What comes to the body of an event at most, but for certificates."""
_LONGEST_PROOF = (MAX_GROUP - 1).bit_length() * HASH_SIZE
_LABEL = "events"
_REMEMBERED = 1024


class SignedEvent(Signed, frozen=True):
    """`Signed` of one event. In a group of `size` (0: alone) `signature` covers the group, of which this is number
    `index`, from 0; `proof` are the hashes that lead to its root, one after the other.
    """

    index: Annotated[int, Meta(ge=0, lt=MAX_GROUP)] = 0
    size: Annotated[int, Meta(ge=0, le=MAX_GROUP)] = 0
    proof: Annotated[bytes, Meta(max_length=_LONGEST_PROOF)] = b""


def sign_events(
    bodies: Sequence[bytes], credentials: Credentials, chain: Sequence[bytes] = ()
) -> list[bytes]:
    """Each of 1 to `MAX_GROUP` encoded events as it leaves its node; the first brings `chain`."""
    key, plant = credentials.key, credentials.anchor.digest
    if len(bodies) == 1:
        return [sign_encoded(Event.TYPE, bodies[0], key, credentials.anchor, chain)]
    size = len(bodies)
    root, proofs = all_proofs([leaf_hash(body) for body in bodies])
    signature = key.sign(_group_input(plant, size, root))
    return [
        encode(
            SignedEvent(
                Event.TYPE, body, key.key_id, signature, () if index else tuple(chain),
                index, size, b"".join(proofs[index]),
            )
        )
        for index, body in enumerate(bodies)
    ]  # fmt: skip


class Unsigned(NamedTuple):
    """An event that is not written yet, encoded, and whose it is: a certificate may be renewed before it is."""

    body: bytes
    credentials: Credentials

    @property
    def room(self) -> int:
        """About as many bytes as it will take."""
        return len(self.body) + SIGNED_BYTES


def sign_in_groups(events: Sequence[Unsigned], vouched: bytes) -> list[bytes]:
    """Events as they leave, in order; those that follow each other under one key share a signature. The first of each
    key but `vouched` (its `key_id`) brings its certificates, for who verifies an export (U-10).
    """
    signed: list[bytes] = []
    while len(signed) < len(events):
        credentials = events[len(signed)].credentials
        key = credentials.key
        rest = events[len(signed) : len(signed) + MAX_GROUP]
        group = [one.body for one in takewhile(lambda one: one.credentials.key is key, rest)]  # noqa: B023
        signed += sign_events(
            group, credentials, credentials.chain if key.key_id != vouched else ()
        )
        vouched = key.key_id
    return signed


class EventReader:
    """Verifies events; of a group the signature once, as long as it is among the last that it saw."""

    def __init__(self, signers: Signers) -> None:
        self._signers = signers
        self._verified: dict[tuple[bytes, bytes, bytes], None] = {}
        """(key, signature, what it covers)"""

    def open(
        self,
        data: bytes,
        now: int,
        *,
        name: str | None = None,
        role: Role | None = None,
    ) -> tuple[Event, Leaf]:
        """As `open_signed`, for an event of the node `name`, whose certificate may have ended since.

        Raises:
            DecodeError: not a signed event.
            TrustError: signature, place in its group, signer, chain, role or name do not hold.
        """
        signed = decode(SignedEvent, data)
        leaf = signer_of(
            signed, Event.TYPE, self._signers, now, role=role, name=name, expired_leaf_ok=True
        )
        plant = self._signers.anchor.digest
        if signed.size:
            proof = [
                signed.proof[at : at + HASH_SIZE] for at in range(0, len(signed.proof), HASH_SIZE)
            ]
            root = root_by_proof(leaf_hash(signed.body), signed.index, signed.size, proof)
            self._check(leaf, signed.signature, _group_input(plant, signed.size, root))
        else:
            verify(leaf.public, signed.signature, signing_input(Event.TYPE, plant, signed.body))
        return decode(Event, signed.body), leaf

    def _check(self, leaf: Leaf, signature: bytes, covered: bytes) -> None:
        verified = leaf.public, signature, covered
        if verified not in self._verified:
            verify(leaf.public, signature, covered)
            self._verified[verified] = None
            if len(self._verified) > _REMEMBERED:
                del self._verified[next(iter(self._verified))]


def _group_input(plant: bytes, size: int, root: bytes) -> bytes:
    return signing_input(_LABEL, plant, size.to_bytes(2, "big") + root)
