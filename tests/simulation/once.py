"""What all nodes of a process compute alike is computed once: no seed takes another way by it.

Each node checks the same grants and authorities, and each plant begins with the same keys, of which the product keeps what is dear
(`overlay.crypto.handshake`) for as long as it is the same object.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from unittest.mock import patch

from nacl.signing import VerifyKey

from overlay.identity import keys
from overlay.identity.keys import SigningKey

SIGNATURES, KEYS = 4096, 64
"""How many are remembered."""

read_key = lru_cache(KEYS)(SigningKey.from_pem)


@lru_cache(SIGNATURES)
def _holds(public: bytes, data: bytes, signature: bytes) -> None:
    """Raises what libsodium does, each time anew, where it does not."""
    VerifyKey(public).verify(data, signature)


class _Public:
    """The part of `VerifyKey` that `keys.verify` needs."""

    def __init__(self, public: bytes) -> None:
        self._public = bytes(public)

    def verify(self, data: bytes, signature: bytes) -> None:
        _holds(self._public, bytes(data), bytes(signature))


@contextmanager
def once() -> Iterator[None]:
    """While plants run."""
    with (
        patch.object(keys, "_LibsodiumPublic", _Public),
        patch.object(SigningKey, "from_pem", read_key),
    ):
        yield
