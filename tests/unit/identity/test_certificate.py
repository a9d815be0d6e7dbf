"""Certificates: whom a leaf names, and all that is refused (I-01, I-02, I-04)."""

import ipaddress
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import TrustError
from overlay.identity import fields
from overlay.identity.certificate import (
    Identity,
    Role,
    check_issued,
    issue_leaf,
    make_csr,
    make_issuing,
    make_root,
    read_ca,
    read_csr,
    read_key,
    read_leaf,
    self_signed,
)
from overlay.identity.keys import SigningKey, new_ca_key
from tests.support.pki import DAY, NOW

KEY = SigningKey.generate(b"k" * 32)
ROOT_KEY = new_ca_key()
ISSUING_KEY = new_ca_key()
ROOT = make_root("mill", ROOT_KEY, NOW - DAY, NOW + DAY)
ISSUING = make_issuing(ROOT, ROOT_KEY, ISSUING_KEY, NOW - DAY, NOW + DAY)
EDGE = Identity("mill", Role.EDGE, "edge-a")


def issue(identity: Identity = EDGE, generation: int = 1) -> bytes:
    return issue_leaf(
        ISSUING, ISSUING_KEY, KEY.public, identity, generation, NOW - DAY, NOW + DAY, 7
    )


LEAF = issue()


def test_a_leaf_says_who_it_is():
    leaf = read_leaf(issue(generation=300))
    assert leaf.identity == EDGE
    assert leaf.identity.uri == "spiffe://mill/edge/edge-a"
    assert leaf.generation == 300
    assert (leaf.public, leaf.key_id) == (KEY.public, KEY.key_id)
    assert (leaf.not_before, leaf.not_after) == (NOW - DAY, NOW + DAY)
    assert leaf.valid_at(NOW)
    assert not leaf.valid_at(NOW + DAY + 1)
    assert not leaf.valid_at(NOW - DAY - 1)


@pytest.mark.parametrize("generation", [0, 1, 127, 128, 255, 256, 1 << 31, (1 << 63) - 1])
def test_every_generation_comes_back(generation: int):
    assert read_leaf(issue(generation=generation)).generation == generation


@pytest.mark.parametrize(
    ("identity", "generation"),
    [
        (EDGE, -1),
        (EDGE, 1 << 63),
        (Identity("mill", Role.EDGE, ""), 1),
        (Identity("mill", Role.EDGE, "Edge"), 1),
        (Identity("mill", Role.EDGE, "a/b"), 1),
        (Identity("mill", Role.EDGE, "x" * 64), 1),
        (Identity("other", Role.EDGE, "edge-a"), 1),
    ],
)
def test_what_could_not_be_read_again_is_not_issued(identity: Identity, generation: int):
    with pytest.raises(ValueError):
        issue(identity, generation)


def test_the_private_extension_is_not_critical():
    # I-04: other tools must be able to check our certificates.
    extension = x509.load_der_x509_certificate(LEAF).extensions.get_extension_for_oid(
        fields.GENERATION_OID
    )
    assert not extension.critical


def test_other_verifiers_accept_the_chain():
    store = x509.verification.Store([x509.load_der_x509_certificate(ROOT)])
    verifier = (
        x509.verification.PolicyBuilder()
        .store(store)
        .time(fields.moment(NOW))
        .build_client_verifier()
    )
    verified = verifier.verify(
        x509.load_der_x509_certificate(LEAF), [x509.load_der_x509_certificate(ISSUING)]
    )
    assert verified.subjects == [x509.UniformResourceIdentifier(EDGE.uri)]


# --- leaves that are almost right -----------------------------------------------------------------

Change = Callable[[list[tuple[x509.ExtensionType, bool]]], None]


