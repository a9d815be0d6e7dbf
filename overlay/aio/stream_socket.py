"""One TCP connection behind the seam: an own non-blocking socket on the running loop, no transport, no copies."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from time import monotonic

from overlay.aio.world import Buffer, Receiver

Address = tuple[str, int]

_PARTS_PER_CALL = 512  # below IOV_MAX (1024), above what one turn of a link gathers
_RESET = struct.pack("ii", 1, 0)
_ZERO = bytes(4)


class SocketConnection:
    """A `Connection` on a TCP (or Unix) stream socket."""

    clock = staticmethod(monotonic)

    def __init__(self, sock: socket.socket, peer: Address) -> None:
        sock.settimeout(0)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._reading = False
        self._paused = False
        self._ended = False
        self._waiting = False
        self._gone = False
        self._told = False
        """The receiver knows that it is gone."""
        self._error: OSError | None = None
        self._telling: asyncio.Handle | None = None
        self._instead: Callable[[], None] | None = None

    @property
    def peer(self) -> Address:
        return self._peer

    def arrived(self, most: int) -> bytes:
        if self._gone:
            return b""
        try:
            return self._sock.recv(most)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            self._close(error)
            return b""

    def start(self, receiver: Receiver) -> None:
        if self._told:
            return
        first = self._receiver is None
        self._receiver = receiver
        if self._gone:
            if first:
                self._telling = self._loop.call_soon(self._tell_lost)
        else:
            self._listen()

    def write(self, parts: Sequence[Buffer], *, more: bool = False) -> int:
        """See `Connection`. `more`: other bytes follow at once, so a short segment need not leave alone."""
        if self._gone:
            return sum(map(len, parts))
        sent = 0
        try:
            if len(parts) == 1 and not more:
                sent = self._sock.send(parts[0])
                wanted = len(parts[0])
            elif len(parts) <= _PARTS_PER_CALL:
                sent = self._sock.sendmsg(parts, (), socket.MSG_MORE if more else 0)
                wanted = sum(map(len, parts))
            else:
                wanted = sum(map(len, parts))
                for first in range(0, len(parts), _PARTS_PER_CALL):
                    some = parts[first : first + _PARTS_PER_CALL]
                    taken = self._sock.sendmsg(some)
                    sent += taken
                    if taken < sum(map(len, some)):
                        break
        except (BlockingIOError, InterruptedError):
            wanted = sent + 1
        except OSError as error:
            self._close(error)
            return sum(map(len, parts))
        if sent < wanted:
            self.notify()
        return sent

    def notify(self) -> None:
        """Call the receiver's `writable` when more can be written."""
        if not self._waiting and not self._gone:
            self._waiting = True
            self._loop.add_writer(self._fd, self._writable)

    def pause(self) -> None:
        self._paused = True
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        self._paused = False
        self._listen()

    def end(self) -> None:
        if not self._gone:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._close(error)

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        if not self._gone:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close(None)

    def release(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._waiting:
            self._loop.remove_writer(self._fd)
        if self._telling is not None:
            self._telling.cancel()

    def settle(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._telling is not None:
            self._telling = self._loop.call_soon(self._tell_lost)
        if self._waiting:
            self._loop.add_writer(self._fd, self._writable)
        self._listen()

    def hold(self, unsent: int) -> None:
        if self._sock.family != socket.AF_UNIX and not self._gone:
            with contextlib.suppress(OSError):  # a kernel without it: its buffer is the limit
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)

    def unacknowledged(self) -> int:
        if self._gone or self._sock.family == socket.AF_UNIX:
            return 0
        try:
            answer = fcntl.ioctl(self._fd, termios.TIOCOUTQ, _ZERO)
        except OSError:  # it is being reset
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def take_over(self, readable: Callable[[], None] | None) -> None:
        """Call this instead of reading into the receiver's memory; None: read again."""
        self._instead = readable

    def fail(self, error: OSError) -> None:
        """Whoever reads or writes by `fileno` found the connection broken."""
        self._close(error)

    def fileno(self) -> int:
        return -1 if self._gone else self._fd

    def _listen(self) -> None:
        idle = self._reading or self._paused or self._ended or self._gone
        if not idle and self._receiver is not None:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        receiver = self._receiver
        if receiver is None or not self._reading:
            return  # the event was already on its way when reading stopped
        if self._instead is not None:
            self._instead()
            return
        try:
            count = self._sock.recv_into(receiver.buffer())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close(error)
            return
        if count:
            receiver.received(count)
        else:
            self._ended = True
            self._reading = False
            self._loop.remove_reader(self._fd)
            receiver.ended()

    def _writable(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)
            if self._receiver is not None:
                self._receiver.writable()

    def _close(self, error: OSError | None) -> None:
        """Close now; the receiver hears of it in a turn of its own, so that no caller is re-entered."""
        if self._gone:
            return
        self._gone = True
        self._error = error
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)
        self._sock.close()
        if self._receiver is not None:
            self._telling = self._loop.call_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        self._telling = None
        # Each would keep the other from being freed.
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._told = True
            receiver.lost(self._error)
