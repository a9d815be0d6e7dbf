"""How the receiver's window grows: with the way and the reader, never without need."""

from overlay import limits
from overlay.circuit.window import ROUND_TRIP_FLOOR, Window


def run(round_trip: float, rate: float, rounds: int = 60, *, window: Window | None = None) -> int:
    """A sender that always has something to say, a path of this round trip, a reader of `rate` bytes/s."""
    window = window or Window()
    now, total, limit = 0.0, 0, window.size
    for _ in range(rounds):
        window.credited(limit, now)
        taken = min(int(rate * round_trip), window.size)
        now += round_trip
        total = limit + 1
        limit = total + window.size
        window.received(total, now)
        window.consumed(taken, now)
    return window.size


def test_a_long_way_gets_what_it_carries_and_no_more_than_the_limit():
    assert run(0.1, 10e6) >= 2 * 10e6 * 0.1 * 0.9
    assert run(0.1, 10e6) < 2.2 * 10e6 * 0.1
    assert run(0.5, 1e9) == limits.MAX_WINDOW


def test_a_reader_that_is_slow_keeps_the_first_window():
    assert run(0.1, 1e6) == limits.INITIAL_WINDOW


def test_a_round_trip_too_short_to_measure_counts_as_the_floor():
    assert run(0.0, 1e9) == limits.INITIAL_WINDOW
    wanted = 2 * 500e6 * ROUND_TRIP_FLOOR
    assert 0.5 * wanted < run(0.001, 500e6, 400) < 1.3 * wanted


def test_a_sender_that_pauses_does_not_make_the_way_longer():
    window = Window()
    window.credited(100, 0.0)
    window.received(200, 0.01)
    window.credited(200, 1.0)
    window.received(300, 9.0)
    assert window._round_trip == 0.01


def test_what_came_under_the_old_limit_says_nothing():
    window = Window()
    window.credited(100, 0.0)
    window.received(100, 0.01)
    assert window._round_trip is None


def test_another_path_is_measured_anew():
    window = Window()
    run(0.1, 10e6, window=window)
    size = window.size
    window.other_path()
    assert run(0.2, 10e6, window=window) > size
