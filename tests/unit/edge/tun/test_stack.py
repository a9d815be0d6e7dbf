"""A device's packets, from the virtio-net header on: rewritten exactly, judged before anything moves, never a crash."""

import asyncio
import ipaddress
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.intercept.table import Table
from edge.packets import answers, virtio
from edge.packets.checksum import add_up, fold, holds, pseudo_header
from edge.packets.ip import ICMP, TCP, UDP, read_packet, v4_header, v6_header
from edge.packets.transport import read_message, read_segment
from edge.tun import ping, tcp, udp
from edge.tun.ground import Denial, Ground
from edge.tun.nat import Addresses, Nat
from edge.tun.stack import Stack
from overlay.aio.circuit_roles import Refused
from overlay.control.messages import BehindEntry, InterceptEntry, ServicePorts
from overlay.errors import Code
from overlay.policy.interception import Pools

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/packets.json").read_text())
POOLS = Pools(ipaddress.IPv4Network("100.64.0.0/10"), ipaddress.IPv6Network("fd64::/64"))
HMI, PLC = bytes([192, 168, 1, 20]), bytes([100, 64, 0, 7])
HMI6, PLC6 = (ipaddress.ip_address(text).packed for text in ("fd00:1::20", "fd64::7"))
ME, FAKE = bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2])
ME6, FAKE6 = bytes(15) + b"\1", bytes(15) + b"\2"


