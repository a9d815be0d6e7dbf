"""What comes to a bulk lane before its node has judged it is bounded (C-65)."""

from typing import Any

from overlay.aio.bulk_circuits import RESUMES_AT_ONCE, BulkCircuits
from overlay.circuit.memory import Memory
from overlay.errors import Code
from overlay.wire.bodies import Refusal
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind


class Link:
    """What was sent on it."""

    def __init__(self) -> None:
        self.sent: list[tuple[Kind, int, bytes]] = []

    def send(self, kind: Kind, circuit: int, payload: bytes) -> None:
        self.sent.append((kind, circuit, payload))


class Slow:
    """A home loop and a bulk loop: what is posted there is done when the test says."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def post(self, call: Any, *arguments: Any) -> None:
        self.waiting.append((call, arguments))

    def work(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call, arguments in waiting:
            call(*arguments)


def test_resumes_that_nobody_has_judged_yet_are_bounded_and_others_are_refused_busy():
    home, loop, judged, link = Slow(), Slow(), [], Link()
    bulk = BulkCircuits(
        loop,  # type: ignore[arg-type]
        Memory(),
        home,  # type: ignore[arg-type]
        lambda _, header, payload: judged.append((header.circuit, bytes(payload))),
        lambda *_: None,
        lambda *_: None,
    )
    for number in range(1, RESUMES_AT_ONCE + 11):
        header = Header(Kind.RESUME, 0, 4, number, 0)
        bulk.began(link, header, memoryview(b"body"))  # type: ignore[arg-type]
    assert [kind for kind, _, _ in link.sent] == [Kind.REFUSE] * 10
    assert decode(Refusal, link.sent[0][2]).code == Code.BUSY
    home.work()
    assert judged == [(number, b"body") for number in range(1, RESUMES_AT_ONCE + 1)]
    loop.work()
    bulk.began(link, Header(Kind.RESUME, 0, 4, 999, 0), memoryview(b"next"))  # type: ignore[arg-type]
    home.work()
    assert judged[-1] == (999, b"next")
    assert len(link.sent) == 10
