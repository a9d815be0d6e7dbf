"""A real TUN device in network namespaces: programs on the box and on a device behind it, both versions of IP."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deploy.demo.plant import until
from edge.packets.ip import TCP, v4_header
from tests.support.box import PLACES, STRANGER, Box, box_net, client, forged_source, stranger
from tests.support.docs import ROOT
from tests.support.namespaces import BOX, HMI, Namespaces
from tests.support.needs import need_program

DEVICE = "ftun0"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    with box_net() as made:
        yield made


@pytest.fixture(scope="module")
def box(net: Namespaces) -> Iterator[Box]:
    made = Box(net)
    assert made.first == "ready"
    yield made
    made.stop()
    assert DEVICE not in net.run(BOX, "ip", "-o", "link").stdout, "the interface is gone with it"
    assert "100.64.0.0" not in net.run(BOX, "ip", "route").stdout


@pytest.mark.parametrize("side", [BOX, HMI])
@pytest.mark.parametrize("host", PLACES)
def test_streams_datagrams_and_pings_arrive_unchanged(box: Box, side: str, host: str):
    net = box.net
    box.status()
    assert client(net, side, "stream", host, 5000, 4 << 20) == "same"
    sizes = (0, 1, 1472, 1473, 9000, 60_000)
    assert client(net, side, "datagrams", host, 7000, *sizes) == " ".join(map(str, sizes))
    ping = need_program("ping", "iputils-ping")
    done = net.run(side, ping, "-c", "2", "-i", "0.1", "-s", "700", host)
    assert "2 received" in done.stdout
    who = "box" if side == BOX else f"hmi-{':' in host:d}"
    assert box.status()["asked"] == [
        [who, "plc-b.many", 5000], [who, "plc-b.udp", 0], [who, "plc-b", 0]
    ], "one circuit each, and as whom the sender counts"  # fmt: skip


@pytest.mark.parametrize("side", [BOX, HMI])
@pytest.mark.parametrize("host", PLACES[:2])
def test_what_is_denied_not_there_or_does_not_answer_fails_at_once(box: Box, side: str, host: str):
    for port in (81, 99, 5002):
        assert client(box.net, side, "knock", host, port) == "ECONNREFUSED"
    assert client(box.net, side, "datagrams", host, 9, 10).startswith(("EACCES", "EHOSTUNREACH"))


def test_a_device_that_nobody_knows_is_nobody(box: Box):
    with stranger(box.net, PLACES[0]):
        box.status()
        assert client(box.net, HMI, "knock", PLACES[0], 5000) == "ECONNREFUSED"
        status = box.status()
        assert status["asked"] == []
        assert status["turned"][-1][:2] == [STRANGER, "plc-b.many"]


def test_a_device_that_sends_with_an_address_of_the_box_is_not_the_box(box: Box):
    """Datagrams need no answer to do harm."""
    net = box.net
    assert box.status()["problems"] == []
    with forged_source(net):
        for host in (PLACES[1], PLACES[3]):
            assert client(net, HMI, "burst", host, 7000, 3) == "done"
    assert client(net, HMI, "datagrams", PLACES[1], 7000, 1) == "1"
    assert box.status()["asked"] == [["hmi-1", "plc-b.udp", 0]]


def test_the_local_listener_hears_nobody_but_the_device(box: Box):
    """Connections by its own address, from the box and the LAN, and with the address that plays all clients."""
    net = box.net
    found = net.run(BOX, "ss", "-Hltn", "src", "198.18.0.1").stdout.split()
    port = int(found[3].rpartition(":")[2])
    assert client(net, HMI, "knock", "198.18.0.1", port) != "connected"
    assert client(net, BOX, "stream", "198.18.0.1", port, 1) != "same", (
        "the kernel connects; it is cut"
    )
    before = box.status()["counts"].get("connections of nobody", 0)
    header = v4_header(bytes([198, 18, 0, 2]), bytes([198, 18, 0, 1]), TCP, 20)
    syn = (
        (1025).to_bytes(2, "big")
        + port.to_bytes(2, "big")
        + bytes(8)
        + b"\x50\x02\xff\xff"
        + bytes(4)
    )
    client(net, HMI, "raw", "198.18.0.1", (bytes(header) + syn).hex())
    status = box.status()
    assert status["asked"] == []
    assert status["counts"].get("connections of nobody", 0) == before


def test_many_flows_at_once(box: Box):
    assert client(box.net, HMI, "many", PLACES[0], 5000, 5000) == "5000"
    until(lambda: box.status()["flows"]["tcp"] < 100, 20, "the end of the flows")
    assert client(box.net, HMI, "stream", PLACES[1], 5000, 1 << 20) == "same"


def test_one_busy_flow_does_not_starve_others(box: Box):
    """While the box reads nothing, one flow fills what the kernel keeps for it; others that come later still find room.

    A few share a queue with it by chance, so most is what is asked for; with a single queue none gets through.
    """
    net = box.net
    box.process.send_signal(signal.SIGSTOP)
    try:
        assert client(net, HMI, "burst", PLACES[0], 7000, 5000) == "done"
        others = subprocess.Popen(
            [*net.inside(HMI), sys.executable, "-m", "tests.support.tun_client", "few",
             PLACES[0], "7000", "64"],
            cwd=ROOT, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert others.stdout is not None
        assert others.stdout.readline() == "sent\n"
    finally:
        box.process.send_signal(signal.SIGCONT)
    found, _ = others.communicate(timeout=30)
    assert int(found) >= 48


def test_an_interface_that_goes_down_or_is_removed_comes_back(net: Namespaces, box: Box):
    for what in ("down", "delete"):
        if what == "down":
            net.run(BOX, "ip", "link", "set", DEVICE, "down", check=True)
        else:
            net.run(BOX, "ip", "link", "delete", DEVICE, check=True)
        until(
            lambda: (
                client(net, HMI, "stream", PLACES[0], 5000, 1 << 16) == "same"
                and client(net, HMI, "stream", PLACES[1], 5000, 1 << 16) == "same"
            ),
            20,
            f"traffic after {what}",
        )


def test_a_second_one_and_one_without_the_capability_say_what_is_wrong(net: Namespaces, box: Box):
    second = Box(net)
    assert (
        second.first
        == "The interface ftun0 is in use by another program: is another edge running here?"
    )
    second.stop()
    before = (need_program("setpriv", "util-linux"), "--bounding-set=-net_admin")
    dropped = Box(net, "name=ftun9", before=before)
    assert "CAP_NET_ADMIN" in dropped.first
    dropped.stop()


@pytest.mark.parametrize(
    ("options", "answer"),
    [(("prohibit",), "EHOSTUNREACH"), (("drop",), "silence"), (("at-once",), "ECONNREFUSED")],
)
def test_manners_and_no_more_than_one_capability(
    box: Box, net: Namespaces, options: tuple[str, ...], answer: str
):
    """With CAP_NET_ADMIN and nothing else; the module's own box gives way."""
    box.stop()
    only = ("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin")
    made = Box(net, *options, "name=ftun1", before=only)
    try:
        assert made.first == "ready"
        if "at-once" in options:
            assert client(net, HMI, "touch", PLACES[0], 5002) == "ECONNRESET", "too late to refuse"
            assert client(net, HMI, "stream", PLACES[0], 5000, 1 << 20) == "same"
        assert client(net, HMI, "knock", PLACES[0], 81) == answer
    finally:
        made.stop()