class Stream:
    """A circuit that opens when the test says so."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: Any = loop.create_future()
        self.opened: Any = loop.create_future()
        self.sent: list[bytes] = []
        self.user: Any = None
        self.aborted: list[Any] = []

    async def ready(self) -> None:
        await self.opened

    def start(self, user: Any) -> None:
        self.user = user

    def send_datagram(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def abort(self, code: Code, reason: str) -> None:
        self.aborted.append((code, reason))
        if not self.opened.done():
            self.opened.set_exception(Refused(code, reason))
        if not self.closed.done():
            self.closed.set_result(None)


class Bench:
    """A stack on a socket pair in place of a device; `written` is what it gave to the kernel."""

    def __init__(self, denial: Denial = Denial.RESET, *, at_once: bool = False) -> None:
        self.ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(0)
        self.kernel.settimeout(0)
        self.asked: list[tuple[str, str, int]] = []
        self.strangers: list[tuple[str, str, str]] = []
        self.streams: list[Stream] = []
        self.refuse = False
        self.time = 100.0
        services = (
            ServicePorts("plc-b.modbus", 502, 502, 0, at_once),
            ServicePorts("plc-b.snmp", 161, 161, 1),
            ServicePorts("plc-b.many", 5000, 5999, 0),
        )
        entries = (InterceptEntry("plc-b", 7, services, "box", 0),)
        behind = [BehindEntry("hmi", str(ipaddress.ip_address(one))) for one in (HMI, HMI6)]
        table = Table(entries, behind, POOLS, "edge-a")
        device: Any = SimpleNamespace(queues=(self.ours.fileno(),), mtu=1500)
        sources: Any = SimpleNamespace(own=lambda _: False, mac=lambda _: None)
        caught: Any = self
        self.ground = Ground(self._write, lambda: self.time, caught, lambda: table, sources, denial)
        self.nat = Nat([Addresses(ME, FAKE), Addresses(ME6, FAKE6)], 4000)
        self.tcp = tcp.Tcp(self.ground, self.nat)
        self.udp = udp.Udp(self.ground, 1500)
        self.pings = ping.Pings(self.ground)
        self.lost = False
        self.stack = Stack(device, self.ground, self.tcp, self.udp, self.pings, self._gone)

    def _gone(self) -> None:
        self.lost = True

    def _write(self, packet: bytes, _: int) -> bool:
        return os.write(self.ours.fileno(), packet) == len(packet)

    def open(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        self.asked.append((who, service, port))
        if self.refuse:
            return None
        self.streams.append(Stream())
        return self.streams[-1]

    def flow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        return self.open(who, service, port)

    def echo(self, who: str, asset: str, address: bytes = b"") -> Any:
        return self.open(who, asset)

    def turned_away(self, source: str, target: str, reason: str) -> None:
        self.strangers.append((source, target, reason))

    def put(self, packet: bytes, header: bytes = virtio.PLAIN) -> None:
        """From the kernel, and as if the loop had turned."""
        self.kernel.send(header + packet)
        self.stack._readable(self.ours.fileno())

    def taken(self) -> list[bytes]:
        """What the kernel got, each with its header."""
        found = []
        while True:
            try:
                found.append(self.kernel.recv(70_000))
            except BlockingIOError:
                return found

    async def close(self) -> None:
        self.stack.stop()
        self.tcp.close()
        for stream in self.streams:
            if stream.user is not None:
                stream.user.closed(None)
        await turn()
        self.ours.close()
        self.kernel.close()


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.close()


def segment(
    flags: int,
    source: bytes = HMI,
    destination: bytes = PLC,
    ports: tuple[int, int] = (50_000, 502),
    payload: bytes = b"",
    *,
    options: bytes = b"",
    partial: bool = False,
) -> bytes:
    """A TCP packet with right sums; `options` are of IP (IPv4)."""
    body = bytearray(
        ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + bytes(8)
        + bytes([0x50, flags]) + bytes(6) + payload
    )  # fmt: skip
    pseudo = pseudo_header(source, destination, TCP, len(body))
    total = pseudo if partial else ~fold(add_up(body) + pseudo) & 0xFFFF
    body[16:18] = total.to_bytes(2, "big")
    if len(source) == 16:
        return bytes(v6_header(source, destination, TCP, len(body)) + body)
    header = v4_header(source, destination, TCP, len(options) + len(body))
    header[0] = 0x45 + len(options) // 4
    header += options
    header[10:12] = (~add_up(header) & 0xFFFF).to_bytes(2, "big")
    return bytes(header + body)


def datagram(payload: bytes, source: bytes = HMI, destination: bytes = PLC, port: int = 161):
    """A UDP packet with its header, as the device gets it."""
    (made,) = answers.datagrams(source, destination, (5, port), payload, ident=1, mtu=65_000)
    return made


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def opened(bench: Bench, **shape: Any) -> Any:
    """A flow whose SYN was passed on."""
    bench.put(segment(2, **shape))
    bench.streams[-1].opened.set_result(None)
    await turn()
    assert len(bench.taken()) == 1
    return next(flow for flow in bench.nat)


async def test_a_syn_is_held_until_the_asset_has_answered(bench: Bench):
    bench.put(segment(2))
    bench.put(segment(2))
    assert bench.asked == [("hmi", "plc-b.modbus", 0)], "its repetition asks nobody"
    assert bench.taken() == []
    assert bench.tcp.held == 1
    bench.streams[0].opened.set_result(None)
    await turn()
    (syn,) = bench.taken()
    packet = read_packet(memoryview(syn)[10:])
    assert (packet.source, packet.destination) == (FAKE, ME)
    assert read_segment(memoryview(syn)[10:], packet).opens
    assert (bench.tcp.held, len(bench.nat)) == (0, 1)


async def test_an_asset_that_does_not_answer_resets_the_client(bench: Bench):
    bench.put(segment(2))
    bench.streams[0].opened.set_exception(Refused(Code.UNREACHABLE, "no answer"))
    await turn()
    (answer,) = bench.taken()
    packet = read_packet(memoryview(answer)[10:])
    found = read_segment(memoryview(answer)[10:], packet)
    assert (packet.source, packet.destination, found.flags) == (PLC, HMI, 0x14)
    assert len(bench.nat) == bench.tcp.held == 0


async def test_without_holding_the_syn_passes_at_once():
    bench = Bench(at_once=True)
    bench.put(segment(2))
    assert len(bench.taken()) == 1
    await bench.close()


@pytest.mark.parametrize("denial", list(Denial))
async def test_a_denied_syn_is_answered_as_configured(denial: Denial):
    bench = Bench(denial)
    bench.refuse = True
    bench.put(segment(2))
    answered = bench.taken()
    if denial is Denial.DROP:
        assert answered == []
    else:
        packet = read_packet(memoryview(answered[0])[10:])
        assert packet.protocol == (TCP if denial is Denial.RESET else ICMP)
        if denial is Denial.PROHIBIT:
            message = read_message(memoryview(answered[0])[10:], packet)
            assert (message.kind, message.code) == (3, 13)
    assert len(bench.nat) == 0
    await bench.close()


async def test_answers_to_one_source_are_limited(bench: Bench):
    bench.refuse = True
    for number in range(500):
        bench.put(segment(2, ports=(1000 + number, 502)))
    assert len(bench.taken()) <= 100
    assert len(bench.asked) == 500, "each attempt is judged and recorded all the same"


async def test_nobody_and_nothing_are_turned_away_and_recorded(bench: Bench):
    stranger = bytes([192, 168, 1, 66])
    bench.put(segment(2, stranger))
    bench.put(segment(2, ports=(50_000, 23)))
    assert bench.asked == []
    assert bench.strangers == [
        ("192.168.1.66", "plc-b.modbus", "192.168.1.66 is the address of no asset behind edge-a"),
        ("192.168.1.20", "100.64.0.7:23", "nothing is intercepted at 100.64.0.7 port 23"),
    ]
    assert len(bench.taken()) == 2


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("partial", [False, True])
async def test_the_fast_path_gives_what_building_anew_gives(six: bool, partial: bool):
    bench = Bench()
    source, destination, me, fake = (HMI6, PLC6, ME6, FAKE6) if six else (HMI, PLC, ME, FAKE)
    flow = await opened(bench, source=source, destination=destination)
    header = virtio.partial_checksum(40 if six else 20, 16) if partial else virtio.PLAIN

    @settings(max_examples=60)
    @given(st.binary(max_size=1400), st.integers(0, 255))
    def check(payload: bytes, bits: int) -> None:
        flags = bits & ~2
        there: dict[str, Any] = {"payload": payload, "partial": partial}
        bench.put(segment(flags, source, destination, **there), header)
        want = segment(flags, fake, me, (flow.port, 4000), **there)
        assert_same(bench.taken(), header + want)
        bench.put(segment(flags, me, fake, (4000, flow.port), **there), header)
        want = segment(flags, destination, source, (502, 50_000), **there)
        assert_same(bench.taken(), header + want)

    check()
    await bench.close()


def assert_same(taken: list[bytes], want: bytes) -> None:
    """Equal, or with the other zero of one's complement in a checksum."""
    assert len(taken) == 1
    if taken[0] != want:
        assert [
            (a, b) for a, b in zip(taken[0], want, strict=True) if a != b and {a, b} != {0, 255}
        ] == []


