"""Fragments: put together in any order, dropped when they overlap, and never more than the bounds."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.packets import answers, fragments, virtio
from edge.packets.checksum import add_up
from edge.packets.fragments import Reassembler
from edge.packets.ip import UDP, v4_header
from edge.packets.ip import read_packet as read
from edge.packets.transport import read_datagram
from overlay.errors import DecodeError

A4, B4 = bytes([192, 168, 1, 20]), bytes([100, 64, 0, 7])
A6, B6 = bytes([0xFD] + [0] * 14 + [1]), bytes([0xFD] + [0] * 14 + [2])


def cut_v4(
    body: bytes, ident: int, at: list[int], source: bytes = A4, total: int | None = None
) -> list[bytes]:
    """Fragments of an IPv4 packet, cut at these multiples of 8."""
    edges = [0, *at, len(body)]
    made = []
    for start, end in itertools.pairwise(edges):
        header = v4_header(source, B4, UDP, end - start, ident=ident)
        more = end < (len(body) if total is None else total)
        header[6:8] = ((start // 8) | (0x2000 if more else 0)).to_bytes(2, "big")
        made.append(bytes(header) + body[start:end])
    return made


def feed(reassembler: Reassembler, data: bytes, now: float = 0.0) -> bytes | None:
    view = memoryview(data)
    return reassembler.add(view, read(view), now)


def datagram(payload: bytes) -> bytes:
    """A UDP header and payload with a right checksum, from A4 to B4."""
    (made,) = answers.Datagrams(A4, B4, (5, 161)).packets(payload, ident=1, mtu=1500)
    body = bytearray(made[virtio.SIZE + 20 :])
    body[6:8] = (~add_up(body) & 0xFFFF).to_bytes(2, "big")
    return bytes(body)


@given(st.integers(0, 9000), st.randoms(use_true_random=False))
def test_ipv4_in_any_order_gives_the_datagram(size, shuffle):
    payload = shuffle.randbytes(size)
    body = datagram(payload)
    at = sorted(set(shuffle.sample(range(8, max(len(body), 17), 8), min(5, (len(body) - 1) // 8))))
    parts = cut_v4(body, 7, [cut for cut in at if cut < len(body)])
    if len(parts) < 2:
        return
    shuffle.shuffle(parts)
    parts.insert(1, parts[0])  # a repetition changes nothing
    reassembler = Reassembler()
    results = [feed(reassembler, part) for part in parts]
    assert results[:-1] == [None] * (len(parts) - 1)
    assert results[-1] is not None
    view = memoryview(results[-1])
    packet = read(view)
    found = read_datagram(view, packet)
    assert bytes(view[found.start : found.end]) == payload
    assert reassembler.counts == (0, 0, 0)


@given(st.integers(1400, 9000), st.integers(1280, 1500), st.randoms(use_true_random=False))
def test_ipv6_fragments_that_are_sent_here_are_put_together_again(size, mtu, shuffle):
    payload = shuffle.randbytes(size)
    parts = [
        bytes(memoryview(one)[virtio.SIZE :])
        for one in answers.Datagrams(A6, B6, (161, 5)).packets(payload, ident=77, mtu=mtu)
    ]
    assert all(len(part) <= mtu for part in parts)
    shuffle.shuffle(parts)
    reassembler = Reassembler()
    whole = [feed(reassembler, part) for part in parts if read(memoryview(part)).fragment]
    if not whole:
        assert len(parts) == 1
        return
    view = memoryview(whole[-1] or b"")
    found = read_datagram(view, read(view))
    assert bytes(view[found.start : found.end]) == payload


def test_an_overlap_drops_the_packet_and_all_of_it_that_still_comes():
    body = datagram(bytes(64))
    first, second, third = cut_v4(body, 7, [24, 48])
    liar = cut_v4(body[:40] + b"x" * 8 + body[48:], 7, [16, 48])[1]
    reassembler = Reassembler()
    assert feed(reassembler, first) is None
    assert feed(reassembler, second) is None
    with pytest.raises(DecodeError):
        feed(reassembler, liar)
    for part in (first, second, third):
        with pytest.raises(DecodeError):
            feed(reassembler, part)
    assert reassembler.counts == (1, 0, 1)
    assert feed(reassembler, first, fragments.SECONDS + 1) is None, "after its time it starts anew"


@pytest.mark.parametrize("early", [True, False])
def test_two_ends_that_contradict_each_other_drop_it(early):
    body = datagram(bytes(64))
    parts = cut_v4(body, 7, [24, 48])
    short = cut_v4(body[:32], 7, [24])[1]
    reassembler = Reassembler()
    order = [short, parts[2]] if early else [parts[2], short]
    assert feed(reassembler, order[0]) is None
    with pytest.raises(DecodeError):
        feed(reassembler, order[1])


@pytest.mark.parametrize("size", [60_000, 64])
def test_the_bounds_hold_whoever_sends(size: int):
    reassembler = Reassembler()
    body = datagram(bytes(size))
    opened = []
    for number in range(3 * fragments.AT_ONCE):
        source = bytes([10, 0, number // 8 % 256, number % 3])
        feed(reassembler, cut_v4(body, number, [size // 16 * 8], source=source)[0])
        counts = reassembler.counts
        opened.append(counts.open)
        assert counts.open <= fragments.AT_ONCE
        assert counts.bytes <= fragments.BYTES
    assert reassembler.counts.dropped
    assert (max(opened) == fragments.AT_ONCE) == (size == 64), "each bound is reached by one"


def test_one_source_pushes_out_only_its_own():
    reassembler = Reassembler()
    body = datagram(bytes(64))
    other = cut_v4(body, 1, [32], source=bytes([10, 0, 0, 9]))
    feed(reassembler, other[0])
    for number in range(2 * fragments.PER_SOURCE):
        feed(reassembler, cut_v4(body, number, [32])[0])
    assert reassembler.counts.open == fragments.PER_SOURCE + 1
    assert feed(reassembler, other[1]) is not None


def test_a_packet_of_too_many_parts_is_dropped():
    reassembler = Reassembler()
    body = datagram(bytes(8 * fragments.PARTS + 64))
    parts = cut_v4(body, 7, list(range(8, len(body), 8)))
    order = random.Random(1)
    order.shuffle(parts)
    with pytest.raises(DecodeError):
        for part in parts:
            feed(reassembler, part)
    assert reassembler.counts.bytes == 0
