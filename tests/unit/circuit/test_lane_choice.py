"""When a circuit changes lane (C-65)."""

from hypothesis import given
from hypothesis import strategies as st

from overlay.circuit.lane_choice import (
    BULK_BYTES,
    BULK_SECONDS,
    EXPRESS_BYTES,
    EXPRESS_SECONDS,
    LaneChoice,
    lane_of,
)

STEP = 0.1


def run(choice: LaneChoice, rate: float, seconds: float, now: float = 0.0, moved: float = 0.0):
    """Seconds until it wants to move at so many bytes per second; None: it does not."""
    for step in range(1, round(seconds / STEP) + 1):
        if choice.moves(now + step * STEP, int(moved + step * STEP * rate)):
            return step * STEP
    return None


def test_a_poll_never_moves():
    assert run(LaneChoice(0.0, 0), 1000 * 24.0, 60.0) is None
    assert run(LaneChoice(0.0, 0), 0.9 * BULK_BYTES / BULK_SECONDS, 60.0) is None


def test_bulk_and_a_video_stream_move_soon():
    assert run(LaneChoice(0.0, 0), 200e6 / 8, 5.0) == STEP
    found = run(LaneChoice(0.0, 0), 1.3 * BULK_BYTES / BULK_SECONDS, 5.0)
    assert found is not None
    assert found <= 2 * BULK_SECONDS


def test_what_was_moved_long_ago_does_not_count():
    choice = LaneChoice(0.0, 0)
    assert not choice.moves(1000.0, 10 * BULK_BYTES)  # nobody asked for a long time
    assert not choice.moves(1000.1, 10 * BULK_BYTES)
    assert choice.moves(1000.2, 11 * BULK_BYTES + 1)


def test_it_goes_back_after_quiet_seconds_in_a_row():
    choice = LaneChoice(0.0, 0, bulk=True)
    found = run(choice, 0.5 * EXPRESS_BYTES, 30.0)
    assert found is not None
    assert EXPRESS_SECONDS <= found <= EXPRESS_SECONDS + 2.0
    assert run(LaneChoice(0.0, 0, bulk=True), 1.2 * EXPRESS_BYTES, 60.0) is None


def test_one_loud_second_begins_the_count_anew():
    choice = LaneChoice(0.0, 0, bulk=True)
    assert run(choice, 0.0, EXPRESS_SECONDS - 0.5) is None
    assert not choice.moves(EXPRESS_SECONDS - 0.4, EXPRESS_BYTES)
    assert run(choice, 0.0, EXPRESS_SECONDS - 0.5, EXPRESS_SECONDS - 0.4, EXPRESS_BYTES) is None


def test_after_a_move_the_count_begins_anew():
    choice = LaneChoice(0.0, 0)
    assert choice.moves(0.1, BULK_BYTES + 1)
    choice.start(0.1, BULK_BYTES + 1, bulk=True)
    assert not choice.moves(0.2, BULK_BYTES + 1)
    choice.start(10.0, BULK_BYTES + 1, bulk=False)
    assert not choice.moves(10.1, BULK_BYTES + 2)


@given(st.binary(min_size=16, max_size=16), st.integers(1, 16))
def test_a_circuits_lane_is_one_that_the_router_has(circuit_id: bytes, lanes: int):
    assert 1 <= lane_of(circuit_id, lanes) <= lanes
