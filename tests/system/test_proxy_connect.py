"""An edge that reaches its router only through an HTTP proxy (CONNECT)."""

from collections.abc import Iterator

import pytest

from deploy.demo.plant import Plant, until
from deploy.demo.ports import free_port
from tests.support.proxy import Proxy
from tests.support.traffic import Caller, Echo, reachable
from tests.support.words import sentence

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


@pytest.fixture(scope="module")
def listen(plant: Plant, proxy: Proxy, echo: Echo) -> int:
    """The port of plc-b.echo on edge-p, which was enrolled through the proxy."""
    plant.ferrule("add", "edge", "edge-p", "--token-out", plant.path("edge-p.token"))
    plant.start_edge("edge-p", "--proxy", f"http://127.0.0.1:{proxy.port}")
    plant.connected()
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
