"""HKDF with SHA-256 (RFC 5869), as far as a circuit needs it: 32 bytes, which is one block (C-11, C-12, C-23)."""

import hmac

_NEXT = b"ferrule/1/next"


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (§2.2), 32 bytes."""
    return hmac.digest(salt, secret, "sha256")


def expand(prk: bytes, info: bytes) -> bytes:
    """HKDF-Expand (§2.3) to 32 bytes."""
    return hmac.digest(prk, info + b"\x01", "sha256")


def next_key(key: bytes) -> bytes:
    """The key after this one; there is no way back (C-23)."""
    return expand(key, _NEXT)
