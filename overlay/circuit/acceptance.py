"""ACCEPT of a later circuit, which waits a moment for READY and the first answer (docs/protocol/circuit.md, C-14)."""

from overlay.circuit.frames import Frame
from overlay.wire.bodies import Accept
from overlay.wire.codec import encode
from overlay.wire.header import Kind

FIRST_ANSWER = 4096
"""Bytes of DATA that go along with ACCEPT at most: beyond that sealing them on each hop costs more than a frame."""


class Acceptance:
    """What the host says on OPEN, decided when it is first said and the same ever after (C-15).

    `random` is the host's, 32 bytes. `due`: it waits for nothing, as where there was no early data: then the caller can
    say nothing before it has keys. `payload`: what was said already.
    """

    __slots__ = ("_has_ready", "due", "gone", "payload", "random")

    def __init__(self, random: bytes, *, due: bool, payload: bytes = b"") -> None:
        self.random = random
        self.due = due
        self.payload = payload
        """As it was said; empty until then."""
        self._has_ready = False
        self.gone = False
        """It is not kept any more: nobody who may ask for it lacks it."""

    def waits(self, out: list[Frame]) -> bool:
        """Whether more should come before it is said together with these frames."""
        if self.due or self.payload:
            return False
        return not out or (len(out) == 1 and out[0].kind is Kind.READY)

    def with_frames(self, out: list[Frame]) -> tuple[list[Frame], bool]:
        """These frames with ACCEPT before them, which holds what may go along; True where that is READY."""
        ready = data = b""
        if not self.payload and out and out[0].kind is Kind.READY:
            ready, out = bytes(out[0].payload), out[1:]
            first = out[0] if out else None
            if first is not None and _goes_along(first):
                data, out = bytes(first.payload), out[1:]
        return [Frame(Kind.ACCEPT, 0, 0, self.said(ready, data)), *out], bool(ready)

    def arrived(self) -> None:
        """The caller has it. With READY in it no caller asks for it again (C-17), and it may be large: let it go."""
        if self._has_ready:
            self.gone, self.payload = True, b""

    def said(self, ready: bytes = b"", data: bytes = b"") -> bytes:
        """The payload, from now on for good."""
        if self.gone:
            raise AssertionError("an ACCEPT that is not kept any more cannot be said again")
        if not self.payload:
            self._has_ready = bool(ready)
            self.payload = encode(Accept(self.random, b"", ready, data))
        return self.payload


def _goes_along(frame: Frame) -> bool:
    return (
        frame.kind is Kind.DATA
        and not (frame.flags or frame.sequence)
        and len(frame.payload) <= FIRST_ANSWER
    )
