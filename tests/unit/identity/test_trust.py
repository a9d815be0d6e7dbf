"""Chains, credentials and signed bodies: what is believed, and each reason to refuse (I-03, I-05, P-11 to P-14)."""

from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import DecodeError, TrustError
from overlay.fabric.authority import FabricMap, RouterEntry
from overlay.identity import fields, trust
from overlay.identity.certificate import Identity, Role, issue_leaf, make_issuing, make_root
from overlay.identity.keys import new_ca_key
from overlay.identity.trust import (
    Anchor,
    Credentials,
    Signers,
    open_signed,
    sign_body,
    verify_chain,
)
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode, encode, signing_input
from tests.support.pki import DAY, NOW, SECOND, Pki

PKI = Pki()
OTHER = Pki()
"""A plant of the same name with another root."""
CONTROLLER = PKI.controller()
EDGE = PKI.edge()
MAP = FabricMap(4, (RouterEntry("r", "r.example:1"),))


# --- chains ---------------------------------------------------------------------------------------


def test_a_chain_that_holds_names_its_leaf():
    leaf = verify_chain(EDGE.chain, PKI.anchor, NOW)
    assert leaf == EDGE.leaf
    assert leaf.identity == Identity("mill", Role.EDGE, "edge-a")


def test_the_anchor_is_a_self_signed_root():
    assert PKI.anchor.plant == "mill"
    with pytest.raises(TrustError):
        Anchor.of(PKI.issuing)
    with pytest.raises(TrustError):
        Anchor.of(EDGE.chain[0])


@pytest.mark.parametrize(
    "chain",
    [
        (),
        EDGE.chain[:1],
        EDGE.chain[1:],
        EDGE.chain[::-1],
        (*EDGE.chain, PKI.root),
        (*EDGE.chain, OTHER.issuing),
        (*EDGE.chain, CONTROLLER.chain[0]),
        (EDGE.chain[0], PKI.root),
        (EDGE.chain[0], OTHER.issuing),
        (EDGE.chain[0], CONTROLLER.chain[0]),
        (PKI.issuing, PKI.root),
        (PKI.root, PKI.root),
        (b"", b""),
        OTHER.edge().chain,
        (OTHER.edge().chain[0], PKI.issuing),
    ],
    ids=[
        "nothing", "leaf alone", "CA alone", "wrong order", "root as filler", "foreign CA as filler",
        "another node as filler", "root instead of issuer", "foreign issuer", "leaf as issuer", "CA as leaf",
        "root as leaf", "junk", "foreign chain", "foreign leaf",
    ],
)  # fmt: skip
def test_i_03_another_chain_is_refused(chain: Sequence[bytes]):
    with pytest.raises(TrustError):
        verify_chain(chain, PKI.anchor, NOW)


def test_i_03_a_leaf_issued_by_the_root_itself_is_refused():
    root_key = new_ca_key()
    root = make_root("mill", root_key, NOW - DAY, NOW + DAY)
    identity = Identity("mill", Role.EDGE, "e")
    leaf = issue_leaf(root, root_key, EDGE.key.public, identity, 1, NOW - DAY, NOW + DAY, 5)
    with pytest.raises(TrustError):
        verify_chain((leaf,), Anchor.of(root), NOW)


def test_i_03_a_leaf_that_names_another_plant_is_refused():
    root_key, issuing_key = new_ca_key(), new_ca_key()
    root = make_root("mill", root_key, NOW - DAY, NOW + DAY)
    other_root = make_root("other", root_key, NOW - DAY, NOW + DAY)
    # Same key and, rebuilt under the name of the first, a valid signature: only the plant is wrong.
    issuing = make_issuing(other_root, root_key, issuing_key, NOW - DAY, NOW + DAY)
    identity = Identity("other", Role.EDGE, "e")
    leaf = issue_leaf(issuing, issuing_key, EDGE.key.public, identity, 1, NOW - DAY, NOW + DAY, 5)
    assert verify_chain((leaf, issuing), Anchor.of(other_root), NOW).identity == identity
    parsed = x509.load_der_x509_certificate(issuing)
    builder = (
        x509.CertificateBuilder()
        .subject_name(parsed.subject)
        .issuer_name(x509.load_der_x509_certificate(root).subject)
        .public_key(issuing_key.public_key())
        .serial_number(3)
        .not_valid_before(parsed.not_valid_before_utc)
        .not_valid_after(parsed.not_valid_after_utc)
    )
    for extension in parsed.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    crossed = builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(TrustError, match="another plant"):
        verify_chain((leaf, crossed), Anchor.of(root), NOW)


