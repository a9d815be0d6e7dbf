"""Somebody between an edge and its router changes what passes: nothing wrong is ever delivered, and it is recorded."""

from collections.abc import Callable, Iterator

import pytest

from deploy.demo.plant import Plant, until
from tests.support.proxy import Proxy
from tests.support.records import search
from tests.support.traffic import Caller, Echo, reachable

pytestmark = pytest.mark.timeout(300)

BLOCK = bytes(range(256)) * 256


class Mangler:
    """Changes pieces in one direction of one connection, once enough has passed; each piece is at most 64 KiB."""

    def __init__(self, how: str, *, up: bool) -> None:
        self.how, self.up = how, up
        self.passed = 0
        self.held: bytes | None = None
        self.done = False

    def __call__(self, data: bytes, up: bool) -> bytes | None:
        if self.done:
            return None
        if up is not self.up:
            return data
        self.passed += len(data)
        if self.held is not None:
            self.done = True
            return data + self.held
        if self.passed < len(BLOCK) or len(data) < 64:
            return data
        if self.how == "reordered":
            self.held = data
            return b""
        self.done = True
        middle = len(data) // 2
        changed: dict[str, Callable[[], bytes]] = {
            "flipped": lambda: data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "repeated": lambda: data + data,
            "dropped": lambda: b"",
        }
        return changed[self.how]()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


@pytest.fixture(scope="module")
def listen(plant: Plant, proxy: Proxy, port: int) -> int:
    """The listener of edge-a, which now reaches its router through the proxy only."""
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")
    plant.terminate("edge-a")
    plant.start_edge("edge-a", "--proxy", f"http://127.0.0.1:{proxy.port}")
    plant.connected()
    until(lambda: reachable(port), 10, "an allowed connection through the proxy")
    return port


@pytest.mark.parametrize("up", [True, False], ids=["to the router", "to the edge"])
@pytest.mark.parametrize("how", ["flipped", "repeated", "reordered", "dropped"])
def test_what_was_changed_is_never_delivered_and_gives_a_security_event(
    plant: Plant, proxy: Proxy, listen: int, echo: Echo, how: str, up: bool
):
    before = len(_tampered(plant))
    received = len(echo.received)
    mangler = Mangler(how, up=up)
    proxy.mangle = mangler
    sent = 0
    try:
        with Caller(listen, 20) as caller:
            while not mangler.done and sent < 40:
                caller.echo(BLOCK)  # checks every byte that comes back
                sent += 1
            caller.echo(BLOCK)
    except OSError:
        pass  # the circuit ended, which is one of the two right answers; the other is to resume
    finally:
        proxy.mangle = None
    assert mangler.done, "nothing was changed"
    arrived = bytes(echo.received[received:])
    assert arrived == (BLOCK * (sent + 2))[: len(arrived)], "the asset got something else"
    until(lambda: len(_tampered(plant)) > before, 15, "the security event")
    assert _tampered(plant)[-1]["reason"]
    until(lambda: reachable(listen), 15, "a connection after the attack")
    assert all(program.poll() is None for program in plant.programs.values())


def _tampered(plant: Plant) -> list[dict[str, object]]:
    return [each for each in search(plant, since="10m") if each["event"] == "security.tamper"]
