"""MessagePack bodies and signed envelopes (docs/protocol/README.md, P-10 to P-14).

Bodies are MessagePack arrays with append-only fields. Signatures cover the bytes as transported, never a
re-encoding, because MessagePack is not canonical.
"""

from typing import TypeVar

import msgspec

from overlay.errors import DecodeError

T = TypeVar("T")
SIGNING_PREFIX = b"ferrule/1/"

_encoder = msgspec.msgpack.Encoder()


class Body(msgspec.Struct, array_like=True, frozen=True):
    """Base of every body: a MessagePack array, fields in order, new fields only at the end with a default."""


class Signed(Body, frozen=True):
    """Something that was signed.

    `type` is the label in the signature, `body` the signed bytes, `signer` the SHA-256 of the signer's raw Ed25519
    public key, `chain` the signer's DER certificates (leaf first) where the receiver may not know them, else empty.
    """

    type: str
    body: bytes
    signer: bytes
    signature: bytes
    chain: tuple[bytes, ...] = ()


def encode(body: object) -> bytes:
    """MessagePack of a body."""
    return _encoder.encode(body)


_decoders: dict[object, msgspec.msgpack.Decoder[object]] = {}


def decode(kind: type[T], data: bytes | bytearray | memoryview) -> T:
    """Read one body of class `kind`; nothing may follow it.

    Raises:
        DecodeError: not MessagePack, not this class, out of its bounds, or trailing bytes.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(data)  # type: ignore[return-value]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError) as error:
        raise DecodeError(f"not a valid {getattr(kind, '__name__', kind)}: {error}") from None


def signing_input(kind: str, plant: bytes, body: bytes) -> bytes:
    """What a signature covers: `ferrule/1/<type>`, a zero byte, the plant root's SHA-256, the body (P-12)."""
    return SIGNING_PREFIX + kind.encode() + b"\0" + plant + body