def odd_leaf(
    change: Change | None = None,
    *,
    key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | None = None,
) -> bytes:
    """A leaf signed by the issuing CA, whose extensions `change` has edited."""
    original = x509.load_der_x509_certificate(LEAF)
    extensions = [(each.value, each.critical) for each in original.extensions]
    if change is not None:
        change(extensions)
    builder = (
        x509.CertificateBuilder()
        .subject_name(original.subject)
        .issuer_name(original.issuer)
        .public_key(key or KEY.private_key.public_key())
        .serial_number(9)
        .not_valid_before(original.not_valid_before_utc)
        .not_valid_after(original.not_valid_after_utc)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(ISSUING_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def drop(kind: type[x509.ExtensionType]) -> Change:
    def change(extensions: list[tuple[x509.ExtensionType, bool]]) -> None:
        kept = [each for each in extensions if not isinstance(each[0], kind)]
        assert len(kept) < len(extensions)
        extensions[:] = kept

    return change


def put(value: x509.ExtensionType, critical: bool = False) -> Change:
    def change(extensions: list[tuple[x509.ExtensionType, bool]]) -> None:
        extensions[:] = [each for each in extensions if each[0].oid != value.oid]
        extensions.append((value, critical))

    return change


def names(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


def usage(**wanted: bool) -> x509.KeyUsage:
    everything = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(everything, False) | wanted))


def test_the_odd_leaf_is_only_odd_where_it_was_changed():
    assert read_leaf(odd_leaf()).identity == EDGE


I_01 = {
    "no SAN": drop(x509.SubjectAlternativeName),
    "no URI": put(x509.SubjectAlternativeName([x509.DNSName("edge-a")])),
    "two URIs": put(names(EDGE.uri, "spiffe://mill/controller/c")),
    "the same URI twice": put(names(EDGE.uri, EDGE.uri)),
    "another scheme": put(names("https://mill/edge/edge-a")),
    "scheme in capitals": put(names("SPIFFE://mill/edge/edge-a")),
    "unknown role": put(names("spiffe://mill/admin/edge-a")),
    "role in capitals": put(names("spiffe://mill/EDGE/edge-a")),
    "no role": put(names("spiffe://mill/edge-a")),
    "too many parts": put(names("spiffe://mill/edge/edge-a/router")),
    "trailing slash": put(names("spiffe://mill/edge/edge-a/")),
    "empty name": put(names("spiffe://mill/edge/")),
    "empty plant": put(names("spiffe:///edge/edge-a")),
    "name in capitals": put(names("spiffe://mill/edge/Edge-A")),
    "long name": put(names("spiffe://mill/edge/" + "x" * 64)),
    "dot": put(names("spiffe://mill/edge/a.b")),
    "newline": put(names("spiffe://mill/edge/edge-a\n")),
    "percent": put(names("spiffe://mill/edge/edge%2da")),
    "query": put(names("spiffe://mill/edge/edge-a?x")),
    "user": put(names("spiffe://a@mill/edge/edge-a")),
}


@pytest.mark.parametrize("change", I_01.values(), ids=I_01)
def test_i_01_a_leaf_without_exactly_one_good_uri_is_refused(change: Change):
    with pytest.raises(TrustError):
        read_leaf(odd_leaf(change))


def test_i_01_other_names_beside_the_uri_name_nobody():
    other = x509.SubjectAlternativeName(
        [
            x509.DNSName("controller"),
            x509.UniformResourceIdentifier(EDGE.uri),
            x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        ]
    )
    assert read_leaf(odd_leaf(put(other, critical=True))).identity == EDGE


BOTH = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
I_02 = {
    "is a CA": put(x509.BasicConstraints(ca=True, path_length=None), critical=True),
    "does not say it is no CA": drop(x509.BasicConstraints),
    "no key usage": drop(x509.KeyUsage),
    "other key usage": put(usage(key_agreement=True), critical=True),
    "may sign certificates": put(usage(digital_signature=True, key_cert_sign=True), critical=True),
    "may sign CRLs": put(usage(digital_signature=True, crl_sign=True), critical=True),
    "no EKU": drop(x509.ExtendedKeyUsage),
    "client only": put(x509.ExtendedKeyUsage(BOTH[:1])),
    "server only": put(x509.ExtendedKeyUsage(BOTH[1:])),
    "any EKU": put(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])),
}


@pytest.mark.parametrize("change", I_02.values(), ids=I_02)
def test_i_02_a_leaf_for_other_uses_is_refused(change: Change):
    with pytest.raises(TrustError):
        read_leaf(odd_leaf(change))


def test_i_02_a_leaf_with_another_kind_of_key_is_refused():
    with pytest.raises(TrustError, match="Ed25519"):
        read_leaf(odd_leaf(key=new_ca_key().public_key()))


def raw_generation(value: bytes, critical: bool = False) -> Change:
    return put(x509.UnrecognizedExtension(fields.GENERATION_OID, value), critical=critical)


