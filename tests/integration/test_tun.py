"""A real TUN device in network namespaces: programs on the box and on a device behind it, both versions of IP."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from deploy.demo.plant import until
from edge.packets.ip import TCP, v4_header
from tests.support.box import (
    OTHER_POOLS,
    PLACES,
    STRANGER,
    Box,
    box_net,
    check_share_of_one_source,
    client,
    forged_source,
    masquerading,
    stranger,
)
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


def test_a_device_that_the_box_masquerades_is_not_the_box(box: Box):
    """Its packets leave for the device with the box's own address; the box's own programs go on."""
    net = box.net
    assert box.status()["problems"] == []
    with masquerading(net):
        for host in PLACES:
            assert client(net, HMI, "burst", host, 7000, 3) == "done"
        assert client(net, BOX, "stream", PLACES[0], 5000, 1) == "same"
    assert client(net, HMI, "datagrams", PLACES[1], 7000, 1) == "1"
    assert box.status()["asked"] == [["box", "plc-b.many", 5000], ["hmi-1", "plc-b.udp", 0]]


def test_the_local_listener_hears_nobody_but_the_device(box: Box):
    """Connections by its own address, from the box and the LAN, and with the address that plays all clients."""
    net = box.net
    found = net.run(BOX, "ss", "-Hltn", "src", "100.64.0.1").stdout.split()
    port = int(found[3].rpartition(":")[2])
    assert client(net, HMI, "knock", "100.64.0.1", port) != "connected"
    assert client(net, BOX, "stream", "100.64.0.1", port, 1) != "same", (
        "the kernel connects; it is cut"
    )
    before = box.status()["counts"].get("connections of nobody", 0)
    header = v4_header(bytes([100, 64, 0, 2]), bytes([100, 64, 0, 1]), TCP, 20)
    syn = (
        (1025).to_bytes(2, "big")
        + port.to_bytes(2, "big")
        + bytes(8)
        + b"\x50\x02\xff\xff"
        + bytes(4)
    )
    client(net, HMI, "raw", "100.64.0.1", (bytes(header) + syn).hex())
    status = box.status()
    assert status["asked"] == []
    assert status["counts"].get("connections of nobody", 0) == before


def test_many_flows_at_once_and_no_more_of_one_device_than_leave_the_others_room(box: Box):
    check_share_of_one_source(box)
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


def test_no_segment_overtakes_another_of_its_connection(box: Box):
    """The kernel has a queue of its own for what was not written yet: it has to learn one for both ways at once."""
    watch = subprocess.Popen(
        [*box.net.inside(BOX), sys.executable, "-m", "tests.support.overtaken", DEVICE],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert watch.stdout is not None
    assert watch.stdout.readline() == "ready\n"
    for side in (BOX, HMI):
        for host in PLACES:
            for size in (1, 1 << 12, 1 << 12, 1 << 12):
                assert client(box.net, side, "stream", host, 5000, size) == "same"
    said, _ = watch.communicate(timeout=30)
    passed, before, after = map(int, said.split())
    assert passed >= 2 * len(PLACES) * 4 * 12
    assert after == before


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


def test_a_narrow_way_to_one_device_is_not_the_way_to_all(net: Namespaces, box: Box):
    """The box itself says "too big" about what it forwards to the HMI; to its kernel one peer plays all clients."""
    for version, hmi in (("-4", "192.168.77.20/32"), ("-6", "fd77::20/128")):
        net.run(
            BOX, "ip", version, "route", "add", hmi, "dev", "fh", "mtu", "lock", "1280", check=True
        )
    before = device_counts(net)
    try:
        for host in PLACES:
            assert client(net, HMI, "stream", host, 5000, 1 << 20) == "same"
        for player in ("100.64.0.2", "fd64::2"):
            assert "mtu" not in net.run(BOX, "ip", "route", "get", player, check=True).stdout
        assert box.status()["problems"] == []
        assert device_counts(net) > before, "it was too big, and that was said"
    finally:
        for version, hmi in (("-4", "192.168.77.20/32"), ("-6", "fd77::20/128")):
            net.run(BOX, "ip", version, "route", "del", hmi, "dev", "fh")


def device_counts(net: Namespaces) -> int:
    """How often the box's kernel said "too big"."""
    kernel = net.run(BOX, "nstat", "-asz", "IcmpOutDestUnreachs", "Icmp6OutPktTooBigs").stdout
    return sum(int(line.split()[1]) for line in kernel.splitlines() if line.startswith("Icmp"))


