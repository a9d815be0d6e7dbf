"""Wires that spoil packets do what they say, measured with plain sockets in namespaces; margins are wide."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench.errors import BenchError
from bench.impairment.core import Impairment
from bench.impairment.network import Network, network
from deploy.demo.plant import until
from tests.support.namespace import inside
from tests.support.needs import need_program, need_root

pytestmark = pytest.mark.timeout(180)
PORT = 4000

SERVER = """
import socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("", 4000))
tcp = socket.create_server(("", 4000))
def echo():
    while True:
        data, whom = udp.recvfrom(2000); udp.sendto(data, whom)
def drain(one):
    total = 0
    while data := one.recv(65536): total += len(data)
    one.sendall(total.to_bytes(8, "big")); one.close()
threading.Thread(target=echo, daemon=True).start()
print("up", flush=True)
while True: threading.Thread(target=drain, args=(tcp.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """`a`, and `b` with a server, joined by one wire."""
    need_root()
    need_program("ip", "iproute2")
    with network(f"impair{os.getpid()}", "ab") as made:
        made.join("a", "b")
        server = subprocess.Popen(
            [*made.inside("b"), sys.executable, "-c", SERVER], stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield made
        finally:
            server.kill()
            server.communicate()


@pytest.fixture(autouse=True)
def perfect(net: Network) -> None:
    net.wires.set("a-b")


async def pings(net: Network, count: int, gap: float, patience: float = 6.0) -> list[float | None]:
    """Round trips of datagrams sent one after another every `gap` seconds, None for a lost one, by arrival."""

    async def work() -> list[float | None]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.connect((net.addresses["b"], PORT))
            sent, trips = {}, []
            udp.settimeout(gap)
            for number in range(count):
                sent[number] = time.monotonic()
                udp.send(number.to_bytes(4, "big") + bytes(100))
                deadline = time.monotonic() + gap
                while (left := deadline - time.monotonic()) > 0:
                    udp.settimeout(left)
                    trips += _answer(udp, sent)
            udp.settimeout(patience)
            while len(trips) < count and (one := _answer(udp, sent)):
                trips += one
            return trips + [None] * (count - len(trips))

    return await inside(net.name("a"), work)


def _answer(udp: socket.socket, sent: dict[int, float]) -> list[float]:
    try:
        number = int.from_bytes(udp.recv(2000)[:4], "big")
    except (TimeoutError, ConnectionRefusedError):
        return []
    return [time.monotonic() - sent.pop(number)]


async def upload(net: Network, size: int) -> float:
    """Seconds that one TCP connection needs to bring so many bytes to the server."""

    async def work() -> float:
        begun = time.monotonic()
        with socket.create_connection((net.addresses["b"], PORT), timeout=30) as tcp:
            tcp.sendall(bytes(size))
            tcp.shutdown(socket.SHUT_WR)
            assert int.from_bytes(tcp.recv(8), "big") == size
        return time.monotonic() - begun

    return await inside(net.name("a"), work)


async def test_a_perfect_wire_carries_100_mbit_per_second(net: Network):
    size = 10_000_000
    rates = []
    for _ in range(10):  # the machine may be busy
        rates.append(size * 8 / await upload(net, size))
        if rates[-1] > 100e6:
            return
    raise AssertionError(rates)


async def test_delay_makes_the_round_trip_and_jitter_spreads_it(net: Network):
    net.wires.set("a-b", Impairment(delay=0.1))
    trips = await pings(net, 5, 0.02)
    assert all(one is not None and one >= 0.2 for one in trips)
    assert min(one for one in trips if one) < 0.3
    net.wires.set("a-b", Impairment(delay=0.05, jitter=0.1), back=Impairment())
    trips = await pings(net, 20, 0.02)
    known = [one for one in trips if one is not None]
    assert len(known) == 20
    assert min(known) >= 0.05
    assert max(known) - min(known) > 0.02


async def test_the_rate_is_kept(net: Network):
    net.wires.set("a-b", Impairment(rate=2e6))
    took = await upload(net, 250_000)
    assert took > 0.9, "2 Mbit at 2 Mbit/s, less a burst"
    assert net.wires.counts()["a-b>"].delivered > 100, "packets of the size in which they travel"


async def test_loss_and_reordering_happen_and_tcp_gets_everything_through(net: Network):
    before = net.wires.counts()["a-b>"]
    net.wires.set("a-b", Impairment(loss=0.05, reorder=0.1, delay=0.005))
    await upload(net, 500_000)
    after = net.wires.counts()["a-b>"]
    assert after.lost > before.lost
    assert after.overtaken > before.overtaken


async def test_a_cut_is_silent_asymmetric_ones_too_and_heals(net: Network):
    net.wires.cut("a-b")
    assert await pings(net, 3, 0.01, 0.2) == [None] * 3
    net.wires.heal("a-b")
    assert None not in await pings(net, 3, 0.01)
    before = net.wires.counts()
    net.wires.cut("a-b<")
    assert await pings(net, 3, 0.01, 0.2) == [None] * 3

    def arrived() -> bool:
        after = net.wires.counts()
        there = after["a-b>"].delivered - before["a-b>"].delivered
        return there >= 3 and after["a-b<"].cut >= before["a-b<"].cut + 3

    until(arrived, 2, "the server to get all, and the wire to cut its answers")
    net.wires.heal("a-b<")
    assert None not in await pings(net, 3, 0.01)


def test_an_order_that_makes_no_sense_changes_nothing_and_is_explained(net: Network):
    with pytest.raises(BenchError, match="loss is a share"):
        net.wires.set("a-b", Impairment(loss=2))
    with pytest.raises(BenchError, match="KeyError"):
        net.wires.set("nowhere", Impairment())
    with pytest.raises(BenchError, match=r"busy|exist"):
        net.join("a", "b")
