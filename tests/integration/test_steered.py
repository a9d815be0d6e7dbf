"""Interception by nftables (`tproxy`, `redirect`) in network namespaces: programs on the box and on a device behind it,
both versions of IP, and what is left on the host after any end.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy.demo.plant import until
from tests.support.box import (
    FORGED,
    OTHER_POOLS,
    PLACES,
    STRANGER,
    Box,
    box_net,
    check_share_of_one_source,
    client,
    forged_source,
    stranger,
)
from tests.support.docs import ROOT
from tests.support.namespaces import BOX, HMI, SERVER, SERVER_ADDRESS, Namespaces
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
    # Where connections are tracked, the kernel redirects none from a port whose last one it still holds for reset.
    ports = {"tproxy": "20000 39999", "redirect": "40000 59999"}[request.param]
    net.run(HMI, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports}", check=True)
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


def unexpected(box: Box) -> list[str]:
    """Problems, but that redirect carries no UDP."""
    return [one for one in box.status()["problems"] if "which redirect does not carry" not in one]


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


FILTER = """table inet tracked {
chain through { type filter hook forward priority filter
ct state established accept
}
chain out { type filter hook output priority filter
ct state established accept
}
}
"""
"""A host that tracks connections, as any with a firewall does."""


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_a_connection_that_began_before_does_not_go_past_the_edge(
    net: Namespaces, tmp_path: Path, mode: str
):
    """The asset is also reached without the edge, as in a plant where it is to be intercepted from today on."""
    place = PLACES[2]
    nft = need_program("nft", "nftables")
    net.run(BOX, nft, FILTER, check=True)
    net.run(SERVER, "ip", "address", "add", f"{place}/32", "dev", "lo", check=True)
    net.run(SERVER, "ip", "route", "add", "192.168.77.0/24", "via", "10.9.0.1", check=True)
    net.run(BOX, "ip", "route", "add", "192.168.1.0/24", "via", SERVER_ADDRESS, check=True)
    program = [sys.executable, "-m", "tests.support.tun_client", "poll", place, "5000"]
    polls = [
        subprocess.Popen([*net.inside(side), *program], cwd=ROOT, text=True, stdout=subprocess.PIPE)
        for side in SIDES
    ]  # fmt: skip
    try:
        for one in polls:
            assert one.stdout is not None
            assert one.stdout.readline() == "answered\n"
        made = Box(net, f"mode={mode}", f"dir={tmp_path}", "name=fpast0")
        assert made.first == "ready", made.stop()
        assert [one.communicate(timeout=20)[0] for one in polls] == ["ECONNRESET\n"] * 2
        for side in SIDES:
            assert client(net, side, "stream", place, 5000, 1 << 16) == "same"
        made.stop()
    finally:
        for one in polls:
            one.kill()
            one.communicate()
        net.run(BOX, "ip", "route", "del", "192.168.1.0/24")
        net.run(SERVER, "ip", "route", "del", "192.168.77.0/24")
        net.run(SERVER, "ip", "address", "del", f"{place}/32", "dev", "lo")
        net.run(BOX, nft, "delete", "table", "inet", "tracked")


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
    assert unexpected(made) == []
    made.stop()
    without = Box(net, *options, before=(setpriv, "--bounding-set=-net_admin"))
    assert "CAP_NET_ADMIN" in without.first
    without.stop()


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_a_host_without_ipv6_is_served_by_ipv4(net: Namespaces, tmp_path: Path, mode: str):
    switch = "net.ipv6.conf.lo.disable_ipv6"
    net.run(BOX, "sysctl", "-qw", f"{switch}=1", check=True)
    try:
        made = Box(net, f"mode={mode}", f"dir={tmp_path}", "name=fno6")
        assert made.first == "ready", made.stop()
        assert client(net, HMI, "stream", PLACES[0], 5000, 1 << 16) == "same"
        assert unexpected(made) == []
        made.stop()
    finally:
        net.run(BOX, "sysctl", "-qw", f"{switch}=0", check=True)


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_a_device_is_known_by_its_hardware_address(net: Namespaces, tmp_path: Path, mode: str):
    """As the kernel has seen it on the LAN: besides its address, or alone, whatever address it has."""
    own = net.run(HMI, "cat", "/sys/class/net/fh/address", check=True).stdout.strip()
    other = "02:00:5e:00:53:01"

    @contextlib.contextmanager
    def known(by: str) -> Iterator[Box]:
        made = Box(net, f"mode={mode}", f"dir={tmp_path}", "name=fmac0", by)
        assert made.first == "ready", made.stop()
        try:
            yield made
        finally:
            made.stop()

    def served(made: Box, *whos: str) -> None:
        for who, host in zip(whos, PLACES[:2], strict=True):
            made.status()
            assert client(net, HMI, "stream", host, 5000, 1 << 16) == "same"
            if mode == "tproxy":
                assert client(net, HMI, "datagrams", host, 7000, 5) == "5"
            asked = made.status()["asked"]
            assert {one[0] for one in asked} == {who}
            assert len(asked) == (2 if mode == "tproxy" else 1)

    with known(f"mac={own}") as made:
        served(made, "hmi-0", "hmi-1")
    with known(f"mac={other}") as made:
        for host in PLACES[:2]:
            assert client(net, HMI, "knock", host, 5000) == "ECONNREFUSED", "the rules look at both"
            if mode == "tproxy":
                assert client(net, HMI, "datagrams", host, 7000, 5) in PROHIBITED
        wanted = 4 if mode == "tproxy" else 2
        until(lambda: len(made.status()["turned"]) >= wanted, 10, "the records")
        status = made.status()
        assert status["asked"] == []
        assert len(status["turned"]) == wanted
        assert all(
            f"but came from {own}, which is not its own" in one[2] for one in status["turned"]
        )
    with known(f"mac-alone={own}") as made:
        served(made, "hmi-mac", "hmi-mac")
        with stranger(net, PLACES[0]):
            assert client(net, HMI, "stream", PLACES[0], 5000, 1) == "same"
        assert made.status()["asked"] == [["hmi-mac", "plc-b.many", 5000]]
    with known(f"mac-alone={other}") as made:
        for host in PLACES[:2]:
            assert client(net, HMI, "knock", host, 5000) == "ECONNREFUSED", "nobody's"
        assert made.status()["asked"] == []


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
    box.status()
    assert client(net, side, "knock", host, 81) == "ECONNREFUSED", "no grant: no program sees it"
    assert client(net, side, "datagrams", host, 81, 10) in PROHIBITED, "the first one"
    assert client(net, side, "touch", host, 82) == "ECONNRESET", "a kill: accepted, then reset"
    assert client(net, side, "touch", host, 5002) == "ECONNRESET", "the asset refuses"
    assert client(net, side, "datagrams", host, 9, 10) in PROHIBITED
    target = f"[{host}]:99" if ":" in host else f"{host}:99"
    seen: list[list[object]] = []

    def recorded() -> bool:
        status = box.status()
        seen.extend(status["refused"])
        return target in [one[1] for one in status["turned"]] and len(seen) >= wanted

    wanted = 2 if box.mode == "tproxy" else 1
    until(recorded, 10, "the record")
    sender = who(side, host)
    assert seen == [[sender, "plc-b.denied", 0], [sender, "plc-b.denied-udp", 1]][:wanted]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("host", PLACES[:2])
def test_ping_is_refused_at_once_and_said_to_be(box: Box, side: str, host: str):
    """Neither mode carries it: it is no silence, and no reply of somebody else."""
    box.status()
    assert client(box.net, side, "echo", host, 0) in PROHIBITED
    reason = f"{box.mode} does not carry ping"
    until(
        lambda: any(one[1] == host and reason in one[2] for one in box.status()["turned"]),
        10, "the record",
    )  # fmt: skip


@pytest.mark.parametrize("side", SIDES)
def test_datagrams_of_a_flow_that_is_killed_are_refused_from_the_second_on(box: Box, side: str):
    for host in PLACES[:2]:
        assert client(box.net, side, "chatter", host, 82) in PROHIBITED


def test_a_device_that_nobody_knows_is_nobody(box: Box):
    with stranger(box.net, PLACES[0]):
        box.status()
        assert client(box.net, HMI, "knock", PLACES[0], 5000) == "ECONNREFUSED"
        until(
            lambda: [STRANGER, "plc-b.many"] in [one[:2] for one in box.status()["turned"]],
            10, "the record",
        )  # fmt: skip
        assert box.status()["asked"] == []


def test_the_rules_follow_the_grants_and_leave_connections_alone(box: Box):
    """Refused is who has no grant, and nobody else; each attempt is recorded."""
    net, host = box.net, PLACES[2]
    use = "hmi-0 plc-b.many 0"
    command = [sys.executable, "-m", "tests.support.steady_flows", host, "tcp"]
    flows = subprocess.Popen(
        [*net.inside(HMI), *command], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip

    def knocked(answer: str) -> bool:
        return client(net, HMI, "knock", host, 5000) == answer

    def moves() -> bool:
        told = json.loads(ask(flows))
        return all(told[name]["count"] for name in ("poll", "bulk"))

    try:
        until(moves, 20, "the flows")
        box.status()
        box.tell(f"deny {use}")
        until(partial(knocked, "ECONNREFUSED"), 10, "the end of the grant")
        until(lambda: box.status()["refused"], 10, "the record")
        box.status()
        for _ in range(3):
            assert knocked("ECONNREFUSED")
        assert client(net, BOX, "knock", host, 5000) == "connected", "who else has one"
        assert client(net, HMI, "knock", PLACES[3], 5000) == "connected"
        refused: list[object] = []

        def recorded() -> bool:
            refused.extend(box.status()["refused"])
            return len(refused) > 2

        until(recorded, 10, "the records")
        assert refused == [["hmi-0", "plc-b.many", 0]] * 3
        box.tell(f"allow {use}")
        until(partial(knocked, "connected"), 10, "the grant")
        told = json.loads(flows.communicate(timeout=30)[0])
        assert not any(one["failure"] for one in told.values()), told
    finally:
        box.tell(f"allow {use}")
        flows.kill()
        flows.communicate()


def ask(flows: subprocess.Popen[str]) -> str:
    """What `tests.support.steady_flows` says now."""
    assert flows.stdin is not None
    assert flows.stdout is not None
    flows.stdin.write("\n")
    flows.stdin.flush()
    return flows.stdout.readline()


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


def test_a_second_edge_with_the_same_name_is_told_so_and_takes_nothing_away(
    box: Box, tmp_path: Path
):
    """A table of the same name would take the place of the first one's."""
    before = box.net.run(BOX, "nft", "list", "tables").stdout
    second = Box(box.net, f"mode={box.mode}", f"dir={tmp_path}", OTHER_POOLS)
    assert (
        "where another edge runs on this host, give this one another name than ftun0 with --tun"
        in second.first
    )
    second.stop()
    assert box.net.run(BOX, "nft", "list", "tables").stdout == before
    assert client(box.net, HMI, "knock", PLACES[0], 5000) == "connected"


@pytest.mark.parametrize("mode", ["tun", "tproxy", "redirect"])
def test_a_second_edge_with_the_same_pool_is_told_so_and_takes_nothing_away(
    box: Box, tmp_path: Path, mode: str
):
    """By its rules or routes the pool would be its own."""
    second = Box(box.net, f"mode={mode}", f"dir={tmp_path}", "name=fpool0")
    assert "100.64.0.1 is an address of this host already" in second.first
    second.stop()
    for side in SIDES:
        assert client(box.net, side, "stream", PLACES[0], 5000, 1 << 16) == "same"


def test_many_flows_at_once_and_no_more_of_one_device_than_leave_the_others_room(box: Box):
    check_share_of_one_source(box)
    until(lambda: box.status()["flows"]["tcp"] < 100, 20, "the end of the flows")
    assert client(box.net, HMI, "stream", PLACES[1], 5000, 1 << 20) == "same"