DISTURBANCES = (
    ("route", "del", "100.64.0.0/10"),
    ("-6", "route", "del", "fd64::/64"),
    ("address", "flush", "dev", DEVICE),
    ("route", "replace", "192.168.1.5/32", "dev", "fs"),
)


def test_addresses_and_routes_that_somebody_takes_come_back(net: Namespaces, box: Box):
    """An administrator, or a network manager that takes away what it does not know."""

    def served() -> bool:
        return all(client(net, HMI, "stream", host, 5000, 1) == "same" for host in PLACES)

    for what in DISTURBANCES:
        net.run(BOX, "ip", *what, check=True)
        if "replace" in what:
            until(lambda: box.status()["problems"], 20, "word of the route that is in the way")
            assert "192.168.1.5/32 cannot be intercepted" in box.status()["problems"][0]
            net.run(BOX, "ip", "route", "del", "192.168.1.5/32", check=True)
        until(served, 20, f"traffic after {what}")
        assert box.status()["problems"] == []


def test_a_second_one_and_one_without_the_capability_say_what_is_wrong(net: Namespaces, box: Box):
    second = Box(net, OTHER_POOLS)
    assert (
        "The interface ftun0 is in use by another program: where another edge runs on this host, give this one another "
        "name with --tun, and another pool." in second.first
    )
    second.stop()
    before = (need_program("setpriv", "util-linux"), "--bounding-set=-net_admin")
    dropped = Box(net, "name=ftun9", OTHER_POOLS, before=before)
    assert "CAP_NET_ADMIN" in dropped.first
    dropped.stop()


def test_a_device_whose_hardware_address_is_another_is_nobody(net: Namespaces, box: Box):
    """As the kernel has seen it on the LAN."""
    box.stop()
    own = net.run(HMI, "cat", "/sys/class/net/fh/address", check=True).stdout.strip()
    for mac, answer in ((own, "connected"), ("02:00:5e:00:53:01", "ECONNREFUSED")):
        made = Box(net, "name=ftun3", f"mac={mac}")
        try:
            for host in PLACES[:2]:
                assert client(net, HMI, "knock", host, 5000) == answer
            turned = [reason for *_, reason in made.status()["turned"]]
            assert len(turned) == (0 if mac == own else 2)
            assert all(f"but came from {own}, which is not its own" in one for one in turned)
        finally:
            made.stop()


def test_a_resolver_of_the_host_that_is_caught_is_said(net: Namespaces, box: Box):
    """Its names are not answered from then on, and nobody would look for the reason here."""
    box.stop()
    with net.resolvers(BOX, "192.168.1.5", "10.9.0.2"):
        made = Box(net, "name=ftun4")
        try:
            until(lambda: made.status()["problems"], 10, "word of it")
            (problem,) = made.status()["problems"]
            assert problem.startswith("192.168.1.5 is the address of a resolver of this host")
            assert client(net, HMI, "stream", PLACES[2], 5000, 1) == "same"
        finally:
            made.stop()


def test_a_route_that_wins_over_ours_is_said(net: Namespaces, box: Box):
    """With IPv6 two routes to one subnet stand side by side, and the kernel takes that with the lower metric."""
    box.stop()
    there = ("fd05::5/128", "dev", "fs", "metric", "100")
    net.run(BOX, "ip", "-6", "route", "add", *there, check=True)
    made = Box(net, "name=ftun2")
    try:
        problems = made.status()["problems"]
        assert problems == [
            "fd05::5/128 cannot be intercepted: this host has a route to it already"
        ]
        net.run(BOX, "ip", "-6", "route", "del", *there, check=True)
        until(lambda: made.status()["problems"] == [], 20, "the end of the problem")
        assert client(net, HMI, "stream", PLACES[3], 5000, 1) == "same"
    finally:
        made.stop()


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
