"""What stands at both ends of a circuit in system tests: an asset that echoes and a caller on a listener."""

import contextlib
import selectors
import socket
import threading
import time
from typing import Self


class Echo:
    """An asset on loopback that sends back what it gets, over TCP or UDP; use as a context manager.

    `connections` counts who came, `received` is all that arrived, in order of arrival.
    """

    def __init__(self, host: str = "127.0.0.1", *, udp: bool = False, port: int = 0) -> None:
        self.udp = udp
        self.connections = 0
        self.received = bytearray()
        self.datagrams: list[bytes] = []
        if udp:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind((host, port))
        else:
            self._socket = socket.create_server((host, port), backlog=256)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._ends: dict[socket.socket, bytearray] = {}
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"echo {self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        self._stopped.close()
        self._socket.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stopped, selectors.EVENT_READ)
            selector.register(self._socket, selectors.EVENT_READ)
            while True:
                for key, events in selector.select():
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    if end is self._stopped:
                        for left in self._ends:
                            left.close()
                        return
                    if end is self._socket:
                        self._arrived(selector)
                    else:
                        self._serve(selector, end, events)

    def _arrived(self, selector: selectors.BaseSelector) -> None:
        if self.udp:
            data, source = self._socket.recvfrom(65_536)
            self.datagrams.append(data)
            self._socket.sendto(data, source)
            return
        end, _ = self._socket.accept()
        self.connections += 1
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends[end] = bytearray()
        selector.register(end, selectors.EVENT_READ)

    def _serve(self, selector: selectors.BaseSelector, end: socket.socket, events: int) -> None:
        waiting = self._ends[end]
        try:
            if events & selectors.EVENT_READ and len(waiting) < 1 << 20:
                data = end.recv(1 << 18)
                if not data:  # a half-close: what is still waiting goes out first
                    end.setblocking(True)
                    end.sendall(waiting)
                    raise ConnectionResetError
                self.received += data
                waiting += data
            if waiting:
                with contextlib.suppress(BlockingIOError):
                    del waiting[: end.send(waiting)]
        except OSError:
            selector.unregister(end)
            del self._ends[end]
            end.close()
            return
        reading = selectors.EVENT_READ if len(waiting) < 1 << 20 else 0
        selector.modify(end, reading | (selectors.EVENT_WRITE if waiting else 0))


AT_ONCE = 4.0
"""Seconds that a refusal, a cut or an answer may take on a loaded machine. Whoever waits for something that does not
come waits longer: 5 s for the next authority, 10 s for a link."""


HELLO = b"twelve bytes"


class Caller:
    """A connection to a listener, as an HMI keeps one open. Use as a context manager.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, port: int, seconds: float = 30.0) -> None:
        self.sent = self.received = 0
        """Bytes, by `echo` and `read`."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            OSError: the connection ended before, or nothing came in time.
        """
        got = bytearray()
        while len(got) < size:
            data = self.socket.recv(size - len(got))
            if not data:
                raise ConnectionResetError(f"closed after {len(got)} of {size} bytes")
            got += data
            self.received += len(data)
        return bytes(got)

    def echo(self, data: bytes = HELLO) -> Self:
        """Send `data` and expect it back."""
        self.socket.sendall(data)
        self.sent += len(data)
        assert self.read(len(data)) == data
        return self

    def works(self) -> bool:
        """Whether the connection still echoes."""
        try:
            self.echo()
        except OSError:
            return False
        return True

    def closed_within(self, seconds: float) -> float:
        """Wait until the other side closes, and return how long that took.

        Raises:
            AssertionError: it did not.
        """
        begun = time.monotonic()
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(65_536):
                pass
        except TimeoutError:
            raise AssertionError(f"still open after {seconds} s") from None
        except OSError:
            pass
        return time.monotonic() - begun


def reachable(port: int) -> bool:
    """Whether a new connection to this listener echoes."""
    try:
        with Caller(port, 15) as caller:
            caller.echo()
    except OSError:
        return False
    return True


def assert_refused_at_once(port: int, seconds: float = AT_ONCE) -> float:
    """A new connection is refused, or closed without a byte; returns how long that took."""
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError), Caller(port, seconds) as caller:
        with contextlib.suppress(OSError):
            caller.socket.sendall(b"is anybody there?")
        try:
            got = caller.socket.recv(64)
        except TimeoutError:
            raise AssertionError(f"neither refused nor answered within {seconds} s") from None
        assert got == b"", "it was answered"
    took = time.monotonic() - begun
    assert took < seconds
    return took
