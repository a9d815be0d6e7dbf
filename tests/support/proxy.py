"""An HTTP proxy that edges dial through: honest, refusing, or one that changes what passes."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Self


class Proxy:
    """A small HTTP CONNECT proxy; use as a context manager.

    `asked` are the targets that it was asked for. With `refuse` it answers 403, and where `only` names other targets. `mangle` gets each piece that passes
    (`up`: towards the router) and returns what passes instead, until it returns None once.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuse = False
        self.only: set[str] | None = None
        self.mangle: Callable[[bytes, bool], bytes | None] | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        self._server.close()

    def cut(self) -> None:
        """End every connection."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._server.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._open.add(client)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                got = client.recv(1)
                if not got:
                    return
                head += got
            method, target, version = head.split(b"\r\n")[0].decode().split()
            assert (method, version) == ("CONNECT", "HTTP/1.1")
            self.asked.append(target)
            if self.refuse or (self.only is not None and target not in self.only):
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            host, port = target.rsplit(":", 1)
            with socket.create_connection((host, int(port))) as upstream:
                self._open.add(upstream)
                client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                self._relay(client, upstream)

    def _relay(self, client: socket.socket, upstream: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, upstream)
            selector.register(upstream, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(65_536)
                    if not data:
                        return
                    if self.mangle is not None:
                        mangled = self.mangle(data, key.fileobj is client)
                        if mangled is None:
                            self.mangle = None
                        else:
                            data = mangled
                    key.data.sendall(data)