def times(
    root: tuple[int, int], issuing: tuple[int, int], leaf: tuple[int, int]
) -> tuple[tuple[bytes, bytes], Anchor]:
    root_key, issuing_key = new_ca_key(), new_ca_key()
    root_der = make_root("mill", root_key, *root)
    issuing_der = make_issuing(root_der, root_key, issuing_key, *issuing)
    identity = Identity("mill", Role.EDGE, "edge-a")
    der = issue_leaf(issuing_der, issuing_key, EDGE.key.public, identity, 1, *leaf, 5)
    return (der, issuing_der), Anchor.of(root_der)


GOOD, PAST, FUTURE = (NOW - DAY, NOW + DAY), (NOW - 2 * DAY, NOW - DAY), (NOW + DAY, NOW + 2 * DAY)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["root", "issuing", "leaf"])
@pytest.mark.parametrize(("bad", "says"), [(PAST, "expired"), (FUTURE, "not valid before")])
def test_i_03_every_certificate_is_checked_at_plant_time(
    which: int, bad: tuple[int, int], says: str
):
    validity = [GOOD, GOOD, GOOD]
    validity[which] = bad
    chain, anchor = times(*validity)
    with pytest.raises(TrustError, match=says):
        verify_chain(chain, anchor, NOW)


def test_the_ends_of_a_validity_are_in_it():
    chain, anchor = times(GOOD, GOOD, (NOW - 5 * SECOND, NOW + 5 * SECOND))
    for now in (NOW - 5 * SECOND, NOW + 5 * SECOND):
        verify_chain(chain, anchor, now)
    for now in (NOW - 5 * SECOND - 1, NOW + 5 * SECOND + 1):
        with pytest.raises(TrustError):
            verify_chain(chain, anchor, now)


def test_i_05_an_expired_leaf_is_accepted_only_where_it_may_renew():
    chain, anchor = times(GOOD, GOOD, PAST)
    with pytest.raises(TrustError):
        verify_chain(chain, anchor, NOW)
    assert verify_chain(chain, anchor, NOW, expired_leaf_ok=True).identity.name == "edge-a"
    for validity in ((GOOD, GOOD, FUTURE), (GOOD, PAST, PAST), (PAST, GOOD, PAST)):
        chain, anchor = times(*validity)
        with pytest.raises(TrustError):
            verify_chain(chain, anchor, NOW, expired_leaf_ok=True)


def test_what_was_verified_once_is_checked_against_time_again():
    chain, anchor = times(GOOD, GOOD, GOOD)
    verify_chain(chain, anchor, NOW)
    with pytest.raises(TrustError, match="expired"):
        verify_chain(chain, anchor, NOW + 2 * DAY)
    with pytest.raises(TrustError, match="not signed by"):
        verify_chain(chain, OTHER.anchor, NOW)


# --- credentials ----------------------------------------------------------------------------------


def test_credentials_belong_to_their_key():
    with pytest.raises(TrustError, match="another key"):
        Credentials.enrolled(PKI.anchor, CONTROLLER.key, EDGE.chain)
    with pytest.raises(TrustError):
        Credentials.enrolled(OTHER.anchor, EDGE.key, EDGE.chain)


