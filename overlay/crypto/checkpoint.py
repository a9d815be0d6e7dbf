"""Signed statements about what was sent: running hash, checkpoints, and single frames (C-40 to C-44).

A checkpoint in normal integrity proves count, order and size of what a side sent; it does not bind content against a
receiver that lies, since AES-GCM does not commit to its key (C-43). Strict integrity signs the ciphertext itself.
"""

import hashlib
import struct
from dataclasses import dataclass

from blake3 import blake3

from overlay.errors import DecodeError, TamperError, TrustError
from overlay.identity.keys import SigningKey, verify
from overlay.wire.codec import signing_input

Buffer = bytes | bytearray | memoryview
CALLER = 0
"""Direction: from the caller to the host."""
HOST = 1
"""Direction: from the host to the caller."""
CHECKPOINT_SIZE = 112

_LAYOUT = struct.Struct("!QQ32s64s")
_STATEMENT = struct.Struct("!16sBQQ32s")
_FRAME = struct.Struct("!16sBQ32s")


Raw = bytes  # `Checkpoint` has an attribute of that name


@dataclass(frozen=True)
class Checkpoint:
    """`frames` DATA frames with `bytes` plain bytes went in one direction; `digest` is their hash (32 bytes)."""

    frames: int
    bytes: int
    digest: Raw
    signature: Raw

    def encode(self) -> Raw:
        """112 bytes: `frames 8 | bytes 8 | hash 32 | signature 64` (C-40)."""
        return _LAYOUT.pack(self.frames, self.bytes, self.digest, self.signature)


def decode_checkpoint(data: Buffer) -> Checkpoint:
    """Read a CHECKPOINT's plain bytes, or the first 112 of a CLOSE's.

    Raises:
        DecodeError: not 112 bytes.
    """
    if len(data) != CHECKPOINT_SIZE:
        raise DecodeError(f"a checkpoint has {CHECKPOINT_SIZE} bytes, not {len(data)}")
    return Checkpoint(*_LAYOUT.unpack(data))


class RunningHash:
    """One direction's hash over its DATA frames in order: per frame the 14 end-to-end bytes and the tag (C-40)."""

    __slots__ = ("_hash", "frames", "size")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.frames = 0
        self.size = 0
        """Plain bytes of the frames."""

    def add(self, fields: bytes, tag: Buffer, size: int) -> None:
        """Count one frame: the 14 bytes of C-21, the 16-byte AEAD tag, the number of plain bytes."""
        self._hash.update(fields)
        self._hash.update(tag)
        self.frames += 1
        self.size += size

    def digest(self) -> bytes:
        """The hash up to here, 32 bytes."""
        return self._hash.digest()


def sign_checkpoint(
    running: RunningHash, key: SigningKey, plant: bytes, circuit: bytes, direction: int
) -> Checkpoint:
    """The sender's checkpoint now.

    Args:
        running: what was sent so far.
        key: the sender's identity key.
        plant: SHA-256 of the plant's root (`Anchor.digest`).
        circuit: the circuit's id, 16 bytes.
        direction: `CALLER` or `HOST`.
    """
    digest = running.digest()
    statement = _STATEMENT.pack(circuit, direction, running.frames, running.size, digest)
    signature = key.sign(signing_input("checkpoint", plant, statement))
    return Checkpoint(running.frames, running.size, digest, signature)


def verify_checkpoint(
    checkpoint: Checkpoint, public: bytes, plant: bytes, circuit: bytes, direction: int
) -> None:
    """Check the signature of a checkpoint, for example from a receipt.

    Raises:
        TamperError: it does not hold for this key, circuit and direction.
    """
    statement = _STATEMENT.pack(
        circuit, direction, checkpoint.frames, checkpoint.bytes, checkpoint.digest
    )
    try:
        verify(public, checkpoint.signature, signing_input("checkpoint", plant, statement))
    except TrustError:
        raise TamperError("the checkpoint's signature does not hold") from None


def check_received(
    checkpoint: Checkpoint,
    running: RunningHash,
    public: bytes,
    plant: bytes,
    circuit: bytes,
    direction: int,
) -> None:
    """A receiver's check: signed by the other end, and true of what came (C-42).

    Raises:
        TamperError: one of both is not so; the circuit ends.
    """
    if (checkpoint.frames, checkpoint.bytes) != (running.frames, running.size):
        raise TamperError(
            f"the checkpoint counts {checkpoint.frames} frames and {checkpoint.bytes} bytes, "
            f"{running.frames} and {running.size} came"
        )
    if checkpoint.digest != running.digest():
        raise TamperError("the checkpoint's hash is not that of the frames that came")
    verify_checkpoint(checkpoint, public, plant, circuit, direction)


def sign_frame(
    key: SigningKey, plant: bytes, circuit: bytes, direction: int, sequence: int, sealed: Buffer
) -> bytes:
    """The 64-byte signature over one frame's ciphertext and tag and its place (C-44)."""
    return key.sign(_frame(plant, circuit, direction, sequence, sealed))


def verify_frame(
    public: bytes,
    signature: bytes,
    plant: bytes,
    circuit: bytes,
    direction: int,
    sequence: int,
    sealed: Buffer,
) -> None:
    """Check it, before a byte of the frame is delivered.

    Raises:
        TamperError: the signature does not hold for this frame in this place.
    """
    try:
        verify(public, signature, _frame(plant, circuit, direction, sequence, sealed))
    except TrustError:
        raise TamperError(f"the signature of frame {sequence} does not hold") from None


def _frame(plant: bytes, circuit: bytes, direction: int, sequence: int, sealed: Buffer) -> bytes:
    place = _FRAME.pack(circuit, direction, sequence, blake3(sealed).digest())
    return signing_input("frame", plant, place)
