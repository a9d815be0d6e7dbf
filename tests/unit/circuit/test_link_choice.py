"""How far a link is, and how long what it led to counts against it (C-66)."""

from itertools import pairwise

from overlay.circuit.link_choice import FAILED_KEPT, FAILED_SECONDS, NEVER, Failures, steps_away
from overlay.link.load import COSTS


def test_links_of_one_site_are_equally_near_and_a_far_one_is_not():
    assert {steps_away(trip, 0) for trip in (None, 0.0001, 0.001, 0.0099)} == {0}
    assert steps_away(0.001, 0) < steps_away(0.02, 0) < steps_away(0.2, 0)


def test_each_doubling_is_one_step():
    doubled = [steps_away(0.011 * 2**n, 0) for n in range(8)]
    assert all(after - before == 1 for before, after in pairwise(doubled))
    assert steps_away(0.081, 0) == steps_away(0.159, 0), "what is less than twice as far is as near"


def test_what_waits_counts_as_the_time_that_it_takes_to_leave():
    assert steps_away(0.001, 50_000) == 0
    assert steps_away(0.001, 500_000) < steps_away(0.2, 0), "better to wait 40 ms than to go far"
    assert steps_away(0.001, 8_000_000) > steps_away(0.2, 0)


def test_a_load_is_a_way_further_on():
    """F-17; even the lowest tells two routers apart that are equally near."""
    steps = [steps_away(0.001, 0, cost / 1e6) for cost in COSTS]
    assert steps == sorted(set(steps))
    assert steps_away(0.001, 0, COSTS[1] / 1e6) < steps_away(0.1, 0), "better busy than far away"


def test_a_refusal_speaks_of_its_service_and_silence_of_the_link():
    failures = Failures()
    assert failures.last("plc.modbus", 100.0) == NEVER
    failures.refused("plc.modbus", 100.0)
    assert failures.last("plc.modbus", 101.0) == 100.0
    assert failures.last("drive.opcua", 101.0) == NEVER
    failures.silent(102.0)
    assert failures.last("plc.modbus", 103.0) == failures.last("drive.opcua", 103.0) == 102.0


def test_a_failure_does_not_count_for_ever():
    failures = Failures()
    failures.silent(100.0)
    failures.refused("plc.modbus", 110.0)
    assert failures.last("drive.opcua", 99.9 + FAILED_SECONDS) == 100.0
    assert failures.last("drive.opcua", 100.0 + FAILED_SECONDS) == NEVER
    assert failures.last("plc.modbus", 100.0 + FAILED_SECONDS) == 110.0
    assert failures.last("plc.modbus", 110.0 + FAILED_SECONDS) == NEVER


def test_refusals_of_so_many_services_are_remembered():
    """What a program asks for is its own choice; the newest count."""
    failures = Failures()
    for number in range(FAILED_KEPT + 10):
        failures.refused("first", 100.0)
        failures.refused(f"plc-{number}.modbus", 100.0)
    assert len(failures) == FAILED_KEPT
    assert failures.last("first", 101.0) == 100.0
    assert failures.last("plc-0.modbus", 101.0) == NEVER
    assert failures.last(f"plc-{FAILED_KEPT + 9}.modbus", 101.0) == 100.0
