"""Memory of large frames is used again when they are acknowledged, and never while anything may still send it (C-31)."""

import pytest

from overlay import limits
from overlay.circuit.frame_memory import FREE, LARGE, FrameMemory
from overlay.circuit.frames import Frame
from overlay.circuit.memory import Memory
from tests.support.circuit_pair import Pair

STRICT = pytest.mark.parametrize("integrity", [0, 1], ids=["normal", "strict"])


def caller(integrity: int):
    """The caller's core of a circuit that knows its path to be fast, and the memory of its loop."""
    core = Pair(integrity=integrity).caller.core
    memory = Memory()
    core.share(memory)
    core._sending._pace.frame = limits.MAX_DATA
    core._sending.limit = limits.MAX_WINDOW
    return core, memory.frames


def say(core, byte: bytes, size: int = LARGE) -> Frame:
    """One frame, as its link gets it."""
    core.send(byte * size, 0.0)
    (frame,) = core.take()
    return frame


def acknowledge(core) -> None:
    core._sending.acknowledge(core._sending._sealer.sequence, limits.MAX_WINDOW)


@STRICT
def test_the_next_frame_lies_where_an_acknowledged_one_lay(integrity: int):
    core, _ = caller(integrity)
    places = set()
    for _ in range(5):
        frame = say(core, b"a")
        assert isinstance(frame.payload, memoryview)
        places.add(id(frame.payload.obj))
        del frame
        acknowledge(core)
    assert len(places) == 1


@STRICT
def test_what_a_link_has_not_written_yet_stays_as_it_is(integrity: int):
    """It was acknowledged on another path; the old link sends the rest of a half written frame."""
    core, free = caller(integrity)
    frame = say(core, b"a")
    rest, said = memoryview(frame.payload)[1000:], bytes(frame.payload)
    del frame
    acknowledge(core)
    assert not free._free
    other = say(core, b"b")
    assert isinstance(other.payload, memoryview)
    assert other.payload.obj is not rest.obj
    assert rest == said[1000:]


def test_frames_that_are_not_acknowledged_lie_apart():
    core, _ = caller(0)
    frames = [say(core, bytes([65 + at])) for at in range(4)]
    assert (
        len({id(frame.payload.obj) for frame in frames if isinstance(frame.payload, memoryview)})
        == 4
    )
    acknowledge(core)
    again = say(core, b"x")
    assert all(bytes(frame.payload) != bytes(again.payload) for frame in frames)


def test_a_smaller_frame_takes_no_more_than_it_needs():
    core, free = caller(0)
    payload = say(core, b"a", LARGE - 1).payload
    assert len(payload) == LARGE - 1 + limits.TAG_SIZE
    assert isinstance(payload, bytes)
    acknowledge(core)
    assert not free._free


def test_no_more_memory_waits_than_its_limit():
    free = FrameMemory()
    taken = [free.take() for _ in range(FREE + 3)]
    while taken:
        view = taken.pop()
        memory = view.obj
        del view
        free.give(memory)
    assert len(free._free) == FREE
    free.give(b"somebody else's")
    free.give(bytearray(10))
    assert len(free._free) == FREE


def test_when_the_last_circuit_with_frames_is_over_nothing_is_held():
    core, free = caller(0)
    say(core, b"a")
    acknowledge(core)
    assert free._free
    core.share(None)
    assert not free._free


def test_a_circuit_that_ends_takes_nothing_from_one_that_goes_on():
    core, free = caller(0)
    other, _ = caller(0)
    other.share(core._sending._memory)
    frames = [say(core, b"a") for _ in range(2)]
    del frames
    acknowledge(core)
    say(other, b"b")
    core.share(None)
    assert len(free._free) == 1


@STRICT
def test_what_is_sealed_there_opens_whatever_lay_there_before(integrity: int):
    pair = Pair(integrity=integrity)
    core = pair.caller.core
    core.share(Memory())
    sizes = (limits.MAX_DATA, LARGE, LARGE + 1, 5, limits.MAX_DATA - 1)
    for size in sizes:
        begun = len(pair.caller.sent)
        while (left := begun + size - len(pair.caller.sent)) > 0:
            core._sending._pace.frame = limits.MAX_DATA  # it knows its path to be fast
            assert pair.caller.send(bytes([size % 251]) * left)
            pair.settle()
            pair.host.read(left)
            pair.settle()
    assert pair.host.got == pair.caller.sent
