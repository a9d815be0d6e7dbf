"""From received bytes to frames, in a buffer that is as large as it has to be (docs/protocol/link.md, L-10 to L-15)."""

from typing import Protocol

from overlay import limits
from overlay.errors import DecodeError, TamperError
from overlay.wire.header import Header, Kind

Buffer = bytes | bytearray | memoryview

SMALL = 16 * 1024
"""Bytes of receive buffer of a link that is idle."""
LARGE = 1024 * 1024
"""Bytes of receive buffer of a link that is busy: several of the largest frames for one call of the system. No more is
read before they are handled, so this bounds the bytes of a link's turn (L-26)."""
_LARGEST = max(limits.MAX_PAYLOAD.values()) + limits.TAG_SIZE

_EMPTY = memoryview(b"")


class Opener(Protocol):
    """The receiving half of a record mode (`overlay.crypto.records`)."""

    @property
    def header_size(self) -> int:
        """Bytes of a header on the wire."""
        ...

    @property
    def clear(self) -> frozenset[Kind]:
        """Kinds whose payload needs no opening."""
        ...

    def open_header(self, raw: Buffer) -> Header:
        """Open the next header. Raises: TamperError, DecodeError."""
        ...

    def wire_length(self, header: Header) -> int:
        """Bytes of this frame's payload on the wire."""
        ...

    def open_payload(self, header: Header, raw: memoryview) -> Buffer:
        """Open the payload that follows. Raises: TamperError."""
        ...


class Reader:
    """Received bytes go into the memory of `buffer()`; after `received(count)`, `next()` gives frame after frame.

    A payload is a view into the buffer (or freshly opened bytes): it holds until the next call of `buffer` or `feed`.
    """

    __slots__ = (
        "_clear", "_end", "_filled", "_header", "_header_size", "_open_header", "_opener", "_size",
        "_start", "_view", "_wanted",
    )  # fmt: skip

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._clear = opener.clear
        self._open_header = opener.open_header
        self._header_size = opener.header_size
        self._header: Header | None = None
        self._wanted = opener.header_size
        self._start = 0
        self._end = 0
        self._filled = False
        self._size = SMALL
        self._view = memoryview(bytearray(SMALL))

    @property
    def waiting(self) -> int:
        """Bytes that were received and are not part of a frame yet."""
        return self._end - self._start

    @property
    def awaited(self) -> Header | None:
        """The header of a frame whose payload has not come yet, or not all of it."""
        return self._header

    @property
    def missing(self) -> int:
        """Bytes without which `next` has nothing to give."""
        return self._wanted - (self._end - self._start)

    def skip(self) -> bytes:
        """What has come of the awaited payload. Its rest will not come through here: the next byte begins a frame."""
        begun = bytes(self._view[self._start : self._end])
        self._header = None
        self._wanted = self._header_size
        self._start = self._end = 0
        return begun

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._start == self._end:
            self._start = self._end = 0
        missing = self._wanted - (self._end - self._start)
        if self._filled or missing > self._size - self._end:
            self._make_room(LARGE if self._filled or self._wanted > SMALL else self._size)
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were written to what `buffer()` gave."""
        self._end += count
        self._filled = self._end == self._size

    def feed(self, data: Buffer) -> None:
        """Append bytes that were received elsewhere (after a handshake, out of TLS)."""
        size = len(data)
        if self._start == self._end:
            self._start = self._end = 0
        if size > self._size - self._end:
            self._make_room(max(self._size, (self._end - self._start) + size))
        self._view[self._end : self._end + size] = data
        self._end += size

    def next(self) -> tuple[Header, memoryview] | None:
        """The next whole frame, or None until more has come.

        Raises:
            TamperError: a record fails to authenticate or holds an invalid header (L-15); the link must end.
        """
        header = self._header
        start = self._start
        behind = start + self._wanted
        if behind > self._end:
            return None
        if header is None:
            try:
                header = self._open_header(self._view[start:behind])
            except DecodeError as error:
                raise TamperError(f"an authentic record is no frame: {error}") from None
            if header.kind in self._clear:
                wanted = header.length
            else:
                wanted = self._opener.wire_length(header)
            self._start = start = behind
            behind = start + wanted
            if behind > self._end:
                self._wanted = wanted
                self._header = header
                return None
        self._header = None
        self._start = behind
        self._wanted = self._header_size
        if start == behind:
            return header, _EMPTY
        raw = self._view[start:behind]
        if header.kind in self._clear:
            return header, raw
        payload = self._opener.open_payload(header, raw)
        return header, payload if isinstance(payload, memoryview) else memoryview(payload)

    def rest(self) -> None:
        """Give the large buffer back; for a link that has gone quiet."""
        if self._start == self._end and self._size > SMALL and self._wanted <= SMALL:
            self._size = SMALL
            self._start = self._end = 0
            self._view = memoryview(bytearray(SMALL))

    def _make_room(self, size: int) -> None:
        """Move what is waiting to the front, into a larger buffer where it does not suffice."""
        waiting = self._end - self._start
        size = max(size, min(self._wanted, _LARGEST), waiting + 1)
        if size > self._size:
            larger = memoryview(bytearray(size))
            larger[:waiting] = self._view[self._start : self._end]
            self._view = larger
            self._size = size
        elif self._start:
            self._view[:waiting] = self._view[self._start : self._end]
        self._start, self._end = 0, waiting
        self._filled = False
