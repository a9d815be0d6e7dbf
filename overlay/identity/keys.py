"""Ed25519 identity keys and the P-256 keys of the certificate authorities (docs/protocol/README.md, I-02, I-06)."""

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey as _LibsodiumKey
from nacl.signing import VerifyKey as _LibsodiumPublic

from overlay.errors import FerruleError, TrustError


class SigningKey:
    """A node's private Ed25519 key.

    Signs with libsodium (twice as fast as OpenSSL); OpenSSL gets the same key for TLS, certificates and PEM.
    """

    __slots__ = ("_signer", "key_id", "private_key", "public")

    def __init__(self, private_key: ed25519.Ed25519PrivateKey) -> None:
        seed = private_key.private_bytes_raw()
        self.private_key = private_key
        self._signer = _LibsodiumKey(seed)
        self.public: bytes = bytes(self._signer.verify_key)
        """The raw public key, 32 bytes."""
        self.key_id: bytes = key_id(self.public)
        """SHA-256 of `public`, 32 bytes: how signatures and grants name this key (P-14)."""

    @classmethod
    def generate(cls, seed: bytes) -> "SigningKey":
        """The key of a 32-byte random seed.

        Raises:
            ValueError: the seed does not have 32 bytes.
        """
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, pem: bytes) -> "SigningKey":
        """Read what `to_pem` wrote.

        Raises:
            FerruleError: not an unencrypted Ed25519 private key in PEM.
        """
        key = _load(pem, None)
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise FerruleError("the private key is not an Ed25519 key")
        return cls(key)

    @property
    def seed(self) -> bytes:
        """The 32 bytes of which `generate` makes this key again, for another process of this node."""
        return self.private_key.private_bytes_raw()

    def to_pem(self) -> bytes:
        """PKCS #8 PEM without encryption; whoever writes it to disk gives it mode 0600 (I-06)."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `data`."""
        return self._signer.sign(data).signature

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id.hex()[:16]})"


def key_id(public: bytes) -> bytes:
    """SHA-256 of a raw public key, 32 bytes."""
    return hashlib.sha256(public).digest()


def verify(public: bytes, signature: bytes, data: bytes) -> None:
    """Check an Ed25519 signature (strict: canonical scalars, no key of small order).

    Raises:
        TrustError: the signature does not hold, or key or signature have the wrong size.
    """
    try:
        _LibsodiumPublic(public).verify(data, signature)
    except (CryptoError, ValueError, TypeError):
        raise TrustError("the signature does not hold") from None


def new_ca_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key for a certificate authority; OpenSSL draws it (ADR 0002)."""
    return ec.generate_private_key(ec.SECP256R1())


def ca_key_to_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """PKCS #8 PEM, encrypted when a password is given."""
    encryption: KeySerializationEncryption = (
        NoEncryption() if password is None else BestAvailableEncryption(password)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def ca_key_from_pem(pem: bytes, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read the key of a certificate authority.

    Raises:
        FerruleError: not PEM, a wrong or missing password, or not a key on P-256 or P-384.
    """
    key = _load(pem, password)
    if not is_ca_key(key):
        raise FerruleError("the key of the certificate authority must be on P-256 or P-384")
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  (is_ca_key says so)
    return key


def is_ca_key(key: object) -> bool:
    """Whether a private or public key may belong to a certificate authority (I-02)."""
    return isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1
    )


def _load(pem: bytes, password: bytes | None) -> object:
    try:
        return load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise FerruleError(
            "the private key cannot be read: it is damaged, or its password is missing or wrong"
        ) from None
