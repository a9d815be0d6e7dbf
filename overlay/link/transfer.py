"""A large payload on its way from a socket into a pipe: what has come, and where it lies. Pure.

::

    [ before: came together with the header | piped: in the pipe | after: came when the pipe was full ]

A pipe holds so many segments, not so many bytes: one that is full early takes nothing more of this payload, and the
rest is received into memory. A splice may move less than asked, or nothing although the socket was said to be readable.
"""


class Transfer:
    """The payload of one frame. `length` and `before` are what the header says and what came along with it.

    `left` is what has not come yet, `piped` what is in the pipe, `began` when the header came.
    """

    __slots__ = ("after", "before", "began", "buffering", "left", "piped")

    def __init__(self, length: int, before: bytes, now: float) -> None:
        if len(before) > length:
            raise ValueError("more came than the payload is long")
        self.before = before
        self.piped = 0
        self.after = bytearray()
        self.left = length - len(before)
        self.buffering = False
        """The pipe gets nothing more."""
        self.began = now

    def moved(self, count: int) -> None:
        """`count` bytes went into the pipe."""
        if self.buffering or not 0 < count <= self.left:
            raise ValueError("not what was asked for")
        self.piped += count
        self.left -= count

    def refused(self) -> None:
        """The socket was said to have bytes and the pipe took none: it is full, or gone."""
        self.buffering = True

    def came(self, data: memoryview) -> None:
        """These bytes were received into memory."""
        if not self.buffering or not 0 < len(data) <= self.left:
            raise ValueError("not what was asked for")
        self.after += data
        self.left -= len(data)

    def unpiped(self, data: bytes) -> None:
        """What was in the pipe was read out again; the pipe is free for others."""
        if len(data) != self.piped:
            raise ValueError("a pipe gives back what was put into it")
        self.before += data
        self.piped = 0
        self.buffering = True
