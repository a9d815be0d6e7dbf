"""A device the way to which takes less than the box's own network, which only a router between them knows, says and the
box has to hear: "fragmentation needed", and "packet too big" of IPv6. By every mode, in network namespaces.
"""

import ipaddress
import struct
from collections.abc import Iterator

import pytest

from deploy.demo.plant import until
from edge.packets.checksum import add_up
from tests.support.box import PLACES, Box, box_net, client
from tests.support.namespaces import BOX, FAR, HMI, Namespaces, narrow_way
from tests.support.needs import need_program

pytestmark = pytest.mark.timeout(120)
MTU = 1280
SAID = ("IcmpOutDestUnreachs", "Icmp6OutPktTooBigs")
HEARD = ("IcmpInDestUnreachs", "Icmp6InPktTooBigs")


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    need_program("nft", "nftables")
    need_program("nstat", "iproute2")
    with box_net() as made, narrow_way(made, MTU):
        yield made


@pytest.fixture(scope="module", params=["tun", "tproxy", "redirect"])
def box(
    request: pytest.FixtureRequest, net: Namespaces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    made = Box(net, f"mode={request.param}", f"dir={tmp_path_factory.mktemp('box')}")
    made.mode = request.param
    assert made.first == "ready", made.stop()
    yield made
    made.stop()


def forget(net: Namespaces) -> None:
    """The box knows nothing of the way from before."""
    for version in ("-4", "-6"):
        net.run(BOX, "ip", version, "route", "flush", "cache", check=True)


def counted(net: Namespaces, side: str, names: tuple[str, ...]) -> int:
    """How often a kernel said, or heard, that a packet is too long."""
    told = net.run(side, "nstat", "-asz", *names, check=True).stdout
    return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("Icmp"))


@pytest.mark.parametrize("host", PLACES)
def test_bulk_arrives_where_only_a_router_on_the_way_knows_how_narrow_it_is(box: Box, host: str):
    forget(box.net)
    before, heard = counted(box.net, HMI, SAID), counted(box.net, BOX, HEARD)
    assert client(box.net, FAR, "stream", host, 5000, 1 << 20) == "same"
    assert counted(box.net, HMI, SAID) > before, "the router said that it was too long"
    if box.mode != "tun":
        assert counted(box.net, BOX, HEARD) > heard, "and the kernel that has the connection heard"
    assert [one[0] for one in box.status()["asked"]] == [f"far-{':' in host:d}"]


@pytest.mark.parametrize("host", PLACES[:2])
def test_datagrams_arrive_once_the_way_is_known(box: Box, host: str):
    """The first one tells how narrow it is, and may be lost of that."""
    if box.mode == "redirect":
        pytest.skip("it carries no UDP")
    forget(box.net)
    first, *rest = client(box.net, FAR, "datagrams", host, 7000, 1400, 1400, 1200).split()
    assert first in ("1400", "silence")
    assert rest == ["1400", "1200"]


@pytest.mark.parametrize("host", PLACES)
def test_who_quotes_no_connection_is_not_heard_and_is_recorded(box: Box, host: str):
    """Nothing but what is about a connection passes the rules, and by TUN only an edge hears it."""
    net, sender = box.net, ("fd77::20" if ":" in host else "192.168.77.20")
    narrow = "fd78::20" if ":" in host else "192.168.78.20"
    forget(net)
    box.status()
    heard = counted(net, BOX, HEARD)
    assert client(net, HMI, "raw", host, too_big(sender, host, quoted(host, narrow))) == "1"
    if box.mode != "tun":
        until(
            lambda: any(one[:2] == [sender, host] and "no connection" in one[2]
                        for one in box.status()["turned"]),
            10, "the record",
        )  # fmt: skip
    assert counted(net, BOX, HEARD) == heard
    for client_ in (sender, narrow):
        assert "mtu" not in net.run(BOX, "ip", "route", "get", client_, check=True).stdout
    assert box.status()["asked"] == []


def quoted(source: str, destination: str) -> bytes:
    """The beginning of a TCP segment that nobody has sent."""
    return header(source, destination, 6, 1460) + struct.pack("!HHI", 5000, 40_000, 1)


def too_big(source: str, destination: str, about: bytes) -> str:
    """As `raw` of `tests.support.tun_client` takes it."""
    if ":" in source:
        return "58:" + (struct.pack("!BBHI", 2, 0, 0, MTU) + about).hex()
    body = struct.pack("!BBHI", 3, 4, 0, 600) + about
    body = body[:2] + (~add_up(body) & 0xFFFF).to_bytes(2, "big") + body[4:]
    return (header(source, destination, 1, len(body)) + body).hex()


def header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """Of IP. `length`: bytes behind it."""
    addresses = b"".join(ipaddress.ip_address(one).packed for one in (source, destination))
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + addresses
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, protocol, 0) + addresses