I_04 = {
    "none": drop(x509.UnrecognizedExtension),
    "critical": raw_generation(b"\x02\x01\x01", critical=True),
    "empty": raw_generation(b""),
    "no content": raw_generation(b"\x02\x00"),
    "negative": raw_generation(b"\x02\x01\xff"),
    "another type": raw_generation(b"\x04\x01\x01"),
    "not minimal": raw_generation(b"\x02\x02\x00\x01"),
    "trailing bytes": raw_generation(b"\x02\x01\x01\x00"),
    "lying length": raw_generation(b"\x02\x05\x01"),
    "2^63": raw_generation(b"\x02\x09\x00\x80" + bytes(7)),
    "huge": raw_generation(b"\x02\x81\x80" + b"\x01" * 128),
}


@pytest.mark.parametrize("change", I_04.values(), ids=I_04)
def test_i_04_a_leaf_without_a_proper_generation_is_refused(change: Change):
    with pytest.raises(TrustError):
        read_leaf(odd_leaf(change))


def test_an_unknown_critical_extension_is_refused():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert read_leaf(odd_leaf(put(unknown, critical=False))).identity == EDGE
    with pytest.raises(TrustError, match=r"critical extension 1\.2\.3\.4"):
        read_leaf(odd_leaf(put(unknown, critical=True)))


@pytest.mark.parametrize("number", [b"\x00", b"\xf9"])
def test_a_certificate_whose_serial_number_is_not_positive_is_refused(number: bytes):
    place = b"\x02\x01\x02\x02\x01\x07"  # version 3 and the number 7, near the beginning
    der = issue()
    assert place in der[:20]
    with pytest.raises(TrustError, match="not positive"):
        read_leaf(der.replace(place, place[:-1] + number, 1))


def test_a_large_certificate_is_not_looked_at():
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(4096))
    with pytest.raises(TrustError, match="larger"):
        read_leaf(odd_leaf(put(padding)))


def test_a_large_request_is_not_looked_at():
    with pytest.raises(TrustError, match="larger"):
        read_csr(bytes(fields.MAX_CERTIFICATE + 1))
    with pytest.raises(TrustError, match="not a certificate request"):
        read_csr(bytes(fields.MAX_CERTIFICATE))


@pytest.mark.parametrize(
    "der", [b"", b"\x30", LEAF[:-1], LEAF + b"\0", ROOT, ISSUING, make_csr(KEY)]
)
def test_what_is_not_a_leaf(der: bytes):
    with pytest.raises(TrustError):
        read_leaf(der)


# --- authorities ----------------------------------------------------------------------------------


def test_an_authority_says_which_plant():
    for der in (ROOT, ISSUING):
        authority = read_ca(der)
        assert authority.plant == "mill"
        assert (authority.not_before, authority.not_after) == (NOW - DAY, NOW + DAY)
    check_issued(ROOT, read_ca(ROOT).certificate)
    check_issued(ISSUING, read_ca(ROOT).certificate)
    check_issued(LEAF, read_ca(ISSUING).certificate)


def test_a_signature_by_another_ca_of_the_same_name_is_refused():
    other_key = new_ca_key()
    other = make_root("mill", other_key, NOW - DAY, NOW + DAY)
    with pytest.raises(TrustError):
        check_issued(ISSUING, read_ca(other).certificate)
    with pytest.raises(TrustError):
        check_issued(b"junk", read_ca(other).certificate)


@pytest.mark.parametrize("plant", ["", "Mill", "a.b", "x" * 64, "mill/edge"])
def test_a_plant_has_a_proper_name(plant: str):
    with pytest.raises(ValueError):
        make_root(plant, ROOT_KEY, NOW, NOW + DAY)


