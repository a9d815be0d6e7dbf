"""Pipes through which large payloads pass without being seen (a small pool, never one for each link)."""

import fcntl
import os

SIZE = 1024 * 1024
POOL = 48
"""Pipes of one process; unprivileged users get 64 MiB of them in all."""
MOVE = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)
SUPPORTED = hasattr(os, "splice")


class Pipe:
    """Two descriptors, both non-blocking."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, SIZE)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Whatever it holds is gone."""
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """The pool. A pipe that was not emptied is never used again."""

    def __init__(self, most: int = POOL) -> None:
        self._most = most
        self._made = 0
        self._free: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe; None when there are no more."""
        if self._free:
            return self._free.pop()
        if self._made >= self._most:
            return None
        try:
            pipe = Pipe()
        except (
            OSError
        ):  # descriptors, or this user's pipe memory, are used up: go on with what there is
            self._most = self._made
            return None
        self._made += 1
        return pipe

    def give(self, pipe: Pipe, *, empty: bool) -> None:
        """Not needed any more."""
        if empty and self._made <= self._most:
            self._free.append(pipe)
        else:
            self._made -= 1
            pipe.close()

    def close(self) -> None:
        """Close what nobody uses, and what comes back later."""
        self._most = 0
        while self._free:
            self._made -= 1
            self._free.pop().close()


class Piped:
    """Part of a payload that lies in a pipe, `left` bytes. The pipe goes back with the last, or with this object."""

    __slots__ = ("_pipe", "_pipes", "left")

    def __init__(self, pipe: Pipe, left: int, pipes: Pipes) -> None:
        self.left = left
        self._pipe: Pipe | None = pipe
        self._pipes = pipes
        if not left:
            self._done()

    def __len__(self) -> int:
        return self.left

    def __del__(self) -> None:
        self._done()

    def splice(self, descriptor: int) -> None:
        """Move what is in the pipe into a socket, as much as it takes: until `left` is 0, or BlockingIOError.

        Raises:
            BlockingIOError: it takes no more now. OSError: the socket is broken.
        """
        while self.left and self._pipe is not None:
            count = os.splice(self._pipe.reader, descriptor, self.left, flags=MOVE)
            if not count:
                raise ConnectionResetError("nothing more can be written")
            self.left -= count
        self._done()

    def give_up(self) -> None:
        """The socket is broken: the rest is lost, and the pipe with it, lest it comes out before another frame."""
        self._done()
        self.left = 0

    def _done(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self._pipes.give(pipe, empty=not self.left)


def read_out(pipe: Pipe, size: int) -> bytes:
    """What is in a pipe, all of `size` bytes."""
    parts = []
    while size:
        parts.append(os.read(pipe.reader, size))
        size -= len(parts[-1])
    return b"".join(parts)
