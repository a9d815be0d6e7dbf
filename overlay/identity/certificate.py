"""X.509: who a certificate names, and how certificates and requests are made (docs/protocol/README.md, I-01 to I-04).

Times are microseconds since 1970, plant time; certificates hold whole seconds, rounded down. All certificates are DER.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from overlay.errors import TrustError
from overlay.identity import fields
from overlay.identity.fields import UNREADABLE
from overlay.identity.keys import SigningKey, is_ca_key, key_id

_SCHEME = "spiffe://"
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_NO_KEY_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


class Role(StrEnum):
    """What a node is; part of its identity."""

    CONTROLLER = "controller"
    ROUTER = "router"
    EDGE = "edge"


class Identity(NamedTuple):
    """Plant, role and name, each a NAME in lower case (letters, digits, hyphens, at most 63)."""

    plant: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """`spiffe://<plant>/<role>/<name>` (I-01)."""
        return f"{_SCHEME}{self.plant}/{self.role.value}/{self.name}"


@dataclass(frozen=True)
class Leaf:
    """What a leaf certificate says. Only `overlay.identity.trust` says whether it is true.

    `public` is the raw Ed25519 key (32 bytes), `key_id` its SHA-256, `fingerprint` the SHA-256 of `der`.
    """

    identity: Identity
    generation: int
    public: bytes
    key_id: bytes
    not_before: int
    not_after: int
    der: bytes
    fingerprint: bytes

    def valid_at(self, now: int) -> bool:
        """Whether `now` lies in the validity, both ends included; of a `FloorTime` only whether the end has come."""
        begun = isinstance(now, fields.FloorTime) or self.not_before <= now
        return begun and now <= self.not_after


class CaCertificate(NamedTuple):
    """What a CA certificate says: plant (from its URI SAN), validity, the parsed certificate."""

    plant: str
    not_before: int
    not_after: int
    certificate: x509.Certificate


def is_name(text: str) -> bool:
    """Whether a text is a NAME in the form that certificates hold."""
    return _NAME.fullmatch(text) is not None


# --- reading ----------------------------------------------------------------------------------------


def read_leaf(der: bytes) -> Leaf:
    """Read a leaf certificate and check what it says by itself (I-01, I-02, I-04), not who signed it.

    Raises:
        TrustError: not a certificate, not a leaf of the form that I-01, I-02 and I-04 ask for.
    """
    try:
        certificate = fields.load(der)
        public = fields.ed25519_key(certificate)
        found = fields.extensions(certificate)
        if found.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise TrustError("the certificate is a CA's, not a node's")
        usage = found.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
            raise TrustError("the certificate's key usage is not digital signature")
        purposes = set(found.get_extension_for_class(x509.ExtendedKeyUsage).value)
        if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH} <= purposes:
            raise TrustError("the certificate is not for both clients and servers")
        identity = _identity(fields.only_uri(found))
        generation = fields.generation(found)
        not_before, not_after = fields.validity(certificate)
    except UNREADABLE as error:
        raise TrustError(f"not a node's certificate: {fields.first_line(error)}") from None
    return Leaf(
        identity, generation, public, key_id(public), not_before, not_after, der,
        hashlib.sha256(der).digest(),
    )  # fmt: skip


def read_ca(der: bytes) -> CaCertificate:
    """Read the certificate of a root or issuing CA and check what it says by itself (I-02), not who signed it.

    Raises:
        TrustError: not the certificate of a CA with a key on P-256 or P-384, or without the plant's name.
    """
    try:
        certificate = fields.load(der)
        if not is_ca_key(certificate.public_key()):
            raise TrustError("a CA's key must be on P-256 or P-384")
        found = fields.extensions(certificate)
        constraints = found.get_extension_for_class(x509.BasicConstraints)
        if not (constraints.critical and constraints.value.ca):
            raise TrustError("the certificate is not a CA's")
        if not found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            raise TrustError("the CA's certificate may not sign certificates")
        uri = fields.only_uri(found)
        plant = uri.removeprefix(_SCHEME)
        if not uri.startswith(_SCHEME) or not is_name(plant):
            raise TrustError("the CA's certificate does not name a plant")
        not_before, not_after = fields.validity(certificate)
    except UNREADABLE as error:
        raise TrustError(f"not a CA's certificate: {fields.first_line(error)}") from None
    return CaCertificate(plant, not_before, not_after, certificate)


def read_key(der: bytes) -> bytes:
    """The raw Ed25519 key of any certificate: all that is believed of a newcomer's self-signed one (E-03).

    Raises:
        TrustError: not a certificate with an Ed25519 key.
    """
    try:
        return fields.ed25519_key(fields.load(der))
    except UNREADABLE as error:
        raise TrustError(f"not a certificate: {fields.first_line(error)}") from None


def check_issued(der: bytes, issuer: x509.Certificate) -> None:
    """Check that `issuer` signed the certificate (and that the names chain).

    Raises:
        TrustError: it did not.
    """
    try:
        fields.load(der).verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        raise TrustError("the certificate was not signed by the CA that comes with it") from None


def read_csr(der: bytes) -> bytes:
    """The raw Ed25519 key that a PKCS #10 request asks a certificate for; nothing else in it is believed.

    Raises:
        TrustError: not a request, not an Ed25519 key, or not signed with that key.
    """
    try:
        if len(der) > fields.MAX_CERTIFICATE:
            raise TrustError(f"the request is larger than {fields.MAX_CERTIFICATE} bytes")
        request = x509.load_der_x509_csr(der)
        if not request.is_signature_valid:
            raise TrustError("the request is not signed with its own key")
        return fields.ed25519_key(request)
    except (*UNREADABLE, InvalidSignature) as error:
        raise TrustError(f"not a certificate request: {fields.first_line(error)}") from None


def _identity(uri: str) -> Identity:
    parts = uri.removeprefix(_SCHEME).split("/")
    if not uri.startswith(_SCHEME) or len(parts) != 3:
        raise TrustError("the certificate's URI is not spiffe://<plant>/<role>/<name>")
    plant, role, name = parts
    if role not in frozenset(Role):
        raise TrustError("the certificate's role is unknown")
    if not is_name(plant) or not is_name(name):
        raise TrustError("the certificate's plant or name is not a valid name")
    return Identity(plant, Role(role), name)


# --- making -----------------------------------------------------------------------------------------


def make_root(
    plant: str, key: ec.EllipticCurvePrivateKey, not_before: int, not_after: int
) -> bytes:
    """The plant's root: self-signed, DER.

    Raises:
        ValueError: the plant is not a NAME in lower case.
    """
    subject = _subject(f"{plant} root")
    public = key.public_key()
    builder = _builder(subject, subject, public, _serial(public), not_before, not_after)
    return _finish_ca(builder, plant, 1, key, public)


def make_issuing(
    root: bytes,
    root_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey,
    not_before: int,
    not_after: int,
) -> bytes:
    """The certificate of an issuing CA for `key`, signed by the root, DER.

    Raises:
        TrustError: `root` is not a root certificate.
    """
    ca = read_ca(root)
    public = key if isinstance(key, ec.EllipticCurvePublicKey) else key.public_key()
    builder = _builder(
        _subject(f"{ca.plant} issuing"), ca.certificate.subject, public,
        _serial(public), not_before, not_after,
    )  # fmt: skip
    return _finish_ca(builder, ca.plant, 0, root_key, root_key.public_key())


def issue_leaf(
    issuer: bytes,
    issuer_key: ec.EllipticCurvePrivateKey,
    public: bytes,
    identity: Identity,
    generation: int,
    not_before: int,
    not_after: int,
    serial: int,
) -> bytes:
    """A node's certificate for its raw Ed25519 key, DER (I-01, I-02, I-04).

    Args:
        serial: unpredictable, 1 to below 2^159, never used twice by this issuer.

    Raises:
        TrustError: `issuer` is not the certificate of a CA.
        ValueError: a name, the generation, the serial number or the key is not valid.
    """
    if not is_name(identity.name):
        raise ValueError(f"not a valid name: {identity.name}")
    if not 0 <= generation < 1 << 63:
        raise ValueError("the generation is out of range")
    ca = read_ca(issuer)
    if identity.plant != ca.plant:
        raise ValueError("the issuing CA is another plant's")
    builder = (
        _builder(
            x509.Name([]),
            ca.certificate.subject,
            ed25519.Ed25519PublicKey.from_public_bytes(public),
            serial,
            not_before,
            not_after,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            critical=False,
        )
        # RFC 5280 §4.2.1.6: critical, since the subject is empty.
        .add_extension(_alternative(identity.uri), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(fields.GENERATION_OID, fields.integer(generation)),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def self_signed(key: SigningKey, not_before: int, not_after: int) -> bytes:
    """The certificate with which a newcomer shows its key before it has an identity (E-03, E-07); it names nobody."""
    subject = _subject("ferrule newcomer")
    public = key.private_key.public_key()
    builder = _builder(subject, subject, public, _serial(public), not_before, not_after)
    return (
        builder.add_extension(_usage("digital_signature"), critical=True)
        .sign(key.private_key, None)
        .public_bytes(Encoding.DER)
    )


def make_csr(key: SigningKey) -> bytes:
    """A PKCS #10 request for a certificate of this key, DER; the controller knows the name by itself."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key.private_key, None).public_bytes(Encoding.DER)


_PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: _PublicKey,
    serial: int,
    not_before: int,
    not_after: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(fields.moment(not_before))
        .not_valid_after(fields.moment(not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _finish_ca(
    builder: x509.CertificateBuilder,
    plant: str,
    below: int,
    signer: ec.EllipticCurvePrivateKey,
    signer_public: ec.EllipticCurvePublicKey,
) -> bytes:
    """`below` is how many further CAs may stand between this one and a leaf."""
    if not is_name(plant):
        raise ValueError(f"not a valid plant name: {plant}")
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(_alternative(_SCHEME + plant), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_public), critical=False
        )
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def _alternative(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**(_NO_KEY_USAGE | dict.fromkeys(names, True)))


def _subject(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _serial(public: _PublicKey) -> int:
    """A serial number from the key: a root or issuing CA of another key never has the same."""
    return int.from_bytes(x509.SubjectKeyIdentifier.from_public_key(public).digest[:16], "big") | 1
