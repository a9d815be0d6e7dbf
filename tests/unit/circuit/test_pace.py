"""Frames stay below 50 ms of the path's rate, and are as large as they may be where the path is fast (C-36)."""

from collections import deque

import pytest

from overlay import limits
from overlay.circuit.pace import BLOCKS_FOR, FIRST_FRAME, SMALLEST_FRAME, Pace


def run(rate: float, pace: Pace | None = None, *, delay: float = 0.01, frames: int = 300) -> Pace:
    """A sender with always 256 KiB on the way, on a path of this rate (bytes/s) and one-way delay."""
    pace = pace or Pace()
    pace.other_path()  # frames are numbered anew here
    now, free = 0.0, 0.0
    window: deque[tuple[int, float, int]] = deque()
    waiting = 0
    for sequence in range(frames):
        while waiting + pace.frame > 256 * 1024 and window:
            number, arrives, size = window.popleft()
            now = max(now, arrives + delay)
            waiting -= size
            pace.acknowledged(number + 1, size, now)
        pace.sent(sequence, now)
        free = max(free, now) + pace.frame / rate
        window.append((sequence, free + delay, pace.frame))
        waiting += pace.frame
    return pace


@pytest.mark.parametrize("megabits", [1, 2, 10, 20])
def test_on_a_slow_line_a_frame_takes_at_most_50_ms(megabits: int):
    rate = megabits * 125_000
    assert 0.3 * BLOCKS_FOR < run(rate).frame / rate <= 1.1 * BLOCKS_FOR


def test_on_a_very_slow_line_frames_are_not_crumbs():
    assert run(5_000).frame == SMALLEST_FRAME


def test_on_a_fast_line_frames_are_as_large_as_they_may_be():
    pace = run(200e6, delay=0.000_2)
    assert pace.frame == limits.MAX_DATA


def test_a_line_that_becomes_slow_or_fast_is_noticed():
    pace = run(200e6, delay=0.000_2)
    assert run(125_000, pace).frame < 10_000
    assert run(200e6, pace, delay=0.000_2).frame == limits.MAX_DATA


def test_little_traffic_proves_nothing():
    pace = Pace()
    for number in range(50):
        pace.sent(number, number * 1.0)
        pace.acknowledged(number + 1, 12, number * 1.0 + 0.12)
    assert pace.frame == FIRST_FRAME


def test_another_path_is_measured_anew():
    pace = Pace()
    pace.sent(0, 0.0)
    pace.other_path()
    pace.acknowledged(1, 100_000, 1000.0)
    assert pace.frame == FIRST_FRAME