def ca(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    *extensions: tuple[x509.ExtensionType, bool],
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(fields.moment(NOW))
        .not_valid_after(fields.moment(NOW) + timedelta(days=1))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


CA = (x509.BasicConstraints(ca=True, path_length=None), True)
SIGNS = (usage(key_cert_sign=True), True)
PLANT = (names("spiffe://mill"), False)


def test_the_odd_ca_is_only_odd_where_it_was_changed():
    assert read_ca(ca(ROOT_KEY, CA, SIGNS, PLANT)).plant == "mill"


@pytest.mark.parametrize(
    "der",
    [
        ca(KEY.private_key, CA, SIGNS, PLANT),
        ca(ec.generate_private_key(ec.SECP521R1()), CA, SIGNS, PLANT),
        ca(ROOT_KEY, SIGNS, PLANT),
        ca(ROOT_KEY, (CA[0], False), SIGNS, PLANT),
        ca(ROOT_KEY, (x509.BasicConstraints(ca=False, path_length=None), True), SIGNS, PLANT),
        ca(ROOT_KEY, CA, PLANT),
        ca(ROOT_KEY, CA, (usage(digital_signature=True), True), PLANT),
        ca(ROOT_KEY, CA, SIGNS),
        ca(ROOT_KEY, CA, SIGNS, (names("spiffe://mill/edge/a"), False)),
        ca(ROOT_KEY, CA, SIGNS, (names("spiffe://mill", "spiffe://other"), False)),
        ca(ROOT_KEY, CA, SIGNS, (names("https://mill"), False)),
        LEAF,
        b"",
        bytes(5000),
    ],
    ids=[
        "Ed25519", "P-521", "no constraints", "constraints not critical", "not a CA", "no usage",
        "other usage", "no plant", "a node's name", "two plants", "another scheme", "leaf", "empty", "large",
    ],
)  # fmt: skip
def test_i_02_what_is_not_a_ca(der: bytes):
    with pytest.raises(TrustError):
        read_ca(der)


# --- newcomers ------------------------------------------------------------------------------------


def test_a_newcomers_certificate_shows_a_key_and_names_nobody():
    der = self_signed(KEY, 0, NOW)
    assert read_key(der) == KEY.public
    with pytest.raises(TrustError):
        read_leaf(der)
    with pytest.raises(TrustError, match="Ed25519"):
        read_key(ROOT)
    with pytest.raises(TrustError):
        read_key(b"\x30\x00")


def test_a_request_shows_its_key():
    assert read_csr(make_csr(KEY)) == KEY.public


def test_a_request_signed_with_another_key_is_refused():
    request = bytearray(make_csr(KEY))
    at = bytes(request).index(KEY.public)
    request[at : at + 32] = SigningKey.generate(b"o" * 32).public
    with pytest.raises(TrustError):
        read_csr(bytes(request))


def test_a_request_for_another_kind_of_key_is_refused():
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    der = request.sign(ROOT_KEY, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(TrustError, match="Ed25519"):
        read_csr(der)


@pytest.mark.parametrize("der", [b"", LEAF, bytes(5000), make_csr(KEY)[:-1], make_csr(KEY) + b"\0"])
def test_what_is_not_a_request(der: bytes):
    with pytest.raises(TrustError):
        read_csr(der)


# --- from others ----------------------------------------------------------------------------------

Edits = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """`data` with some stretches replaced by other bytes."""
    for at, cut, put_there in edits:
        at %= len(data) + 1
        data = data[:at] + put_there + data[at + cut :]
    return data


def only_trust_errors(read: Callable[[bytes], object], data: bytes) -> None:
    try:
        read(data)
    except TrustError as error:
        assert str(error)  # noqa: PT017


@given(st.binary(max_size=300))
def test_random_bytes_raise_only_trust_errors(data: bytes):
    for read in (read_leaf, read_ca, read_key, read_csr):
        only_trust_errors(read, data)


@given(Edits)
def test_damaged_leaves_raise_only_trust_errors(edits: list[tuple[int, int, bytes]]):
    only_trust_errors(read_leaf, edited(LEAF, edits))
    only_trust_errors(read_key, edited(LEAF, edits))


@given(Edits)
def test_damaged_authorities_raise_only_trust_errors(edits: list[tuple[int, int, bytes]]):
    only_trust_errors(read_ca, edited(ROOT, edits))


@given(Edits)
def test_damaged_requests_raise_only_trust_errors(edits: list[tuple[int, int, bytes]]):
    only_trust_errors(read_csr, edited(make_csr(KEY), edits))


@given(st.integers(-(1 << 70), 1 << 70))
def test_any_time_can_be_held(time: int):
    held = fields.micros(fields.moment(time))
    assert held % 1_000_000 == 0
    if 0 <= time <= 253_402_300_799_999_999:
        assert 0 <= time - held < 1_000_000
