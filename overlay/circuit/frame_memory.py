"""Memory for large frames, used again as soon as they are acknowledged (docs/protocol/circuit.md, C-31). Pure.

New memory comes filled with zeros, page by page from the kernel: for a large frame that costs as much as sealing it.
"""

from sys import getrefcount

from overlay import limits

LARGE = limits.MAX_DATA // 2
"""Plaintext bytes from which on a frame is sealed into such memory: never more than twice as much as it needs."""
FREE = limits.MAX_WINDOW // limits.MAX_DATA
"""Pieces of memory that wait for frames, of one event loop: as many as one circuit may have on the way."""
_SIZE = limits.MAX_DATA + limits.TAG_SIZE + limits.SIGNATURE_SIZE
_UNUSED = 3
"""References to memory that `give` is given when nothing else has any: its caller's, its own, and `getrefcount`'s."""


class FrameMemory:
    """What the circuits of one event loop seal large frames into."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self) -> memoryview:
        """Room for the largest frame, with anything in it."""
        return memoryview(self._free.pop() if self._free else bytearray(_SIZE))

    def give(self, memory: object) -> None:
        """The frame in `memory` (`obj` of its payload) was acknowledged.

        What still refers to it is a link that the circuit has left with the frame half written: the bytes must stay as
        they are then, and the memory is not used again.
        """
        if not isinstance(memory, bytearray) or len(memory) != _SIZE:
            return  # not from here
        if getrefcount(memory) == _UNUSED and len(self._free) < FREE:
            self._free.append(memory)

    def rest(self) -> None:
        """Nobody has a frame on the way: what waits is given back."""
        self._free.clear()
