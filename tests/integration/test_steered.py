"""Interception by nftables (`tproxy`, `redirect`) in network namespaces: programs on the box and on a device behind it,
both versions of IP, and what is left on the host after any end.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.plant import until
from tests.support.box import (
    FORGED,
    PLACES,
    STRANGER,
    Box,
    box_net,
    client,
    forged_source,
    stranger,
)
from tests.support.namespaces import BOX, HMI, Namespaces
from tests.support.needs import need_program

pytestmark = pytest.mark.timeout(120)
SIDES = (BOX, HMI)
PROHIBITED = ("EPERM", "EACCES", "EHOSTUNREACH")
"""What a program hears of "administratively prohibited": by the rules themselves, by ICMPv6, by ICMP."""


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    need_program("nft", "nftables")
    with box_net() as made:
        yield made


@pytest.fixture(scope="module", params=["tproxy", "redirect"])
def box(
    request: pytest.FixtureRequest, net: Namespaces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    before = traces(net)
    made = Box(net, f"mode={request.param}", f"dir={tmp_path_factory.mktemp('box')}")
    made.mode = request.param
    assert made.first == "ready", made.stop()
    yield made
    made.stop()
    assert traces(net) == before, "everything is taken back"


def traces(net: Namespaces) -> list[str]:
    """Where a mode could leave something, as tools see it that know nothing of it."""
    looks = (
        "nft list ruleset", "ip rule", "ip -6 rule", "ip -o addr show lo", "ip route show table main",
        "ip -6 route show table main dev lo", "ip route show table all type local dev lo",
        "ip -6 route show table all type local dev lo",
    )  # fmt: skip
    return [net.run(BOX, *look.split()).stdout for look in looks]


def who(side: str, host: str) -> str:
    return "box" if side == BOX else f"hmi-{':' in host:d}"


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_what_a_killed_one_leaves_is_taken_back_at_the_next_start(
    net: Namespaces, tmp_path: Path, mode: str
):
    before = traces(net)
    options = (f"mode={mode}", f"dir={tmp_path}", "name=fkill0")
    killed = Box(net, *options)
    assert killed.first == "ready"
    killed.process.send_signal(signal.SIGKILL)
    killed.process.communicate()
    assert traces(net) != before, "the kernel keeps rules when a program dies"
    again = Box(net, *options)
    assert again.first == "ready"
    assert client(net, HMI, "stream", PLACES[0], 5000, 1 << 16) == "same"
    again.stop()
    assert traces(net) == before


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_no_more_than_one_capability_is_needed_and_it_is_named(
    net: Namespaces, tmp_path: Path, mode: str
):
    setpriv = need_program("setpriv", "util-linux")
    options = (f"mode={mode}", f"dir={tmp_path}", "name=fcap0")
    only = (setpriv, "--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin")
    made = Box(net, *options, before=only)
    assert made.first == "ready", made.stop()
    assert client(net, HMI, "stream", PLACES[0], 5000, 1 << 16) == "same"
    assert made.status()["problems"] == []
    made.stop()
    without = Box(net, *options, before=(setpriv, "--bounding-set=-net_admin"))
    assert "CAP_NET_ADMIN" in without.first
    without.stop()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("host", PLACES)
def test_streams_and_datagrams_arrive_unchanged(box: Box, side: str, host: str):
    net = box.net
    box.status()
    assert client(net, side, "stream", host, 5000, 4 << 20) == "same"
    assert box.status()["asked"] == [[who(side, host), "plc-b.many", 5000]]
    if box.mode == "tproxy":
        sizes = (0, 1, 1472, 1473, 9000, 60_000)
        assert client(net, side, "datagrams", host, 7000, *sizes) == " ".join(map(str, sizes))
        assert box.status()["asked"] == [[who(side, host), "plc-b.udp", 0]], "one flow, one circuit"
    else:
        assert client(net, side, "datagrams", host, 7000, 1) in PROHIBITED, "no UDP, said at once"


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("host", PLACES)
def test_what_is_denied_or_not_there_fails_at_once(box: Box, side: str, host: str):
    net = box.net
    assert client(net, side, "knock", host, 99) == "ECONNREFUSED", (
        "no service: refused by the rules"
    )
    assert client(net, side, "touch", host, 81) == "ECONNRESET", "no grant: accepted, then reset"
    assert client(net, side, "touch", host, 5002) == "ECONNRESET", "the asset refuses"
    assert client(net, side, "datagrams", host, 9, 10) in PROHIBITED
    target = f"[{host}]:99" if ":" in host else f"{host}:99"
    until(lambda: target in [one[1] for one in box.status()["turned"]], 10, "the record")


@pytest.mark.parametrize("side", SIDES)
def test_datagrams_of_a_flow_that_is_denied_are_refused_from_the_second_on(box: Box, side: str):
    for host in PLACES[:2]:
        assert client(box.net, side, "chatter", host, 81) in PROHIBITED


def test_a_device_that_nobody_knows_is_nobody(box: Box):
    with stranger(box.net, PLACES[0]):
        box.status()
        assert client(box.net, HMI, "touch", PLACES[0], 5000) == "ECONNRESET"
        status = box.status()
        assert status["asked"] == []
        assert status["turned"][-1][:2] == [STRANGER, "plc-b.many"]


def test_a_device_that_sends_with_an_address_of_the_box_is_not_the_box(box: Box):
    """Datagrams need no answer to do harm; what is refused is not recorded as the box's, either."""
    net = box.net
    box.status()
    with forged_source(net):
        for host in (PLACES[1], PLACES[3]):
            for port in (7000, 99):
                assert client(net, HMI, "burst", host, port, 3) == "done"
    assert client(net, HMI, "stream", PLACES[1], 5000, 1) == "same"
    status = box.status()
    assert status["asked"] == [["hmi-1", "plc-b.many", 5000]]
    assert FORGED not in [one[0] for one in status["turned"]]


def test_the_listener_itself_leads_nowhere(box: Box):
    """Neither from the LAN nor from a program of the box, which may connect to it but is nobody there."""
    net = box.net
    status = box.status()
    for host in ("192.168.77.1", "fd77::1"):
        assert client(net, HMI, "touch", host, status["port"]) == "ECONNREFUSED"
    for host in ("127.0.0.1", "::1"):
        assert client(net, BOX, "touch", host, status["port"]) in ("ECONNREFUSED", "ECONNRESET")
    assert box.status()["asked"] == []


def test_many_flows_at_once(box: Box):
    assert client(box.net, HMI, "many", PLACES[0], 5000, 5000) == "5000"
    until(lambda: box.status()["flows"]["tcp"] < 100, 20, "the end of the flows")
    assert client(box.net, HMI, "stream", PLACES[1], 5000, 1 << 20) == "same"