async def test_options_of_ip_take_the_slow_path_and_are_translated_as_well(bench: Bench):
    flow = await opened(bench)
    options = b"\x94\x04\0\0"  # router alert
    bench.put(segment(0x18, payload=b"poll", options=options))
    want = segment(0x18, FAKE, ME, (flow.port, 4000), b"poll", options=options)
    assert_same(bench.taken(), virtio.PLAIN + want)
    bench.put(segment(2, ports=(50_001, 502), options=options))
    assert len(bench.asked) == 2, "a SYN with options is judged as any"


async def test_a_stray_segment_is_reset_and_a_reset_is_not_answered(bench: Bench):
    bench.put(segment(0x10))
    bench.put(segment(0x04))
    assert len(bench.taken()) == 1
    assert bench.asked == []


async def test_a_wrong_checksum_stays_wrong(bench: Bench):
    await opened(bench)
    packet = bytearray(segment(0x18, payload=b"poll"))
    packet[-1] ^= 1
    bench.put(bytes(packet))
    (taken,) = bench.taken()
    found = read_packet(memoryview(taken)[10:])
    body = memoryview(taken)[10 + found.start :]
    assert not holds(body, pseudo_header(found.source, found.destination, TCP, len(body)))


async def test_a_connection_that_is_nobodys_is_cut(bench: Bench):
    flow = await opened(bench)
    cut = []
    stranger: Any = SimpleNamespace(peer=("198.18.0.2", flow.port + 1), abort=lambda: cut.append(1))
    bench.tcp.accepted(stranger)
    local: Any = SimpleNamespace(peer=("198.18.0.1", flow.port), abort=lambda: cut.append(2))
    bench.tcp.accepted(local)
    assert cut == [1, 2]


async def test_a_client_that_never_finishes_its_handshake_costs_no_circuit_for_ever(bench: Bench):
    await opened(bench)
    bench.time += 31
    bench.stack.sweep()
    assert bench.streams[0].aborted[0][0] is Code.IDLE


async def test_held_syns_are_bounded_for_one_source(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tcp, "HELD_PER_SOURCE", 5)
    for number in range(9):
        bench.put(segment(2, ports=(1000 + number, 502)))
    assert bench.tcp.held == 5
    assert len(bench.asked) == 5
    for stream in bench.streams:
        stream.opened.set_exception(Refused(Code.UNREACHABLE, ""))
    await turn()
    assert bench.tcp.held == 0


