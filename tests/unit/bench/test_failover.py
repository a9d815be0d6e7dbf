"""What is made of the stalls that were seen."""

from bench.scenarios.failover import Path, count, measured


def test_percentiles_are_of_faults_that_happened():
    found = measured([n / 1000 for n in range(1, 51)]).figures
    assert found == {"stall_p50_ms": 25, "stall_p99_ms": 50, "stall_max_ms": 50, "faults": 50}


def test_a_single_fault_is_its_own_percentile():
    assert set(measured([0.02]).figures.values()) == {20.0, 1.0}


def test_the_long_profile_sees_fifty_faults_in_each_place_and_no_run_sees_none():
    assert [count(seconds) for seconds in (0.01, 0.3, 2, 5)] == [1, 3, 20, 50]


def test_what_is_cut_lies_on_the_path():
    path = Path(("r1", "r4", "r6"))
    assert [path.cable(n) for n in range(3)] == [("a", "r1"), ("r1", "r4"), ("b", "r6")]
