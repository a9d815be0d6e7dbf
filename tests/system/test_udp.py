"""A UDP service through a UDP listener: boundaries kept, both ways, denied without a conduit."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from deploy.demo.plant import Plant, until
from tests.support.records import attempts
from tests.support.seen import live
from tests.support.traffic import Echo

pytestmark = pytest.mark.timeout(300)

SERVICE = "plc-b.telemetry"


@pytest.fixture(scope="module")
def meter() -> Iterator[Echo]:
    """The asset: a UDP server that sends back each datagram."""
    with Echo(udp=True) as server:
        yield server


@pytest.fixture(scope="module")
def listen(plant: Plant, meter: Echo) -> int:
    """The UDP port at which edge-a offers it."""
    return plant.offer(meter.port, protocol="telemetry", transport="udp")


@contextlib.contextmanager
def flow(port: int, seconds: float = 10.0) -> Iterator[socket.socket]:
    """A UDP client of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", port))
        made.settimeout(seconds)
        yield made


def answered(port: int, data: bytes = b"?") -> bool:
    """Whether a datagram comes back."""
    with flow(port, 1.0) as client:
        client.send(data)
        try:
            return client.recv(65_536) == data
        except OSError:
            return False


def test_without_a_conduit_no_datagram_passes_and_the_attempt_is_recorded(
    calm: Plant, listen: int, meter: Echo
):
    before = len(meter.datagrams)
    assert not answered(listen)
    until(lambda: attempts(calm, SERVICE, "denied"), 5, "the record")
    record = attempts(calm, SERVICE, "denied")[-1]
    assert (record["who"], record["via"], record["asset"]) == ("hmi-a", "edge-a", "plc-b")
    assert record["address"] == f"127.0.0.1:{meter.port}"
    assert len(meter.datagrams) == before


def test_datagrams_keep_their_boundaries_and_reach_the_right_client(
    calm: Plant, listen: int, meter: Echo
):
    calm.ferrule("allow", "hmi-a", "plc-b", "telemetry")
    until(lambda: answered(listen), 5, "an allowed datagram")
    sizes = [1, 2, 12, 500, 1400, 1, 9000, 64_000, 3]
    with flow(listen) as one, flow(listen) as two:
        for number, size in enumerate(sizes):
            for client, mark in ((one, b"1"), (two, b"2")):
                client.send(mark * size)
                assert client.recv(65_536) == mark * size, f"datagram {number} of {size} bytes"
    assert all(b"1" * size in meter.datagrams for size in sizes)


def test_an_empty_datagram_is_a_datagram(calm: Plant, listen: int):
    calm.ferrule("allow", "hmi-a", "plc-b", "telemetry")
    until(lambda: answered(listen), 5, "an allowed datagram")
    with flow(listen) as client:
        client.send(b"first")
        assert client.recv(100) == b"first"
        client.send(b"")
        assert client.recv(100) == b""


def test_a_burst_arrives_in_pieces_that_were_sent(calm: Plant, listen: int, meter: Echo):
    calm.ferrule("allow", "hmi-a", "plc-b", "telemetry")
    until(lambda: answered(listen), 5, "an allowed datagram")
    before = len(meter.datagrams)
    sent = [f"{number:04}".encode() * 50 for number in range(100)]
    with flow(listen, 3.0) as client:
        for data in sent:
            client.send(data)
        got: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            while len(got) < len(sent):
                got.append(client.recv(65_536))
    assert set(got) <= set(sent), "pieces that nobody sent"
    assert len(got) == len(set(got)), "a datagram came twice"
    assert len(got) >= 50, "datagrams may be dropped where a machine is busy, but not most of them"
    assert len(meter.datagrams) - before >= len(got)


def test_denying_cuts_a_running_flow(calm: Plant, listen: int, meter: Echo):
    conduit = calm.json("allow", "hmi-a", "plc-b", "telemetry")["id"]
    until(lambda: answered(listen), 5, "an allowed datagram")
    with flow(listen) as client:
        client.send(b"before")
        assert client.recv(100) == b"before"
        until(lambda: any(each["service"] == SERVICE for each in live(calm)), 5, "its session")
        calm.ferrule("deny", conduit)
        until(lambda: not live(calm), 5, "the flow to be cut")
        client.settimeout(0.5)
        before = len(meter.datagrams)
        with contextlib.suppress(ConnectionRefusedError):
            client.send(b"after")
        with pytest.raises(OSError, match=r"timed out|refused"):
            client.recv(100)
    assert len(meter.datagrams) == before