async def test_datagrams_keep_their_boundaries_and_trains_are_taken_apart(bench: Bench):
    bench.put(datagram(b"one")[10:], datagram(b"one")[:10])
    train = datagram(b"aaaabbbbcc")
    bench.put(train[10:], virtio.partial_checksum(20, 6, gso_type=virtio.GSO_UDP, gso_size=4))
    assert bench.streams[0].sent == [b"one", b"aaaa", b"bbbb", b"cc"]
    bench.streams[0].user.data(b"reply")
    (reply,) = bench.taken()
    packet = read_packet(memoryview(reply)[10:])
    assert (packet.source, packet.destination, packet.protocol) == (PLC, HMI, UDP)
    assert reply[30:34] == bytes([0, 161, 0, 5])
    assert reply.endswith(b"reply")


async def test_udp_flows_are_bounded_and_freed(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(udp, "PER_SOURCE", 3)
    made = bytearray(datagram(b"x"))
    for number in range(5):
        made[30:32] = (100 + number).to_bytes(2, "big")
        bench.put(bytes(made[10:]), bytes(made[:10]))
    assert len(bench.udp) == 3
    bench.streams[0].user.closed(None)
    made[30:32] = (900).to_bytes(2, "big")
    bench.put(bytes(made[10:]), bytes(made[:10]))
    assert len(bench.udp) == 3
    assert len(bench.asked) == 4


async def test_an_echo_request_travels_and_its_reply_comes_from_the_asset(bench: Bench):
    request = bytearray(answers.echo_reply(HMI, PLC, 7, 3, b"ping"))
    request[30] = 8
    request[32:34] = bytes(2)
    request[32:34] = (~add_up(request[30:]) & 0xFFFF).to_bytes(2, "big")
    bench.put(bytes(request[10:]))
    assert bench.asked == [("hmi", "plc-b", 0)]
    assert bench.streams[0].sent == [b"\0\7\0\3ping"]
    bench.streams[0].user.data(b"\0\7\0\3ping")
    (reply,) = bench.taken()
    assert reply == answers.echo_reply(PLC, HMI, 7, 3, b"ping")


@pytest.mark.parametrize("six", [False, True])
async def test_too_big_reaches_the_kernels_tcp_about_its_own_packet(six: bool):
    bench = Bench()
    source, destination, me, fake = (HMI6, PLC6, ME6, FAKE6) if six else (HMI, PLC, ME, FAKE)
    flow = await opened(bench, source=source, destination=destination)
    sent = segment(0x10, destination, source, (502, 50_000), b"much")
    error = answers.too_big(memoryview(sent), read_packet(memoryview(sent)), 1280)
    bench.put(error[10:])
    (translated,) = bench.taken()
    mine = segment(0x10, me, fake, (4000, flow.port), b"much")
    want = answers.too_big(memoryview(mine), read_packet(memoryview(mine)), 1280)
    start = 10 + (40 if six else 20)
    assert translated[:start] == want[:start]
    quoted = translated[start + 8 : start + 8 + len(mine)]
    at = (8, 40) if six else (12, 20)
    assert quoted[at[0] : at[1] + 4] == mine[at[0] : at[1] + 4]
    message = read_message(memoryview(translated)[10:], read_packet(memoryview(translated)[10:]))
    assert message.kind == (2 if six else 3)
    await bench.close()


async def test_what_no_honest_sender_makes_is_dropped_without_a_word(bench: Bench):
    for vector in VECTORS["read"]:
        if vector["want"] in ("insane", "error", "other"):
            bench.put(bytes.fromhex(vector["bytes"]))
    assert not bench.asked
    assert not bench.strangers
    assert not bench.taken()


@given(st.data())
@settings(max_examples=200)
def test_no_packet_breaks_the_stack_or_gets_past_the_table(data: st.DataObject):
    async def run() -> None:
        bench = Bench()
        try:
            for _ in range(data.draw(st.integers(1, 4))):
                packet = bytearray(
                    bytes.fromhex(data.draw(st.sampled_from(VECTORS["read"]))["bytes"])
                )
                for _ in range(data.draw(st.integers(0, 5))):
                    packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(
                        st.integers(0, 255)
                    )
                header = data.draw(
                    st.one_of(st.just(virtio.PLAIN), st.binary(min_size=10, max_size=10))
                )
                bench.put(bytes(packet[: data.draw(st.integers(1, len(packet)))]), header)
            for who, service, port in bench.asked:
                assert (who, service) in {
                    ("hmi", "plc-b.modbus"), ("hmi", "plc-b.snmp"), ("hmi", "plc-b.many"), ("hmi", "plc-b"),
                }  # fmt: skip
                assert not port or 5000 <= port <= 5999
        finally:
            await bench.close()

    asyncio.run(run())