def test_a_newcomer_has_no_leaf():
    newcomer = Credentials.newcomer(PKI.anchor, EDGE.key)
    assert newcomer.leaf is None
    assert len(newcomer.chain) == 1
    with pytest.raises(TrustError):
        verify_chain(newcomer.chain, PKI.anchor, NOW)


# --- signed bodies --------------------------------------------------------------------------------


def signed(
    *,
    credentials: Credentials = CONTROLLER,
    chain: Sequence[bytes] = (),
    anchor: Anchor = PKI.anchor,
) -> bytes:
    return sign_body(MAP, credentials.key, anchor, chain)


def forged(data: bytes, **changes: object) -> bytes:
    return encode(
        Signed(
            **{name: getattr(decode(Signed, data), name) for name in Signed.__struct_fields__}
            | changes
        )
    )


def test_p_12_a_signature_covers_type_plant_and_bytes():
    one = decode(Signed, signed())
    message = b"ferrule/1/map\0" + PKI.anchor.digest + encode(MAP)
    assert signing_input("map", PKI.anchor.digest, encode(MAP)) == message
    assert one.signature == CONTROLLER.key.sign(message)
    assert one.signer == CONTROLLER.key.key_id


def test_a_signed_body_comes_back_with_its_signer():
    body, leaf = open_signed(
        FabricMap, signed(), PKI.signers(CONTROLLER), NOW, role=Role.CONTROLLER, name="controller"
    )
    assert body == MAP
    assert leaf == CONTROLLER.leaf


def test_p_14_an_unknown_signer_is_an_error_until_its_chain_came():
    signers = Signers(PKI.anchor)
    with pytest.raises(TrustError, match="not known"):
        open_signed(FabricMap, signed(), signers, NOW)
    open_signed(FabricMap, signed(chain=CONTROLLER.chain), signers, NOW)
    assert signers.known(CONTROLLER.key.key_id) == CONTROLLER.leaf
    open_signed(FabricMap, signed(), signers, NOW)


@pytest.mark.parametrize("role", [Role.ROUTER, Role.EDGE])
def test_p_13_the_signers_role_is_demanded(role: Role):
    with pytest.raises(TrustError, match="must be signed by a"):
        open_signed(FabricMap, signed(), PKI.signers(CONTROLLER), NOW, role=role)


def test_p_13_the_signers_name_is_demanded():
    with pytest.raises(TrustError, match="must be signed by edge-b"):
        open_signed(FabricMap, signed(), PKI.signers(CONTROLLER), NOW, name="edge-b")


def test_p_12_a_signature_for_another_type_is_refused():
    signers = PKI.signers(CONTROLLER)
    data = sign_body(TreeHead(1, bytes(32), NOW), CONTROLLER.key, PKI.anchor)
    open_signed(TreeHead, data, signers, NOW)
    with pytest.raises(TrustError, match="expected"):
        open_signed(FabricMap, data, signers, NOW)
    with pytest.raises(TrustError, match="does not hold"):
        open_signed(FabricMap, forged(data, type="map"), signers, NOW)


def test_p_12_a_signature_of_another_plant_is_refused():
    with pytest.raises(TrustError, match="does not hold"):
        open_signed(FabricMap, signed(anchor=OTHER.anchor), PKI.signers(CONTROLLER), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"body": encode(FabricMap(5, ()))},
        {"body": encode(MAP) + b"\xc0"},
        {"signature": bytes(64)},
        {"signature": b""},
        {"signer": bytes(32)},
        {"signer": EDGE.key.key_id},
        {"signer": b""},
        {"type": ""},
        {"chain": OTHER.controller().chain},
        {"chain": EDGE.chain},
        {"chain": (b"junk", b"junk")},
        {"chain": CONTROLLER.chain * 100},
    ],
    ids=", ".join,
)
def test_anything_that_was_changed_is_refused(changes: dict[str, object]):
    with pytest.raises(TrustError):
        open_signed(FabricMap, forged(signed(), **changes), PKI.signers(CONTROLLER, EDGE), NOW)


