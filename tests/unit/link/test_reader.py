"""Frames come out of the byte stream however it is cut, in little memory (L-10 to L-15)."""

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.crypto.records import FullRecords, HeaderRecords
from overlay.errors import TamperError
from overlay.link.reader import LARGE, SMALL, Reader
from overlay.wire.header import Header, Kind

KEYS = (b"a" * 32, b"b" * 32)
SIZES = st.sampled_from([0, 1, 23, 24, 40, 5_000, SMALL - 1, SMALL, 70_000, limits.MAX_DATA])


def stream(kind: type[HeaderRecords], sizes: list[int]) -> tuple[bytes, list[tuple[Header, bytes]]]:
    records = kind(*KEYS)
    frames: list[tuple[Header, bytes]] = []
    out = b""
    for number, size in enumerate(sizes):
        what = Kind.DATA if size > 4096 or number % 2 else Kind.CONTROL
        header = Header(what, 0, size, 1 if what is Kind.DATA else 0, number)
        payload = bytes([number % 251]) * size
        frames.append((header, payload))
        out += b"".join(records.seal(header, payload))
    return out, frames


def read_all(reader: Reader) -> list[tuple[Header, bytes]]:
    got: list[tuple[Header, bytes]] = []
    while (frame := reader.next()) is not None:
        got.append((frame[0], bytes(frame[1])))
    return got


def receive(reader: Reader, data: bytes) -> list[tuple[Header, bytes]]:
    got: list[tuple[Header, bytes]] = []
    rest = memoryview(data)
    while rest:
        buffer = reader.buffer()
        assert len(buffer) > 0
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        rest = rest[size:]
        reader.received(size)
        got += read_all(reader)
    return got


@pytest.mark.parametrize("kind", [HeaderRecords, FullRecords])
@given(sizes=st.lists(SIZES, max_size=8), cuts=st.lists(st.floats(0, 1), max_size=8))
def test_any_cut_gives_the_same_frames(kind: type[HeaderRecords], sizes, cuts):
    data, frames = stream(kind, sizes)
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    for feeding in (False, True):
        reader = Reader(kind(*reversed(KEYS)))
        got: list[tuple[Header, bytes]] = []
        for start, end in pairwise(places):
            if feeding:
                reader.feed(data[start:end])
                got += read_all(reader)
            else:
                got += receive(reader, data[start:end])
        assert got == frames
        assert reader.waiting == 0


def test_byte_by_byte():
    data, frames = stream(HeaderRecords, [0, 100, 5_000, 20_000, 3])
    reader = Reader(HeaderRecords(*reversed(KEYS)))
    got: list[tuple[Header, bytes]] = []
    for place in range(len(data)):
        got += receive(reader, data[place : place + 1])
    assert got == frames


def test_the_buffer_grows_for_what_comes_and_is_given_back():
    reader = Reader(HeaderRecords(*reversed(KEYS)))
    assert len(reader.buffer()) == SMALL
    data, frames = stream(HeaderRecords, [limits.MAX_DATA] * 8)
    assert receive(reader, data) == frames
    assert len(reader.buffer()) == LARGE
    reader.rest()
    assert len(reader.buffer()) == SMALL


def test_the_largest_frame_of_all_needs_little_more_than_itself():
    records = FullRecords(*KEYS)
    header = Header(Kind.CONTROL, 0, limits.MAX_CONTROL, 0, 0)
    data = b"".join(records.seal(header, bytes(limits.MAX_CONTROL)))
    reader = Reader(FullRecords(*reversed(KEYS)))
    assert [h for h, _ in receive(reader, data)] == [header]
    assert len(reader.buffer()) <= LARGE + limits.TAG_SIZE


def test_a_buffer_with_waiting_bytes_is_kept():
    data, frames = stream(HeaderRecords, [limits.MAX_DATA])
    reader = Reader(HeaderRecords(*reversed(KEYS)))
    assert receive(reader, data[:100_000]) == []
    reader.rest()
    assert receive(reader, data[100_000:]) == frames


@given(st.data())
def test_changed_bytes_of_sealed_parts_never_pass(data):
    whole, frames = stream(FullRecords, [10, 5_000, 0, 40])
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    reader = Reader(FullRecords(*reversed(KEYS)))
    got: list[tuple[Header, bytes]] = []
    with pytest.raises(TamperError):
        reader.feed(changed)
        while (frame := reader.next()) is not None:
            got.append((frame[0], bytes(frame[1])))
    assert got == frames[: len(got)]


@given(st.binary(min_size=40, max_size=300))
def test_random_bytes_are_tampering(noise: bytes):
    reader = Reader(HeaderRecords(*reversed(KEYS)))
    reader.feed(noise)
    with pytest.raises(TamperError):
        reader.next()


def test_an_authentic_record_with_an_invalid_header_is_tampering():
    records = HeaderRecords(*KEYS)
    reader = Reader(HeaderRecords(*reversed(KEYS)))
    reader.feed(records._send.seal(os.urandom(1) * 24, None))
    with pytest.raises(TamperError):
        reader.next()
