"""Connections through an HTTP CONNECT proxy (RFC 9110 §9.3.6)."""

import asyncio
import base64
from urllib.parse import SplitResult, unquote, urlsplit

from overlay.addresses import format_address
from overlay.aio.world import Connection, World
from overlay.errors import FerruleError

PROXY_PORT = 80
"""Where its URL says none."""
MAX_ANSWER = 8 * 1024
"""Bytes of a proxy's answer that are read."""


async def connect(world: World, host: str, port: int, proxy: str | None) -> Connection:
    """A connection to `host`:`port`, through `proxy` (a URL) where there is one.

    Raises:
        FerruleError: the proxy's URL is none, or it refuses.
        OSError: it cannot be reached.
    """
    if proxy is None:
        return await world.net.connect(host, port)
    url = check_proxy(proxy)
    assert url.hostname is not None  # noqa: S101 - check_proxy() saw to it
    connection = await world.net.connect(url.hostname, url.port or PROXY_PORT)
    try:
        await _ProxyAnswer(connection).ask(host, port, url.username, url.password)
    except BaseException:
        connection.abort()
        raise
    return connection


def check_proxy(proxy: str) -> SplitResult:
    """The parts of a proxy's URL.

    Raises:
        FerruleError: not `http://[USER:PASSWORD@]HOST[:PORT]`.
    """
    try:
        url = urlsplit(proxy)
        if url.scheme == "http" and url.hostname and url.port != 0 and url.path in {"", "/"}:
            return url
    except ValueError:  # a port that is no number
        pass
    raise FerruleError(f"The proxy must be http://HOST:PORT, not {proxy!r}.")


class _ProxyAnswer:
    """Asks a proxy for a tunnel and reads its answer byte by byte, none too many."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._memory = memoryview(bytearray(1))
        self._answer = bytearray()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask(self, host: str, port: int, user: str | None, password: str | None) -> None:
        target = format_address(host, port)
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if user is not None:
            secret = f"{unquote(user)}:{unquote(password or '')}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(secret).decode()}")
        request = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self._connection.start(self)
        if self._connection.write([request]) < len(request):
            raise ConnectionError("the proxy does not read")
        await self._finished
        status = bytes(self._answer.split(b"\r\n", 1)[0])
        words = status.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].startswith(b"2"):
            text = status[:80].decode("ascii", "replace")
            raise FerruleError(f"The proxy refuses to connect to {target}: {text}")

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._memory

    def received(self, count: int) -> None:
        """Receiver."""
        if self._finished.done():
            return
        self._answer += self._memory[:count]
        if self._answer.endswith(b"\r\n\r\n"):
            self._connection.pause()
            self._finished.set_result(None)
        elif len(self._answer) > MAX_ANSWER:
            self._fail(FerruleError("The proxy's answer is too long."))

    def ended(self) -> None:
        """Receiver."""
        self._fail(ConnectionResetError("the proxy closed the connection"))

    def writable(self) -> None:
        """Receiver."""

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        self._fail(error or ConnectionResetError("the proxy closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)