def test_p_14_the_signer_is_the_one_whose_chain_came():
    data = forged(signed(chain=CONTROLLER.chain), signer=EDGE.key.key_id)
    with pytest.raises(TrustError, match="another signer"):
        open_signed(FabricMap, data, PKI.signers(CONTROLLER, EDGE), NOW)


def test_p_11_a_signed_body_is_still_checked():
    body = encode([-1, [], "x"])
    signature = CONTROLLER.key.sign(signing_input("map", PKI.anchor.digest, body))
    data = encode(Signed("map", body, CONTROLLER.key.key_id, signature))
    with pytest.raises(DecodeError):
        open_signed(FabricMap, data, PKI.signers(CONTROLLER), NOW)


def test_an_expired_signer_is_refused_but_for_what_waited():
    signers = PKI.signers(CONTROLLER)
    later = NOW + 31 * DAY
    for data in (signed(), signed(chain=CONTROLLER.chain)):
        with pytest.raises(TrustError):
            open_signed(FabricMap, data, signers, later)
        open_signed(FabricMap, data, signers, later, expired_leaf_ok=True)
        with pytest.raises(TrustError):
            open_signed(FabricMap, data, signers, NOW - 2 * DAY, expired_leaf_ok=True)


def test_signers_are_bounded_and_no_edge_pushes_a_controller_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trust, "SIGNERS", 3)
    monkeypatch.setattr(trust, "CONTROLLERS", 2)
    edges = [PKI.edge(f"edge-{n}") for n in range(5)]
    signers = PKI.signers(CONTROLLER, *edges[:3])
    assert signers.known(edges[0].key.key_id)  # used last
    signers.learn(edges[3].chain, NOW)
    assert [bool(signers.known(each.key.key_id)) for each in edges] == [
        True,
        False,
        True,
        True,
        False,
    ]
    signers.learn(edges[3].chain, NOW)  # known already: pushes nobody out
    assert signers.known(edges[2].key.key_id)
    assert signers.known(CONTROLLER.key.key_id)
    for number in range(2):
        signers.learn(PKI.controller(f"controller-{number}").chain, NOW)
    assert signers.known(CONTROLLER.key.key_id) is None


def test_signers_are_bounded_as_they_ship():
    signers = Signers(PKI.anchor)
    chain = PKI.edge().chain
    leaf = verify_chain(chain, PKI.anchor, NOW)
    signers._nodes = {number.to_bytes(32, "big"): leaf for number in range(trust.SIGNERS)}
    signers._controllers = {number.to_bytes(32, "big"): leaf for number in range(trust.CONTROLLERS)}
    signers.learn(chain, NOW)
    signers.learn(CONTROLLER.chain, NOW)
    assert len(signers._nodes) == trust.SIGNERS
    assert len(signers._controllers) == trust.CONTROLLERS


SIGNED = signed(chain=CONTROLLER.chain)


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_the_documented_errors(data: bytes):
    with pytest.raises((DecodeError, TrustError)):
        open_signed(FabricMap, data, Signers(PKI.anchor), NOW)


@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 4), st.binary(max_size=4))
def test_damaged_bytes_are_refused_with_the_documented_errors(at: int, cut: int, put: bytes):
    data = SIGNED[:at] + put + SIGNED[at + cut :]
    if data == SIGNED:
        return
    with pytest.raises((DecodeError, TrustError)):
        open_signed(FabricMap, data, Signers(PKI.anchor), NOW)


@given(st.lists(st.binary(max_size=100) | st.sampled_from([*EDGE.chain, PKI.root]), max_size=4))
def test_any_chain_raises_only_trust_errors(chain: list[bytes]):
    try:
        verify_chain(chain, PKI.anchor, NOW)
    except TrustError:
        assert chain != list(EDGE.chain)
    else:
        assert chain == list(EDGE.chain)


def test_fields_hold_the_root_in_whole_seconds():
    assert fields.micros(fields.moment(NOW + 1)) == NOW
