"""Frames of a running circuit: the fixed layouts of CREDIT and CLOSE, and what the core hands to its driver.

::

    CREDIT      sealed (ack 8 | limit 8), tag 16, then the grant (flag GRANT) or the TLS flight (flag FLIGHT)
    CHECKPOINT  sealed (frames 8 | bytes 8 | hash 32 | signature 64), tag 16
    CLOSE       sealed (a checkpoint 112 | ack 8 | code 1 | reason), tag 16
"""

import struct
from typing import NamedTuple

from overlay import limits
from overlay.crypto.checkpoint import CHECKPOINT_SIZE, Checkpoint, decode_checkpoint
from overlay.errors import Code, DecodeError
from overlay.wire.header import Kind

Buffer = bytes | bytearray | memoryview

_CREDIT = struct.Struct("!QQ")
_ACK = struct.Struct("!Q")
CREDIT_SIZE = _CREDIT.size + limits.TAG_SIZE
MAX_REASON = 200
"""Bytes of a reason in CLOSE; longer ones are cut."""


class Frame(NamedTuple):
    """A frame to be sent on the circuit's hop: all of the header but the link-local number.

    The payload never changes after it was made, since it may be sent again.
    """

    kind: Kind
    flags: int
    sequence: int
    payload: Buffer


class Closing(NamedTuple):
    """What CLOSE says; `ack` as in CREDIT."""

    checkpoint: Checkpoint
    ack: int
    code: Code
    reason: str


def encode_credit(ack: int, limit: int) -> bytes:
    """Plaintext of CREDIT, 16 bytes (C-30)."""
    return _CREDIT.pack(ack, limit)


def decode_credit(raw: Buffer) -> tuple[int, int]:
    """(ack, limit).

    Raises:
        DecodeError: not 16 bytes.
    """
    if len(raw) != _CREDIT.size:
        raise DecodeError(f"a credit has {_CREDIT.size} bytes, not {len(raw)}")
    ack, limit = _CREDIT.unpack(raw)
    return ack, limit


def encode_close(checkpoint: Checkpoint, ack: int, code: Code, reason: str) -> bytes:
    """Plaintext of CLOSE (C-41); the reason is cut to `MAX_REASON` bytes."""
    text = reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()
    return checkpoint.encode() + _ACK.pack(ack) + bytes((code,)) + text


def decode_close(raw: Buffer) -> Closing:
    """Read CLOSE.

    Raises:
        DecodeError: too short or too long, an unknown code, or not UTF-8.
    """
    view = memoryview(raw)
    tail = view[CHECKPOINT_SIZE + _ACK.size :]
    if not 1 <= len(tail) <= 1 + MAX_REASON:
        raise DecodeError(f"a CLOSE does not have {len(view)} bytes")
    try:
        code, reason = Code(tail[0]), str(tail[1:], "utf-8")
    except ValueError as error:
        raise DecodeError(f"not a valid CLOSE: {error}") from None
    (ack,) = _ACK.unpack_from(view, CHECKPOINT_SIZE)
    return Closing(decode_checkpoint(view[:CHECKPOINT_SIZE]), ack, code, reason)
