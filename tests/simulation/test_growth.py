"""The growth curves of docs/scaling.md, in small numbers: that they are measured, and what must not grow faster than the plant."""

from pathlib import Path

import pytest

from tests.simulation.growth.decisions import DECIDED, decided, decided_row
from tests.simulation.growth.fabric import FABRIC, fabric, fabric_row
from tests.simulation.growth.tables import lines


@pytest.mark.timeout(300)
def test_traffic_and_memory_grow_with_the_edges_and_not_faster():
    few, more = fabric(3, 2), fabric(9, 2)
    for one in (few, more):
        assert one.kill.frames >= 2 * one.edges, "every link is told"
        assert one.kill.sent > 0
        assert one.kill.at["controller"] > 0
        assert one.idle.sent > one.idle.controller_sent > 0
    assert few.kill.sent < more.kill.sent < 3.5 * few.kill.sent
    assert few.idle.sent < more.idle.sent < 3.5 * few.idle.sent
    assert few.memory < more.memory < 3.5 * few.memory
    assert few.map_size == pytest.approx(more.map_size, abs=8), "edges are not in it"
    assert abs(more.conduit.sent) < more.kill.sent, "a grant goes to whom it concerns only"
    assert len(fabric_row(few)) == FABRIC.count("|") + 1


@pytest.mark.timeout(300)
async def test_the_action_layer_is_measured(tmp_path: Path):
    one = await decided(4, tmp_path)
    assert min(one[1:]) > 0
    assert len(decided_row(one)) == DECIDED.count("|") + 1
    table = list(lines(DECIDED, [decided_row(one)]))
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 3
