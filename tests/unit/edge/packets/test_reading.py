"""Packets of every shape are read as another library made them, or refused; nothing but `DecodeError` comes out."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.packets import answers, sanity, virtio
from edge.packets.checksum import add_up, corrected, difference, fold, holds
from edge.packets.fragments import Reassembler
from edge.packets.ip import (
    ICMP,
    ICMPV6,
    MAX_PACKET,
    TCP,
    UDP,
    Packet,
    read_packet,
)
from edge.packets.transport import read_datagram, read_message, read_segment
from overlay.errors import DecodeError

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/packets.json").read_text())
GOOD = [bytes.fromhex(one["bytes"]) for one in VECTORS["read"]]
READERS: dict[str, Callable[[memoryview, Packet], object]] = {
    "tcp": read_segment, "udp": read_datagram, "icmp": read_message
}  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS["read"], ids=lambda one: one["name"])
def test_every_shape_is_read_as_it_was_made_or_refused(vector):
    data = memoryview(bytes.fromhex(vector["bytes"]))
    want = vector["want"]
    if want == "error":
        with pytest.raises(DecodeError):
            read_transport(data)
        return
    packet = read_packet(data)
    if want == "insane":
        assert sanity.objection(packet)
        return
    assert sanity.objection(packet) is None
    assert (packet.start, packet.protocol) == (vector["start"], vector["protocol"])
    if want == "fragment":
        assert packet.fragment is not None
        assert (packet.fragment.offset, packet.fragment.more) == (vector["offset"], vector["more"])
        return
    assert packet.fragment is None
    if want == "tcp":
        segment = read_segment(data, packet)
        assert (segment.source, segment.destination, segment.opens) == (50000, 502, True)
    elif want == "udp":
        datagram = read_datagram(data, packet)
        assert (datagram.source, datagram.destination) == (5, 161)
        assert bytes(data[datagram.start : datagram.end]) == vector["payload"].encode()
    elif want == "icmp":
        message = read_message(data, packet)
        assert (message.kind, message.identifier, message.sequence) == (vector["kind"], 7, 3)
        assert bytes(data[message.start : message.end]) == vector["payload"].encode()


def read_transport(data: memoryview) -> None:
    """What a device does with a packet that is not a fragment."""
    packet = read_packet(data)
    if packet.fragment is not None:
        return
    names = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}
    reader = READERS.get(names.get(packet.protocol, ""))
    if reader is not None:
        reader(data, packet)


def whole(written: bytes) -> bytes:
    """A packet as the kernel sends it on: a partial checksum finished."""
    offload = virtio.read_offload(memoryview(written))
    data = bytearray(written[virtio.SIZE :])
    if offload.partial:
        at = offload.start + offload.offset
        total = ~add_up(data[offload.start :]) & 0xFFFF
        data[at : at + 2] = total.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize("vector", VECTORS["answers"], ids=lambda one: one["name"])
def test_answers_are_what_another_library_makes(vector):
    data = memoryview(bytes.fromhex(vector["about"]))
    packet = read_packet(data)
    source, destination = packet.destination, packet.source
    match vector["build"]:
        case "reset":
            made = answers.reset(packet, read_segment(data, packet))
        case "prohibited":
            made = answers.unreachable(data, packet, answers.PROHIBITED)
        case "too_big":
            made = answers.too_big(data, packet, 1280)
        case "echo":
            message = read_message(data, packet)
            payload = bytes(data[message.start : message.end])
            made = answers.echo_reply(
                source, destination, message.identifier, message.sequence, payload
            )
        case _:
            (made,) = answers.Datagrams(source, destination, (161, 5)).packets(
                b"reply", ident=9, mtu=1500
            )
    assert whole(made).hex() == vector["answer"]


@pytest.mark.parametrize(("version", "longest"), [(4, 576), (6, 1280)])
def test_an_error_says_no_more_again_than_passes_everywhere(version: int, longest: int):
    """RFC 1812 §4.3.2.3, RFC 4443 §2.4: whoever makes us answer gains nothing by it."""
    source, destination = bytes(3 + 12 * (version == 6)) + b"\1", bytes(4 + 12 * (version == 6))
    data = memoryview(answers.ip_header(source, destination, UDP, 9000) + bytes(9000))
    made = answers.unreachable(data, read_packet(data), answers.PROHIBITED)
    assert len(made) - virtio.SIZE == longest


@given(st.binary(max_size=200), st.booleans())
def test_sums_of_any_bytes_are_those_of_their_words(data, odd):
    data = data[: len(data) // 2 * 2 + odd]
    padded = data + b"\0" * (len(data) % 2)
    words = [int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2)]
    assert add_up(data) == fold(sum(words))


@given(
    st.binary(min_size=20, max_size=20), st.binary(min_size=8, max_size=8), st.integers(0, 65535)
)
@example(bytes(20), bytes(8), 0)
def test_a_corrected_checksum_holds_if_and_only_if_the_old_one_did(rest, new, wrong):
    old = rest[:8]
    right = ~add_up(rest) & 0xFFFF
    changed = new + rest[8:]
    after = corrected(right, difference(old, new))
    if any(changed):  # all zero has two right sums
        assert holds(memoryview(changed + after.to_bytes(2, "big")))
    if wrong not in (right, right ^ 0xFFFF) and any(rest):
        bad = corrected(wrong, difference(old, new))
        if {wrong, right} != {0, 0xFFFF}:
            assert not holds(memoryview(changed + bad.to_bytes(2, "big")))


@st.composite
def mutated(draw):
    """A packet with some bytes changed, cut or added."""
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.integers(0, len(data)))
    return bytes(data[:end]) if draw(st.booleans()) else bytes(data) + draw(st.binary(max_size=9))


@given(st.one_of(mutated(), st.binary(max_size=120)))
def test_whatever_comes_is_read_or_refused_with_one_error(data):
    with suppress(DecodeError):
        read_transport(memoryview(data))
    with suppress(DecodeError):
        virtio.read_offload(memoryview(data))


@given(st.lists(mutated(), max_size=12))
def test_fragments_that_lie_leave_the_reassembler_within_bounds_and_usable(packets):
    reassembler = Reassembler()
    for number, data in enumerate(packets):
        with suppress(DecodeError):
            packet = read_packet(memoryview(data))
            if packet.fragment is not None:
                made = reassembler.add(memoryview(data), packet, float(number))
                if made is not None:
                    assert len(made) <= MAX_PACKET
                    again = read_packet(memoryview(made))
                    assert again.fragment is None or packet.version == 6
    reassembler.expire(1e9)
    assert reassembler.counts[:2] == (0, 0)


@pytest.mark.parametrize("name", list(READERS))
def test_a_header_of_another_protocol_is_not_read_as_this_one(name):
    other = next(one for one in VECTORS["read"] if one["want"] == "other")
    data = memoryview(bytes.fromhex(other["bytes"]))
    with pytest.raises(DecodeError):
        READERS[name](data, read_packet(data))


def test_no_error_is_sent_about_an_error_or_a_later_fragment():
    syn = bytes.fromhex(VECTORS["answers"][0]["about"])
    error = answers.unreachable(memoryview(syn), read_packet(memoryview(syn)), answers.NO_HOST)
    data = memoryview(error)[virtio.SIZE :]
    packet = read_packet(data)
    assert not answers.answerable(read_message(data, packet), packet)
    later = next(one for one in VECTORS["read"] if one["name"] == "v4 last fragment")
    data = memoryview(bytes.fromhex(later["bytes"]))
    assert not answers.answerable(None, read_packet(data))
    assert answers.answerable(None, read_packet(memoryview(syn)))
