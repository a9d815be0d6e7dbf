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

from edge.host.echo import MAX_ECHO
from edge.intercept.table import Table
from edge.packets import answers, virtio
from edge.packets.checksum import add_up, fold, holds, pseudo_header
from edge.packets.ip import ICMP, TCP, UDP, read_packet, v4_header, v6_header
from edge.packets.transport import read_message, read_segment
from edge.tun import narrow, ping, tcp, udp
from edge.tun.ground import Denial, Ground
from edge.tun.nat import Addresses, Nat
from edge.tun.stack import COSTLY, DRAIN, DRAIN_BYTES, Stack
from overlay.aio.circuit_roles import Refused
from overlay.control.messages import BehindEntry, InterceptEntry, ServicePorts
from overlay.errors import Code
from overlay.policy.interception import Pools

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/packets.json").read_text())
POOLS = Pools(ipaddress.IPv4Network("100.64.0.0/10"), ipaddress.IPv6Network("fd64::/64"))
HMI, PLC = bytes([192, 168, 1, 20]), bytes([100, 64, 0, 7])
HMI6, PLC6 = (ipaddress.ip_address(text).packed for text in ("fd00:1::20", "fd64::7"))
ME, FAKE = bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2])
ME6, FAKE6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"


class Stream:
    """A circuit that opens when the test says so."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: Any = loop.create_future()
        self.opened: Any = loop.create_future()
        self.sent: list[bytes] = []
        self.mores: list[bool] = []
        self.user: Any = None
        self.aborted: list[Any] = []

    async def ready(self) -> None:
        await self.opened

    def start(self, user: Any) -> None:
        self.user = user

    def send_datagram(self, data: Any, *, more: bool = False) -> None:
        self.sent.append(bytes(data))
        self.mores.append(more)

    def abort(self, code: Code, reason: str) -> None:
        self.aborted.append((code, reason))
        if not self.opened.done():
            self.opened.set_exception(Refused(code, reason))
            self.opened.exception()  # nobody may wait for it
        if not self.closed.done():
            self.closed.set_result(None)


class Bench:
    """A stack on socket pairs in place of the queues of a device."""

    def __init__(self, denial: Denial = Denial.RESET, *, at_once: bool = False) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for pair in self.pairs:
            for sock in pair:
                sock.settimeout(0)
        self.ours, self.kernel = self.pairs[0]
        self.asked: list[tuple[str, str, int]] = []
        self.strangers: list[tuple[str, str, str]] = []
        self.streams: list[Stream] = []
        self.early: list[bytes] = []
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
        device: Any = SimpleNamespace(queues=[ours.fileno() for ours, _ in self.pairs], mtu=1500)
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

    def _write(self, packet: bytes, queue: int) -> bool:
        return os.write(queue, packet) == len(packet)

    def open(
        self, who: str, service: str, port: int = 0, address: bytes = b"", early: bytes = b""
    ) -> Any:
        self.asked.append((who, service, port))
        if self.refuse:
            return None
        self.streams.append(Stream())
        return self.streams[-1]

    def allow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        self.asked.append((who, service, port))
        if self.refuse:
            return None

        def opener(early: bytes) -> Any:
            if self.refuse:
                return None
            self.early.append(early)
            self.streams.append(Stream())
            return self.streams[-1]

        return opener

    def flow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        return self.open(who, service, port)

    def echo(self, who: str, asset: str, address: bytes = b"") -> Any:
        return self.open(who, asset)

    def refused(self, who: str, service: str, transport: int) -> None:
        raise NotImplementedError

    def turned_away(self, source: str, target: str, reason: str) -> None:
        self.strangers.append((source, target, reason))

    def put(self, packet: bytes, header: bytes = virtio.PLAIN, *, queue: int = 0) -> None:
        """From the kernel, and as if the loop had turned."""
        ours, kernel = self.pairs[queue]
        kernel.send(header + packet)
        self.stack._readable(ours.fileno())

    def taken(self, queue: int = 0) -> list[bytes]:
        """What the kernel got by a queue, each with its header."""
        found = []
        while True:
            try:
                found.append(self.pairs[queue][1].recv(70_000))
            except BlockingIOError:
                return found

    async def close(self) -> None:
        self.stack.stop()
        self.tcp.close()
        for stream in self.streams:
            if stream.user is not None:
                stream.user.closed(None)
        await turn()
        for pair in self.pairs:
            for sock in pair:
                sock.close()


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
    sequence: int = 0,
) -> bytes:
    """A TCP packet with right sums; `options` are of IP (IPv4)."""
    body = bytearray(
        ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + sequence.to_bytes(4, "big") + bytes(4)
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
    (made,) = answers.Datagrams(source, destination, (5, port)).packets(
        payload, ident=1, mtu=65_000
    )
    return made


def echo_request(destination: bytes = PLC, payload: bytes = b"ping") -> bytes:
    request = bytearray(answers.echo_reply(HMI, destination, 7, 3, payload)[10:])
    request[20] = 8
    request[22:24] = bytes(2)
    request[22:24] = (~add_up(request[20:]) & 0xFFFF).to_bytes(2, "big")
    return bytes(request)


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


async def test_a_client_that_uses_its_port_again_is_judged_again(bench: Bench):
    flow = await opened(bench)
    bench.put(segment(2))
    assert (len(bench.asked), len(bench.taken())) == (1, 1), "it only repeats itself"
    bench.streams[-1].closed.set_result(None)
    await turn()
    bench.put(segment(2))
    assert (len(bench.asked), bench.taken()) == (2, [])
    bench.streams[-1].opened.set_result(None)
    await turn()
    (syn,) = bench.taken()
    packet = read_packet(memoryview(syn)[10:])
    assert read_segment(memoryview(syn)[10:], packet).source != flow.port


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


STRANGER = bytes([192, 168, 1, 66])
UNWANTED = {
    "stray": virtio.PLAIN + segment(0x10),
    "stray with data": virtio.PLAIN + segment(0x18, payload=b"x"),
    "stray end": virtio.PLAIN + segment(0x11),
    "SYN of nobody": virtio.PLAIN + segment(2, STRANGER),
    "SYN to nothing": virtio.PLAIN + segment(2, ports=(50_000, 23)),
    "SYN of IPv6": virtio.PLAIN + segment(2, HMI6, PLC6),
    "segment with options of IP": virtio.PLAIN + segment(0x10, options=bytes([1, 1, 1, 0])),
    "datagram": datagram(b"x"),
    "datagram of nobody": datagram(b"x", STRANGER),
    "datagram to nothing": datagram(b"x", port=9),
    "ping": virtio.PLAIN + echo_request(),
    "ping to nothing": virtio.PLAIN + echo_request(bytes([100, 64, 0, 99])),
}
"""As the device gives them, each with its header."""


@pytest.mark.parametrize("denial", list(Denial))
@pytest.mark.parametrize("name", UNWANTED)
async def test_what_is_unwanted_is_answered_or_met_with_silence(denial: Denial, name: str):
    """Neither a reset nor an error tells a sender without a grant that somebody is there."""
    bench = Bench(denial)
    bench.refuse = True
    bench.put(UNWANTED[name][10:], UNWANTED[name][:10])
    assert len(bench.taken()) == (denial is not Denial.DROP)
    await bench.close()


@pytest.mark.parametrize(
    ("code", "denial", "answered"),
    [(Code.KILLED, Denial.DROP, 0), (Code.WITHDRAWN, Denial.DROP, 0), (Code.KILLED, Denial.PROHIBIT, ICMP),
     (Code.KILLED, Denial.RESET, TCP), (Code.UNREACHABLE, Denial.DROP, TCP), (Code.BUSY, Denial.PROHIBIT, TCP)],
)  # fmt: skip
async def test_a_held_syn_that_another_node_denies_is_denied_here(
    code: Code, denial: Denial, answered: int
):
    """What may not be is met as configured; what the asset or the way says is a reset."""
    bench = Bench(denial)
    bench.put(segment(2))
    bench.streams[0].opened.set_exception(Refused(code, "no"))
    await turn()
    found = [read_packet(memoryview(one)[10:]).protocol for one in bench.taken()]
    assert found == [answered] * bool(answered)
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


@pytest.mark.parametrize(
    "options",
    [
        b"\x83\x07\x04\x0a\0\0\1\0", b"\1\x89\x07\x04\x0a\0\0\1", b"\x94\x00\0\0", b"\x94\x09\0\0", b"\1\1\1\x94",
    ],
    ids=["loose source route", "strict source route", "no length", "beyond the end", "cut off"],
)  # fmt: skip
async def test_options_that_lie_or_lead_on_to_somewhere_else_are_malformed(
    bench: Bench, options: bytes
):
    await opened(bench)
    bench.put(segment(0x18, payload=b"poll", options=options))
    bench.put(segment(2, ports=(50_001, 502), options=options))
    assert bench.taken() == []
    assert len(bench.asked) == 1
    assert bench.ground.counts["malformed"] == 2


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


@pytest.mark.parametrize("limit", ["HELD", "HELD_PER_SOURCE"])
async def test_held_syns_are_bounded_in_all_and_for_one_source(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: str
):
    monkeypatch.setattr(tcp, limit, 5)
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


@pytest.mark.parametrize("six", [False, True])
async def test_a_usual_datagram_of_a_flow_that_lives_takes_the_short_way(six: bool):
    bench = Bench()
    ends = (HMI6, PLC6) if six else (HMI, PLC)
    bench.put(datagram(b"one", *ends)[10:], datagram(b"one", *ends)[:10])
    bench.stack.packet = None  # type: ignore[assignment,method-assign]
    bench.put(datagram(b"two", *ends)[10:], datagram(b"two", *ends)[:10])
    bench.put(datagram(b"", *ends)[10:], bytes([virtio.DATA_VALID]) + bytes(9))
    assert bench.streams[0].sent == [b"one", b"two", b""]
    await bench.close()


async def test_a_datagram_that_ends_within_its_header_is_malformed(bench: Bench):
    good = datagram(b"one", HMI6, PLC6)
    bench.put(good[10:], good[:10])
    for left in range(8):
        short = bytearray(good[: 50 + left])
        short[14:16] = bytes([0, left])
        bench.put(bytes(short[10:]), bytes([virtio.DATA_VALID]) + bytes(9))
    assert bench.streams[0].sent == [b"one"]
    assert bench.ground.counts["malformed"] == 8


def outcome(bench: Bench, packets: list[tuple[bytes, bytes]]) -> object:
    for header, packet in packets:
        bench.put(packet, header)
    return [stream.sent for stream in bench.streams], bench.asked, bench.strangers, bench.taken()


@given(st.data())
@settings(max_examples=200)
def test_the_short_way_takes_nothing_that_reading_with_care_would_not(data: st.DataObject):
    async def run() -> None:
        six = data.draw(st.booleans())
        good = datagram(b"payload", *((HMI6, PLC6) if six else (HMI, PLC)))
        packets = [(good[:10], good[10:])]
        for _ in range(3):
            packet = bytearray(good) + data.draw(st.sampled_from([b"", b"tail"]))
            # What the kernel says of the packet; version, length and fragment of IP; its protocol; the length of UDP.
            start = 50 if six else 30
            places = (0, 1, 6, 8, 10, 13, 14, 15, 16, 17, 19, start + 4, start + 5)
            values = st.sampled_from(
                [0, 1, 2, 3, 5, 7, 8, 14, 15, 16, 17, 20, 27, 28, 34, 36, 40, 64, 255]
            )
            for at, value in data.draw(
                st.lists(st.tuples(st.sampled_from(places), values), max_size=2)
            ):
                packet[at] = value
            if data.draw(st.booleans()):
                del packet[data.draw(st.integers(start, len(packet))) :]
            packets.append((bytes(packet[:10]), bytes(packet[10:])))
        short, careful = Bench(), Bench()
        careful.udp.quick = lambda *_, more: False  # type: ignore[method-assign]
        try:
            assert outcome(short, packets) == outcome(careful, packets)
        finally:
            await short.close()
            await careful.close()

    asyncio.run(run())


async def test_datagrams_of_one_wake_up_are_told_from_one_that_is_alone(bench: Bench):
    fd = bench.ours.fileno()
    first = datagram(b"first")
    bench.put(first[10:], first[:10])
    assert bench.streams[0].mores == [False]
    words = (b"", b"two", bytes(1400))
    for word in words:
        bench.kernel.send(datagram(word))
    bench.stack._readable(fd)
    assert bench.streams[0].sent == [b"first", *words]
    assert bench.streams[0].mores[1:] == [True, True, False]
    # A flow that is there already is passed on, whatever stands before and behind it.
    flow = await opened(bench, ports=(50_001, 502))
    for packet in (datagram(b"a"), virtio.PLAIN + segment(16, ports=(50_001, 502)), datagram(b"b")):
        bench.kernel.send(packet)
    bench.stack._readable(fd)
    assert bench.streams[0].sent[4:] == [b"a", b"b"]
    assert bench.streams[0].mores[4:] == [True, False]
    assert flow.used
    assert len(bench.taken()) == 1


async def test_no_more_datagrams_than_a_turn_may_take_are_said_to_follow(bench: Bench):
    first = datagram(b"first")
    bench.put(first[10:], first[:10])
    for number in range(COSTLY + 3):
        bench.kernel.send(datagram(b"%d" % number))
    bench.stack._readable(bench.ours.fileno())
    assert bench.streams[0].mores[1:] == [True] * (COSTLY - 1) + [False]
    bench.stack._readable(bench.ours.fileno())
    assert bench.streams[0].sent[1:] == [b"%d" % number for number in range(COSTLY + 3)]
    assert bench.streams[0].mores[1 + COSTLY :] == [True, True, False]


async def test_a_flow_that_never_falls_silent_gives_others_their_turn(bench: Bench):
    await opened(bench)
    for _ in range(DRAIN + 3):
        bench.kernel.send(virtio.PLAIN + segment(16))
    for written in (DRAIN, 3, 0):
        bench.stack._readable(bench.ours.fileno())
        assert len(bench.taken()) == written


async def test_super_packets_fill_a_turn_sooner(bench: Bench):
    """What follows waits a turn, so that polls of other queues wait for bytes and not for packets."""
    await opened(bench)
    for _ in range(5):
        bench.kernel.send(virtio.PLAIN + segment(16) + bytes(DRAIN_BYTES // 3 + 1))
    for written in (3, 2, 0):
        bench.stack._readable(bench.ours.fileno())
        assert len(bench.taken()) == written


async def test_a_device_that_goes_while_a_datagram_is_handled_is_read_no_more(bench: Bench):
    first = datagram(b"first")
    bench.put(first[10:], first[:10])
    stream = bench.streams[0]
    real = stream.send_datagram

    def gone(data: Any, *, more: bool = False) -> None:
        real(data, more=more)
        bench.stack.stop()

    stream.send_datagram = gone  # type: ignore[method-assign]
    for number in range(3):
        bench.kernel.send(datagram(b"%d" % number))
    bench.stack._readable(bench.ours.fileno())
    assert stream.sent == [b"first", b"0"]


async def test_with_the_device_all_its_flows_end(bench: Bench):
    await opened(bench)
    bench.put(segment(2, ports=(50_001, 502)))
    bench.put(datagram(b"one")[10:], datagram(b"one")[:10])
    bench.put(echo_request())
    assert (len(bench.tcp), bench.tcp.held, len(bench.udp), len(bench.pings)) == (1, 1, 1, 1)
    for part in (bench.tcp, bench.udp, bench.pings):
        part.close()
    assert [stream.aborted for stream in bench.streams] == [
        [(Code.APPLICATION_RESET, "the TUN device is gone")]
    ] * 4


async def test_paths_that_take_less_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(udp, "PATHS", 2)
    bench.put(datagram(b"x")[10:], datagram(b"x")[:10])
    (key,) = bench.udp._flows._flows
    for number in range(5):
        bench.udp.path_takes(key, bytes((10, 0, 0, number)), 1300)
    assert list(bench.udp._paths) == [bytes((10, 0, 0, number)) for number in (3, 4)]


@pytest.mark.parametrize("limit", ["FLOWS", "FLOWS_PER_SOURCE"])
async def test_udp_flows_are_bounded_and_freed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: str
):
    monkeypatch.setattr(udp, limit, 3)
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
    bench.put(echo_request())
    assert bench.asked == [("hmi", "plc-b", 0)]
    assert bench.streams[0].sent == [b"\0\7\0\3ping"]
    bench.streams[0].user.data(b"\0\7\0\3ping")
    (reply,) = bench.taken()
    assert reply == answers.echo_reply(PLC, HMI, 7, 3, b"ping")


@pytest.mark.parametrize("limit", ["FLOWS", "PER_SOURCE"])
async def test_pinged_assets_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch, limit: str):
    monkeypatch.setattr(ping, limit, 2)
    packet = read_packet(memoryview(echo_request()))
    verdict = bench.ground.judge_asset(packet)
    monkeypatch.setattr(Ground, "judge_asset", lambda *_: verdict)
    for number in range(5):
        bench.put(echo_request(bytes((100, 64, 1, number))))
        bench.time += 10
    assert len(bench.pings) == 2
    assert bench.ground.counts["too many flows"] == 3


async def test_a_client_that_pings_too_much_or_too_long_is_not_heard(bench: Bench):
    for _ in range(int(ping.BURST) + 5):
        bench.put(echo_request())
    (stream,) = bench.streams
    assert len(stream.sent) == ping.BURST
    bench.time += 1
    for _ in range(int(ping.PER_SECOND) + 5):
        bench.put(echo_request())
    assert len(stream.sent) == ping.BURST + ping.PER_SECOND
    assert bench.ground.counts["pings too often"] == 10
    bench.time += 1
    bench.put(echo_request(payload=bytes(MAX_ECHO)))
    assert len(stream.sent[-1]) == 4 + MAX_ECHO
    bench.put(echo_request(payload=bytes(MAX_ECHO + 1)))
    assert bench.ground.counts["pings too long"] == 1
    assert len(stream.sent[-1]) == 4 + MAX_ECHO, "nothing went"


class Narrowed:
    """Two connections of a client; `one` is said to be too long for its way."""

    def __init__(self, *, six: bool) -> None:
        self.bench = Bench()
        self.ends = (HMI6, PLC6, ME6, FAKE6) if six else (HMI, PLC, ME, FAKE)
        self.headers = 60 if six else 40
        self.flows: list[Any] = []

    async def open(self) -> None:
        source, destination, *_ = self.ends
        for port in (50_000, 50_001):
            await opened(self.bench, source=source, destination=destination, ports=(port, 502))
        self.flows = list(self.bench.nat)

    def sent(self, flow: int, sequence: int, size: int = 1400, *, partial: bool = True) -> int:
        """What the kernel sends to the client: how long the parts are by then, 0 where it is one packet."""
        _, _, me, fake = self.ends
        start = self.headers - 20
        whole = segment(
            0x10, me, fake, (4000, self.flows[flow].port), bytes(size), sequence=sequence, partial=partial
        )  # fmt: skip
        self.bench.put(whole, virtio.partial_checksum(start, 16) if partial else virtio.PLAIN)
        (made,) = self.bench.taken()
        offload = virtio.read_offload(memoryview(made))
        packet = read_packet(memoryview(made)[10:])
        assert (packet.source, packet.destination) == (self.ends[1], self.ends[0])
        if offload.gso_size:
            assert offload.gso_type == (4 if len(me) == 16 else 1)
            assert (offload.header_length, offload.start, offload.offset) == (
                self.headers, start, 16
            )  # fmt: skip
        if offload.partial:
            pseudo = pseudo_header(packet.source, packet.destination, TCP, 20 + size)
            at = 10 + start + 16
            assert int.from_bytes(made[at : at + 2], "big") == pseudo
        return offload.gso_size

    def said(self, sequence: int, mtu: int, port: int = 50_000) -> None:
        """Somebody says that a segment of `one` is too big; the kernel hears nothing of it."""
        client, service, *_ = self.ends
        lost = segment(0x10, service, client, (502, port), bytes(1400), sequence=sequence)
        self.bench.put(answers.too_big(memoryview(lost), read_packet(memoryview(lost)), mtu)[10:])
        assert self.bench.taken() == []


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("six", [False, True])
async def test_a_narrow_way_is_that_of_one_connection(*, six: bool, partial: bool):
    there = Narrowed(six=six)
    await there.open()
    assert there.sent(0, 1000, partial=partial) == 0
    there.said(1000, 1280)
    assert there.sent(0, 2400, partial=partial) == 0, "not sure yet"
    assert there.sent(0, 1000, partial=partial) == 1280 - there.headers, "it was lost, indeed"
    assert there.sent(0, 3800, 30_000, partial=partial) == 1280 - there.headers
    assert there.sent(0, 33_800, 1000, partial=partial) == 0, "it passes as it is"
    assert there.sent(1, 1000, partial=partial) == 0, "another connection of the same client"
    assert there.flows[1].reverse in there.bench.nat.rewrites
    there.said(1000, 300)
    assert there.sent(0, 3800, partial=partial) == 1280 - there.headers
    assert there.sent(0, 1000, partial=partial) == (1280 - 60 if six else 552 - 40), (
        "never less than every way takes"
    )
    await there.bench.close()


async def test_who_does_not_know_what_is_lost_makes_no_way_narrow():
    """Ports can be guessed, and a million numbers: none of them is one that the kernel sends a second time."""
    there = Narrowed(six=False)
    await there.open()
    there.sent(0, 1000)
    for guess in range(0, 1 << 20, 1 << 12):
        there.said((guess + 5_000_000) & 0xFFFFFFFF, 600)
        there.said(guess, 600, port=50_009)
    (way,) = there.bench.tcp._ways.values()
    assert len(way._claims) == narrow.CLAIMS
    at = 2400
    while at < 8_000_000:  # new data passes all guesses
        assert there.sent(0, at, 60_000) == 0
        at += 60_000
    assert there.sent(0, at - 60_000) == 0, "and what is sent again is none of them"
    assert way.mtu == 0
    assert there.flows[0].reverse not in there.bench.nat.rewrites
    there.bench.time += narrow.PATIENCE
    there.bench.tcp.sweep()
    assert there.bench.tcp._ways == {}
    assert there.flows[0].reverse in there.bench.nat.rewrites, "on the fast path again"
    there.said(at - 60_000, 600)
    assert there.sent(0, at) == 0
    there.bench.streams[0].abort(Code.NORMAL, "")
    await turn()
    there.bench.time += 61
    for _ in range(3):
        there.bench.tcp.sweep()
        there.bench.time += 61
    assert there.bench.tcp._ways == {}
    await there.bench.close()


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
