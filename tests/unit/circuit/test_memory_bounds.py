"""What circuits hold is bounded for the whole node; windows give back what they do not use (C-35)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.circuit.memory import IDLE_AFTER, Memory
from overlay.circuit.window import Window
from overlay.errors import Code
from tests.support.circuit_pair import Pair
from tests.unit.circuit.test_window import run

MIB = 1024 * 1024
FIRST = limits.INITIAL_WINDOW


def window(memory: Memory, size: int = FIRST, now: float = 0.0) -> Window:
    one = Window()
    one.share(memory)
    one.used = now
    memory.grow(one, size, now)
    return one


def test_windows_grow_until_the_budget_is_spent_and_no_further():
    memory = Memory(8 * MIB)
    windows = []
    for _ in range(3):
        one = Window()
        one.share(memory)
        run(0.1, 50e6, window=one)
        one.used = 1e9  # all of them are busy
        windows.append(one)
    grown = [one.size - FIRST for one in windows]
    assert sum(grown) == memory.windows == memory.limit
    assert grown[0] > grown[1] or grown[2] == 0
    for one in windows:
        one.share(None)
    assert memory.windows == 0


def test_bytes_that_nobody_reads_leave_no_room_to_grow():
    memory = Memory(4 * MIB)
    memory.buffered = 3 * MIB
    memory.kept = MIB // 2
    assert window(memory, 16 * MIB).size == FIRST + MIB // 2


def test_windows_of_idle_circuits_are_taken_back_when_others_need_them():
    memory = Memory(8 * MIB)
    idle = window(memory, 4 * MIB, now=0.0)
    busy = window(memory, 4 * MIB, now=5.0)
    assert (idle.size, busy.size) == (4 * MIB, 4 * MIB)
    late = window(memory, FIRST + 5 * MIB, now=5.0 + IDLE_AFTER / 2)
    assert idle.size == FIRST
    assert busy.size == 4 * MIB
    assert late.size > FIRST + 4 * MIB - FIRST
    assert memory.windows <= memory.limit


def test_a_slow_circuit_gives_back_step_by_step_and_only_where_memory_is_scarce():
    memory = Memory(20 * MIB)
    slow = window(memory, 16 * MIB)
    sizes = [slow.size]
    slow._round_trip, slow._begun = 0.01, 0.0
    for step in range(1, 12):
        slow.consumed(1000, step * 0.1)
        sizes.append(slow.size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == sizes[0] // 2
    assert memory.windows <= memory.limit // 4 * 3  # no longer scarce: the rest stays
    rich = Memory()
    kept = window(rich, 16 * MIB)
    kept._round_trip, kept._begun = 0.01, 0.0
    for step in range(1, 12):
        kept.consumed(1000, step * 0.1)
    assert kept.size == 16 * MIB


def test_a_window_that_moves_to_another_memory_takes_its_size_along():
    one, other = Memory(), Memory()
    moving = window(one, 2 * MIB)
    moving.share(other)
    assert (one.windows, other.windows) == (0, 2 * MIB - FIRST)
    assert not one._grown


def test_all_loops_of_a_node_share_one_budget():
    home = Memory(8 * MIB)
    bulk = home.for_another_loop()
    third = bulk.for_another_loop()
    one = window(home, FIRST + 5 * MIB)
    assert window(bulk, FIRST + 5 * MIB).size == FIRST + 3 * MIB
    assert window(third, FIRST + MIB).size == FIRST
    assert (home.windows, bulk.windows, third.windows) == (5 * MIB, 3 * MIB, 0)
    assert all(each.scarce and not each.full for each in (home, bulk, third))
    one.share(None)
    assert not any(each.scarce for each in (home, bulk, third))
    home.kept, bulk.buffered = 4 * MIB, 4 * MIB + 1
    assert all(each.full and not each.unread for each in (home, bulk, third))
    home.buffered = 4 * MIB
    assert all(each.unread for each in (home, bulk, third))
    assert window(third, FIRST + MIB).size == FIRST


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20 * MIB), st.floats(0, 3)), max_size=60)
)
def test_the_sum_is_always_what_it_says(steps):
    memory = Memory(10 * MIB)
    windows = [window(memory) for _ in range(5)]
    now = 0.0
    for number, wanted, passed in steps:
        now += passed
        one = windows[number]
        one.used = now
        memory.grow(one, wanted, now) if wanted > one.size else memory.shrink(one, wanted)
        assert memory.windows == sum(each.size - FIRST for each in windows) <= memory.limit
        assert all(each.size >= FIRST for each in windows)
        assert set(memory._grown) == {each for each in windows if each.size > FIRST}


# --- in circuits ----------------------------------------------------------------------------------------


def test_a_limit_never_goes_back_when_a_window_shrinks():
    pair = Pair()
    memory = Memory(24 * MIB)
    pair.host.core.share(memory)
    for _ in range(40):
        while pair.caller.send(bytes(limits.MAX_DATA)):
            pass
        pair.now += 0.1
        pair.settle()
    receiving = pair.host.core._receiving
    assert receiving.window == limits.MAX_WINDOW
    promised = receiving._told_limit
    pair.now += 10
    late = window(memory, limits.MAX_WINDOW, now=pair.now)
    assert receiving.window == FIRST
    assert late.size == limits.MAX_WINDOW
    for _ in range(200):
        while pair.caller.send(bytes(limits.MAX_DATA)):
            pass
        pair.settle()
        assert receiving._told_limit >= promised
        promised = receiving._told_limit
    assert not pair.caller.end
    assert promised - receiving._consumed <= memory.limit


def test_what_is_unread_or_unacknowledged_is_counted_and_given_back():
    pair = Pair()
    memory = Memory()
    for end in pair.ends:
        end.core.share(memory)
    while len(pair.caller.sent) < 100_000:
        pair.caller.send(bytes(10_000))
    kept = memory.kept
    assert kept == pair.caller.core.kept_bytes > 100_000
    pair.deliver(pair.caller, 10)
    assert memory.buffered == 100_000
    pair.host.read(40_000)
    assert memory.buffered == 60_000
    pair.host.core.share(None)
    assert memory.buffered == 0
    pair.caller.core.share(None)
    assert memory.kept == 0


def test_a_sender_with_a_full_node_keeps_a_first_window_and_goes_on_when_it_is_acknowledged():
    pair = Pair()
    memory = Memory(MIB)
    pair.caller.core.share(memory)
    pair.caller.core._sending.limit = 1 << 24
    memory.kept += 2 * MIB  # of other circuits
    while pair.caller.send(bytes(60_000)):
        pass
    assert FIRST <= pair.caller.core.kept_bytes < FIRST + 61_000
    pair.caller.core._sending.acknowledge(2, 1 << 24)
    assert pair.caller.core.room() > 0


@pytest.mark.parametrize(("other", "ends"), [(0, False), (20 * MIB, True)])
def test_who_reads_nothing_loses_the_circuit_only_when_the_node_holds_too_much(
    other: int, ends: bool
):
    pair = Pair()
    memory = Memory(16 * MIB)
    pair.host.core.share(memory)
    for _ in range(40):
        while pair.caller.send(bytes(limits.MAX_DATA)):
            pass
        pair.now += 0.1
        pair.settle()
    memory.buffered += other
    while pair.caller.send(bytes(limits.MAX_DATA)):
        pair.settle(reading=False)
    assert bool(pair.host.end) is ends
    if ends:
        assert pair.host.end.code is Code.BUSY
        assert "do not read" in pair.host.end.reason


def test_a_circuit_within_its_first_window_is_never_harmed():
    pair = Pair()
    memory = Memory(MIB)
    pair.host.core.share(memory)
    memory.buffered += 100 * MIB
    for _ in range(20):
        pair.caller.send(bytes(10_000))
    pair.settle(reading=False)
    assert not pair.host.end
    assert len(pair.host.got) == 200_000
