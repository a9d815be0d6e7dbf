"""What nodes say all at once is taken in parts, and what they claim against each other is not said without end."""

from types import SimpleNamespace
from typing import Any

from controller.actions.projection import TWICE, Projection
from controller.actions.recording import BATCHES_AT_ONCE, Recording
from overlay.audit.event import Event, EventName, Outcome
from tests.support.pki import NOW


def batch(node: str) -> Any:
    return SimpleNamespace(leaf=SimpleNamespace(identity=SimpleNamespace(name=node)))


def test_a_transaction_takes_one_batch_of_a_node_and_so_many_in_all():
    recording: Any = Recording.__new__(Recording)
    greedy = [batch("edge-0") for _ in range(3)]
    others = [batch(f"edge-{number}") for number in range(1, BATCHES_AT_ONCE + 2)]
    recording._queue = [*greedy, *others]
    assert recording._next() == [greedy[0], *others[: BATCHES_AT_ONCE - 1]]
    assert recording._next() == [greedy[1], *others[BATCHES_AT_ONCE - 1 :]]
    assert recording._next() == [greedy[2]]
    assert recording._queue == []


def test_of_circuits_that_two_nodes_claim_so_many_are_said():
    projection = Projection()
    for number in range(2 * TWICE):
        for node in ("edge-b", "edge-c"):
            event = Event(
                node=node, generation=1, number=number + 1, time=NOW, event=EventName.CIRCUIT_OPEN,
                outcome=Outcome.ALLOWED, circuit=f"{number:032x}",
            )  # fmt: skip
            projection.add(event, "plc-b", "192.168.1.20:502")
    assert list(projection._twice) == [f"{number:032x}" for number in range(TWICE)]
    assert len(projection._opened) == 4 * TWICE, "all are shown"
