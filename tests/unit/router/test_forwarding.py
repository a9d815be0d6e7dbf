"""The table of circuits against a plain model."""

from hypothesis import given
from hypothesis import strategies as st

from overlay.policy.grant import Grant
from router.forwarding import Circuit, Table


def grant(until: int) -> Grant:
    return Grant(
        b"g" * 16, "c1", b"k" * 32, "hmi-a", "edge-a", "plc-b.modbus", "plc-b", ("edge-b",), 0, 0,
        0, until, until, 0, 0, (), (), 1,
    )  # fmt: skip


def test_hops_lead_to_each_other_and_go_together():
    table: Table[str] = Table()
    circuit = table.add(b"c" * 16, grant(50), "edge-b", ("a", 1), ("b", 2))
    one, other = table.hops("a")[1], table.hops("b")[2]
    assert (one.other, other.other) == (other, one)
    assert (one.circuit, circuit.caller, circuit.host) == (circuit, one, other)
    assert table.of_link("a") == [one]
    table.remove(circuit)
    table.remove(circuit)
    assert (len(table), table.hops("a"), table.hops("b")) == (0, {}, {})
    table.forget_link("a")
    table.forget_link("a")


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "refresh", "remove", "time"]), st.integers(0, 100)),
        max_size=80,
    )
)
def test_each_circuit_ends_once_at_its_last_time(steps: list[tuple[str, int]]):
    table: Table[str] = Table()
    alive: dict[Circuit[str], int] = {}
    now, number = 0, 0
    for what, value in steps:
        chosen = list(alive)[value % len(alive)] if alive else None
        if what == "add":
            number += 1
            until = now + value
            alive[table.add(b"c" * 16, grant(until), "b", ("a", number), ("b", number))] = until
        elif what == "refresh" and chosen is not None:
            alive[chosen] = now + value
            table.refresh(chosen, grant(now + value))
        elif what == "remove" and chosen is not None:
            del alive[chosen]
            table.remove(chosen)
        else:
            now += value // 10
            ended = table.ended(now)
            assert sorted(map(id, ended)) == sorted(
                id(c) for c, until in alive.items() if until <= now
            )
            for circuit in ended:
                del alive[circuit]
                table.remove(circuit)
        assert set(table) == set(alive)
        assert len(table._ends) <= 2 * len(table) + 64
        assert len(table) > 0 or not table._ends, (
            "a router at rest keeps nothing of what went through it"
        )


def test_a_grant_that_is_refreshed_and_ends_when_it_did_leaves_nothing_behind():
    table: Table[str] = Table()
    circuit = table.add(b"c" * 16, grant(50), "edge-b", ("a", 1), ("b", 2))
    for _ in range(1000):
        table.refresh(circuit, grant(50))
    assert len(table._ends) == 1
    table.refresh(circuit, grant(60))
    assert (table.ended(59), table.ended(60)) == ([], [circuit])


def test_control_circuits_have_no_end():
    table: Table[str] = Table()
    table.add(b"c" * 16, None, "controller", ("a", 1), ("b", 2))
    assert table.ended(1 << 62) == []
