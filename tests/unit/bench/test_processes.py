"""CPU time and memory of process trees."""

import os

from bench.processes import (
    TICKS,
    Process,
    all_processes,
    cpu,
    parse_stat,
    resident,
    running_time,
    strangers,
    tree,
)

STAT = "4711 (a (b) c) S 42 4711 4711 0 -1 4194560 1 2 3 4 100 50 25 25 20 0 9 0 12345 0 0"

#   1 init ── 10 shell ── 100 bench ── 200 edge ── 201 worker
#   2 kthreadd ── 20 kworker      1 ── 11 stranger
PLANT = {
    pid: Process(pid, parent, 1.0)
    for pid, parent in {1: 0, 2: 0, 10: 1, 100: 10, 200: 100, 201: 200, 20: 2, 11: 1}.items()
}


def test_a_name_with_blanks_and_brackets_is_read():
    assert parse_stat(STAT) == Process(4711, 42, 200 / TICKS)


def test_a_tree_holds_children_of_children():
    assert tree(PLANT, [200]) == {200, 201}
    assert tree(PLANT, [100]) == {100, 200, 201}


def test_a_root_that_is_gone_has_no_tree():
    assert tree(PLANT, [999]) == set()


def test_time_is_summed_over_the_tree():
    assert cpu(PLANT, {200, 201, 999}) == 2.0


def test_strangers_are_not_ours_not_above_us_and_not_the_kernel():
    assert strangers(PLANT, 100) == {11}


def test_this_process_is_seen():
    me = os.getpid()
    found = all_processes()
    assert found[me].parent == os.getppid()
    assert resident([me]) > 1_000_000
    assert running_time([me]) > 0


def test_processes_that_are_gone_count_nothing():
    assert resident([2**30]) == 0
    assert running_time([2**30]) == 0
