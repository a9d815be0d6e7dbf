"""What one client, and all of them, may have at once where the kernel steers connections and datagrams here; and that
no socket keeps the event loop, however much waits on it.
"""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from edge.intercept import steered, steered_udp
from edge.intercept.refusals import PENDING, Refusals
from edge.intercept.senders import Senders
from edge.intercept.steered import SteeredInterceptor
from edge.intercept.steered_udp import SteeredUdp
from edge.intercept.table import Verdict

ONE, OTHER = "127.0.0.1", "127.0.0.2"


class Stream:
    """A circuit that ends when the test says so."""

    def __init__(self) -> None:
        self.closed: Any = asyncio.get_running_loop().create_future()
        self.sent: list[bytes] = []
        self.user: Any = None

    def start(self, user: Any) -> None:
        self.user = user

    def send_datagram(self, data: Any, *, more: bool = False) -> None:
        self.sent.append(bytes(data))

    def end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
            self.user.closed(None)


class Caught:
    """Everybody has a grant."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    def open(self, *_: object) -> Stream:
        self.streams.append(Stream())
        return self.streams[-1]

    def flow(self, *_: object) -> Stream:
        return self.open()


def senders(caught: Any) -> Senders:
    verdict = Verdict("plc-b.any", "plc-b", "hmi", 0, 0, "")
    table: Any = SimpleNamespace(match=lambda *_: verdict)
    sources: Any = SimpleNamespace(own=lambda _: False, mac=lambda _: None)
    return Senders(caught, lambda: table, sources)


def intercept(caught: Any) -> SteeredInterceptor:
    nothing: Any = None
    return SteeredInterceptor(
        "tproxy", caught, nothing, nothing, nothing, nothing, "ferrule0", tuple
    )


class Connection:
    """What the kernel steered here, from an address of the client's."""

    def __init__(self, host: str) -> None:
        self.peer = (host, 50_000)
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def arrived(self, most: int) -> bytes:
        return b"x" * min(most, 3)


async def test_connections_of_one_client_and_of_all_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steered, "CONNECTIONS", 3)
    monkeypatch.setattr(steered, "CONNECTIONS_PER_SOURCE", 2)
    monkeypatch.setattr(steered, "join", lambda *_: None)
    caught = Caught()
    made: Any = intercept(caught)
    made._senders = senders(caught)
    made._meant = lambda _: (bytes([10, 0, 0, 7]), 502)

    def connect(host: str) -> bool:
        connection = Connection(host)
        made._accepted(connection)
        return not connection.aborted

    assert [connect(ONE) for _ in range(4)] == [True, True, False, False]
    assert [connect(OTHER) for _ in range(3)] == [True, False, False], "all have three"
    assert (made.flows["tcp"], made.counts["too many flows"]) == (3, 4)
    caught.streams[0].closed.set_result(None)
    await asyncio.sleep(0)
    assert connect(OTHER), "there is room again"
    assert len(caught.streams) == 4, "no circuit was opened for a connection that was cut"


class Lan:
    """Clients at two addresses, and a socket to which the kernel would steer what they send."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steered_udp, "make_transparent", lambda _: None)  # takes a right
        self.caught = Caught()
        caught: Any = self.caught
        self.senders = senders(caught)
        self.steered = self.socket(ONE)
        self.udp: Any = SteeredUdp(caught, self.senders, [self.steered], lambda *_: None)
        self.clients: list[socket.socket] = []

    @staticmethod
    def socket(host: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, 0))
        return made

    def say(self, host: str, times: int = 1) -> int:
        """From a new port; how many circuits there are then."""
        client = self.socket(host)
        self.clients.append(client)
        for number in range(times):
            client.sendto(b"%d" % number, self.steered.getsockname())
        self.udp._readable(self.steered)
        return len(self.caught.streams)

    def close(self) -> None:
        self.udp.close()
        for stream in self.caught.streams:
            stream.end()
        for client in self.clients:
            client.close()


@pytest.fixture
async def lan(monkeypatch: pytest.MonkeyPatch):
    made = Lan(monkeypatch)
    yield made
    made.close()


async def test_flows_of_one_client_and_of_all_are_bounded(
    lan: Lan, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(steered_udp, "FLOWS", 3)
    monkeypatch.setattr(steered_udp, "FLOWS_PER_SOURCE", 2)
    assert [lan.say(ONE) for _ in range(4)] == [1, 2, 2, 2]
    assert [lan.say(OTHER) for _ in range(3)] == [3, 3, 3], "all have three"
    assert lan.senders.counts["too many flows"] == 4
    lan.caught.streams[0].end()
    assert lan.say(OTHER) == 4, "there is room again"
    assert [one.sent for one in lan.caught.streams] == [[b"0"]] * 4


async def test_a_client_that_never_falls_silent_gives_others_their_turn(lan: Lan):
    lan.say(ONE, steered_udp.PER_TURN + 5)
    (stream,) = lan.caught.streams
    assert len(stream.sent) == steered_udp.PER_TURN
    lan.udp._readable(lan.steered)
    assert stream.sent == [b"%d" % number for number in range(steered_udp.PER_TURN + 5)]


async def test_flows_of_which_the_kernel_is_not_told_yet_do_not_pile_up():
    caught: Any = Caught()
    made = Refusals("tproxy", caught, senders(caught), lambda: "")
    for port in range(2 * PENDING):
        made.deny((ONE, port), ("10.0.0.7", port))
    assert len(made._denied) == PENDING
    assert made._telling is not None
    await made._telling
