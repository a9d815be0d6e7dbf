"""Who signs and who is believed in one direction of a circuit (docs/protocol/circuit.md, C-40 to C-44)."""

from typing import NamedTuple

from overlay.crypto.checkpoint import (
    Buffer,
    Checkpoint,
    RunningHash,
    check_received,
    sign_checkpoint,
    sign_frame,
    verify_frame,
)
from overlay.identity.keys import SigningKey


class Signing(NamedTuple):
    """The sender's side of a direction. `plant` is the SHA-256 of the plant's root."""

    key: SigningKey
    plant: bytes
    circuit: bytes
    direction: int

    def checkpoint(self, running: RunningHash) -> Checkpoint:
        """Over all that was sent."""
        return sign_checkpoint(running, self.key, self.plant, self.circuit, self.direction)

    def frame(self, sequence: int, sealed: Buffer) -> bytes:
        """64 bytes over one frame (strict integrity)."""
        return sign_frame(self.key, self.plant, self.circuit, self.direction, sequence, sealed)


class Verifying(NamedTuple):
    """The receiver's side; `public` is the other end's raw key."""

    public: bytes
    plant: bytes
    circuit: bytes
    direction: int

    def checkpoint(self, checkpoint: Checkpoint, running: RunningHash) -> None:
        """Raises: TamperError: not signed by the other end, or not about what came."""
        check_received(checkpoint, running, self.public, self.plant, self.circuit, self.direction)

    def frame(self, sequence: int, sealed: Buffer, signature: Buffer) -> None:
        """Raises: TamperError: the signature does not hold."""
        verify_frame(
            self.public,
            bytes(signature),
            self.plant,
            self.circuit,
            self.direction,
            sequence,
            sealed,
        )
