"""The fields of certificates that Ferrule looks at, read strictly (docs/protocol/README.md, I-01 to I-04).

Everything here raises what `UNREADABLE` lists for bytes that cannot be read, and `TrustError` for what may not be.
"""

import warnings
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID

from overlay.errors import TrustError

MAX_CERTIFICATE = 4096
"""Largest certificate or request that is looked at, in bytes of DER."""
GENERATION_OID = x509.ObjectIdentifier("2.25.143720714779446220061523714885503892497")
"""The private extension with the enrolment generation (I-04): a DER INTEGER. An arc of a UUID needs no registry."""
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for bytes that are not what they should be."""


class FloorTime(int):
    """A time, in microseconds, that is only known to be over: nobody has told this node the time yet (A-20).

    Certificates are checked against it for their end and not for their beginning, so that a machine with a wrong clock
    is not locked out. Arithmetic gives plain numbers.
    """


_KNOWN_CRITICAL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799
"""The last second of the year 9999, which X.509 writes where there is no end."""


def load(der: bytes) -> x509.Certificate:
    """Parse one certificate of bounded size."""
    if len(der) > MAX_CERTIFICATE:
        raise TrustError(f"the certificate is larger than {MAX_CERTIFICATE} bytes")
    with warnings.catch_warnings():  # what the library only warns of is refused here
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        certificate = x509.load_der_x509_certificate(der)
        serial = certificate.serial_number
    if serial <= 0:
        raise TrustError("the certificate's serial number is not positive (RFC 5280 §4.1.2.2)")
    return certificate


def ed25519_key(holder: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The raw key (32 bytes) of a certificate or request, which must be Ed25519."""
    public = holder.public_key()
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise TrustError("the key is not an Ed25519 key")
    return public.public_bytes_raw()


def extensions(certificate: x509.Certificate) -> x509.Extensions:
    """All extensions; a critical one that nobody here looks at is refused (RFC 5280 §4.2)."""
    found = certificate.extensions
    for extension in found:
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            raise TrustError(f"unknown critical extension {extension.oid.dotted_string}")
    return found


def only_uri(found: x509.Extensions) -> str:
    """The one URI among the alternative names (I-01)."""
    alternatives = found.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = alternatives.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise TrustError(f"the certificate has {len(uris)} URI names, not one")
    return uris[0]


def generation(found: x509.Extensions) -> int:
    """The enrolment generation (I-04): a minimal DER INTEGER from 0 to below 2^63 in a non-critical extension."""
    extension = found.get_extension_for_oid(GENERATION_OID)
    raw = extension.value.public_bytes()
    number = int.from_bytes(raw[2:], "big", signed=True)
    if extension.critical or not 0 <= number < 1 << 63 or integer(number) != raw:
        raise TrustError("the certificate's generation is not a number")
    return number


def integer(value: int) -> bytes:
    """DER INTEGER of a number from 0 to below 2^63."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((2, len(content))) + content


def validity(certificate: x509.Certificate) -> tuple[int, int]:
    """First and last moment, in microseconds."""
    return (micros(certificate.not_valid_before_utc), micros(certificate.not_valid_after_utc))


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def moment(time: int) -> datetime:
    """A time in microseconds as the libraries want it: whole seconds, from 1970 to the end of 9999."""
    return _EPOCH + timedelta(seconds=max(0, min(time // 1_000_000, _LAST_SECOND)))


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough to show."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
