"""Plant time and freshness: A-20 to A-22, K-03, G-02."""

from overlay.fabric.plant_time import CLOCK_TOLERANCE, Freshness, PlantTime

SECOND = 1_000_000
T = 1_800_000_000 * SECOND
YEAR = 365 * 86_400 * SECOND


def test_before_the_first_answer_it_is_the_wall_clock_but_never_below_the_floor():
    assert PlantTime().now(10.0, T) == T
    assert PlantTime(floor=T).now(10.0, T - YEAR) == T


def test_after_an_answer_the_wall_clock_has_no_say():
    time = PlantTime()
    time.now(10.0, T - YEAR)
    assert time.answer(T, 10.0, 10.5)
    assert time.now(13.0, 5) == T + 3 * SECOND
    assert time.now(14.0, T + YEAR) == T + 4 * SECOND


def test_a_rewound_clock_revives_nothing():
    time = PlantTime()
    time.answer(T, 0.0, 0.0)
    assert time.now(60.0, T - YEAR) == T + 60 * SECOND, (
        "time goes on although the clock was set back"
    )
    again = PlantTime(time.floor)
    assert again.now(5.0, T - YEAR) == T + 60 * SECOND, "and over a restart"
    assert again.now(6.0, T + 90 * SECOND) == T + 90 * SECOND


def test_a_wall_clock_in_the_far_future_locks_nothing():
    time = PlantTime()
    assert time.now(0.0, T + 20 * YEAR) == T + 20 * YEAR
    assert time.now(1.0, T) == T, "before an answer, when it is put right"
    assert time.answer(T, 1.0, 1.0)
    assert time.now(1.0, T + 20 * YEAR) == T
    assert PlantTime(time.floor).now(0.0, T) == T


def test_answers_never_take_time_back():
    time = PlantTime()
    time.answer(T, 0.0, 0.0)
    time.now(100.0, T)
    assert time.answer(T, 100.0, 100.0)
    assert time.now(100.0, T) == T + 100 * SECOND
    assert PlantTime(time.floor).now(0.0, 0) == T + 100 * SECOND


def test_an_answer_that_took_too_long_counts_for_nothing():
    time, fresh = PlantTime(), Freshness()
    assert not time.answer(T, 0.0, 15.0)
    assert not time.answer(T, 10.0, 9.0)
    assert not time.answered
    fresh.answered(0.0, 15.0)
    assert not fresh.fresh(15.0)


def test_what_a_controller_signed_is_a_floor():
    time = PlantTime()
    time.learn(T, 0.0)
    assert time.now(0.0, T - YEAR) == T


def test_without_an_answer_the_floor_goes_on_whatever_the_wall_clock_says():
    """A node that starts with a rewound clock while the controller is dead must still let grants end."""
    time = PlantTime(T)
    assert time.now(1000.0, T - YEAR) == T, "nobody knows how long it was off"
    assert time.now(1090.0, T - YEAR) == T + 90 * SECOND
    time.learn(T + 60 * SECOND, 1100.0)
    assert time.now(1100.0, T - YEAR) == T + 100 * SECOND, "what is older takes nothing back"
    time.learn(T + 200 * SECOND, 1110.0)
    assert time.now(1115.0, 0) == T + 205 * SECOND, "carried from when it was learned"
    assert time.now(1115.0, T + YEAR) == T + YEAR, "the wall clock still counts when it is later"
    assert time.answer(T + 230 * SECOND, 1120.0, 1120.0)
    assert time.now(1130.0, T + YEAR) == T + 240 * SECOND
    time.learn(T + 239 * SECOND, 1140.0)
    assert time.now(1140.0, 0) == T + 250 * SECOND, "an answer is carried on by itself, not twice"
    assert PlantTime().now(5.0, 7) == 7, "there is no floor to carry before a controller said one"


def test_a_wrong_wall_clock_is_noticed():
    time = PlantTime()
    assert not time.wall_is_off(0.0, T)
    time.answer(T, 0.0, 0.0)
    assert not time.wall_is_off(0.0, T + CLOCK_TOLERANCE)
    assert time.wall_is_off(0.0, T + CLOCK_TOLERANCE + 1)
    assert time.wall_is_off(0.0, T - CLOCK_TOLERANCE - 1)


def test_freshness_counts_from_when_it_was_asked():
    fresh = Freshness()
    assert not fresh.fresh(0.0)
    fresh.answered(100.0, 104.0)
    assert fresh.fresh(104.0)
    assert fresh.fresh(114.9)
    assert not fresh.fresh(115.0)


def test_refresh_by_binds_only_after_the_grace():
    fresh = Freshness()
    for second in range(0, 40, 5):
        fresh.answered(float(second), float(second))
        assert fresh.refresh_binds(float(second)) == (second >= 30)
    assert not fresh.refresh_binds(50.0), "not fresh any more"
    fresh.answered(60.0, 60.0)
    assert not fresh.refresh_binds(61.0), "fresh again: 30 s of grace"
