"""An edge that reaches its router only through an HTTP proxy (CONNECT)."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest

from deploy.demo.plant import Plant, free_port, until
from tests.support.traffic import Caller, Echo, reachable
from tests.support.words import sentence

pytestmark = pytest.mark.timeout(120)


class Proxy:
    """A small HTTP CONNECT proxy; `asked` are the targets, `refuse` answers 403 instead."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuse = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Proxy":
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
            if self.refuse:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            host, port = target.rsplit(":", 1)
            with socket.create_connection((host, int(port))) as upstream:
                self._open.add(upstream)
                client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                self._relay(client, upstream)

    @staticmethod
    def _relay(one: socket.socket, two: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(one, selectors.EVENT_READ, two)
            selector.register(two, selectors.EVENT_READ, one)
            while True:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    data = key.fileobj.recv(65_536)
                    if not data:
                        return
                    key.data.sendall(data)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


@pytest.fixture(scope="module")
def listen(plant: Plant, proxy: Proxy, echo: Echo) -> int:
    """The port of plc-b.echo on edge-p, which was enrolled through the proxy."""
    plant.ferrule("add", "edge", "edge-p", "--token-out", plant.path("edge-p.token"))
    plant.start_edge("edge-p", "--proxy", f"http://127.0.0.1:{proxy.port}")
    plant.ferrule("status", "--wait", "20s")
    made = plant.offer(echo.port, who="hmi-p", via="edge-p", protocol="echo")
    plant.ferrule("allow", "hmi-p", "plc-b", "echo")
    until(lambda: reachable(made), 5, "an allowed connection through the proxy")
    return made


def test_an_edge_enrols_and_carries_circuits_through_the_proxy(
    plant: Plant, proxy: Proxy, listen: int
):
    assert set(proxy.asked) == {f"127.0.0.1:{plant.router_ports['router-1']}"}
    with Caller(listen, 20) as caller:
        caller.echo(bytes(range(256)) * 4096)


def test_the_edge_dials_again_when_the_proxy_cut_it_off(plant: Plant, proxy: Proxy, listen: int):
    before = len(proxy.asked)
    proxy.cut()
    until(lambda: len(proxy.asked) > before, 10, "another CONNECT")
    until(lambda: reachable(listen), 15, "a connection over the new link")


def test_a_proxy_that_refuses_is_said_in_words_and_tried_again(
    plant: Plant, proxy: Proxy, listen: int
):
    proxy.refuse = True
    try:
        proxy.cut()
        until(lambda: "403" in plant.log("edge-p"), 10, "the refusal in the log")
        assert plant.programs["edge-p"].poll() is None
        assert "Traceback" not in plant.log("edge-p")
    finally:
        proxy.refuse = False
    until(lambda: reachable(listen), 25, "a connection after the proxy gave in")


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "http://", "127.0.0.1:1:2", "http://h:x"])
def test_a_proxy_address_that_is_none_is_wrong_usage(plant: Plant, url: str):
    folder = plant.folder / f"proxy-{free_port()}"
    result = plant.call(
        "ferrule-edge",
        "run",
        "--dir",
        str(folder),
        "--token",
        plant.path("edge-p.token"),
        "--proxy",
        url,
    )
    assert result.returncode == 2
    assert "proxy" in sentence(result.stderr).lower()
    assert not folder.exists()
