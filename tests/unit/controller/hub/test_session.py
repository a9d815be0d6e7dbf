"""One node on its control circuit: what it may say when, and what happens when it does not keep to it (K-01 to K-08)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from controller.hub import session as session_module
from controller.hub.session import MEASURE_SECONDS, WAITING, Session
from overlay import limits
from overlay.audit.event import Event, EventName, Outcome
from overlay.control.messages import (
    Answer,
    Ask,
    Assignments,
    Current,
    Enrol,
    Events,
    Failed,
    GrantUpdate,
    Issued,
    ListenerEntry,
    Live,
    Measure,
    Measured,
    Proofs,
    Prove,
    Recorded,
    Renew,
    Start,
)
from overlay.control.stream import encode_message, from_controller
from overlay.errors import Code, DecodeError, FerruleError, ProtocolError, TrustError
from overlay.identity.certificate import Role, make_csr
from overlay.identity.trust import sign_body
from tests.support.hub_actions import MemoryActions
from tests.support.pki import DAY, NOW, SECOND
from tests.support.simulation import EPOCH, Simulation

assert EPOCH == NOW
LISTENER = ListenerEntry("plc-b.modbus", "127.0.0.1:1502", "hmi-a", 0)


class Wire:
    """Both ends of a control circuit without a circuit."""

    def __init__(self) -> None:
        self._in: asyncio.Queue[bytes] = asyncio.Queue()
        self._reader = from_controller()
        self.said: list[Any] = []
        self.aborted: tuple[Code, str] | None = None

    def send(self, *messages: Any) -> None:
        self._in.put_nowait(b"".join(encode_message(one) for one in messages))

    def send_bytes(self, data: bytes) -> None:
        self._in.put_nowait(data)

    async def read(self, most: int = 65_536) -> bytes:
        return await self._in.get()

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self.said += self._reader.feed(data)

    def abort(self, code: Code, reason: str) -> None:
        self.aborted = (code, reason)
        self._in.put_nowait(b"")

    def kinds(self) -> list[type]:
        return [type(one) for one in self.said]

    def last(self, kind: type) -> Any:
        return [one for one in self.said if isinstance(one, kind)][-1]


class Publisher:
    def __init__(self, actions: MemoryActions) -> None:
        self._actions = actions
        self.heard: list[int] = []
        self.pushes = asyncio.Semaphore(1)

    async def current_authority(self, version: int) -> bytes:
        return await self._actions.authority()

    def heard_version(self, version: int, node: str) -> None:
        self.heard.append(version)


class Desk:
    """A session under test."""

    def __init__(self, sim: Simulation, *, end: int = NOW + 30 * DAY) -> None:
        self.actions = MemoryActions(sim.host("controller").world)
        self.actions.add_edge("edge-a")
        self.actions.nodes["edge-a"].generation = 1
        self.edge = self.actions.pki.node(Role.EDGE, "edge-a", end=end)
        self.wire = Wire()
        self.publisher = Publisher(self.actions)
        assert self.edge.leaf is not None
        self.session = Session(self.actions, self.publisher, self.edge.leaf, self.wire)
        self.task = asyncio.ensure_future(self.session.run())

    async def settle(self) -> None:
        await asyncio.sleep(0.1)

    async def start(self) -> None:
        self.wire.send(Start("1", 1, 0, 1))
        await self.settle()

    async def fails(self, error: type[BaseException], match: str | None = None) -> None:
        await self.settle()
        with pytest.raises(error, match=match):
            await self.task


def desk(story: Callable[[Desk], Any], **options: Any) -> None:
    sim = Simulation()

    async def run() -> None:
        await story(Desk(sim, **options))

    sim.run(run())


def event(number: int, desk: Desk) -> bytes:
    body = Event(
        "edge-a",
        number,
        NOW,
        EventName.CIRCUIT_CLOSE,
        Outcome.DONE,
        generation=1,
        reason=str(number),
    )
    return sign_body(body, desk.edge.key, desk.actions.pki.anchor)


def test_start_is_answered_with_all_there_is_to_know():
    async def story(desk):
        await desk.start()
        assert desk.wire.kinds() == [Current, Assignments, GrantUpdate]
        assert desk.wire.last(GrantUpdate).full
        assert desk.actions.nodes["edge-a"].connected == 1
        assert desk.actions.nodes["edge-a"].boots == [1]

    desk(story)


def test_ask_is_answered_and_an_old_authority_is_told_the_new_one_first():
    async def story(desk):
        await desk.start()
        desk.actions.version = 5
        desk.wire.said.clear()
        desk.wire.send(Ask(b"n" * 16, 5), Ask(b"m" * 16, 4))
        await desk.settle()
        assert desk.wire.kinds() == [Answer, Current, Answer]
        assert desk.wire.said[0] == Answer(b"n" * 16, desk.wire.said[0].time, 5)
        assert abs(desk.wire.said[0].time - desk.actions.now()) < SECOND
        assert desk.publisher.heard == [5, 4]

    desk(story)


def test_without_its_store_a_controller_answers_no_freshness_and_goes_on():
    async def story(desk):
        await desk.start()
        desk.wire.said.clear()
        desk.actions.away = True
        desk.wire.send(Ask(b"n" * 16, 1), Events(7, 1, (event(1, desk),), desk.edge.chain))
        await desk.settle()
        assert desk.wire.kinds() == [Failed]
        assert desk.wire.last(Failed).code == Code.BUSY
        desk.actions.away = False
        desk.wire.send(Ask(b"m" * 16, 1))
        await desk.settle()
        assert desk.wire.last(Answer).nonce == b"m" * 16

    desk(story)


def test_events_are_recorded_once():
    async def story(desk):
        await desk.start()
        for number in (7, 8):
            desk.wire.send(Events(number, 1, (event(1, desk), event(2, desk)), desk.edge.chain))
            await desk.settle()
            assert desk.wire.last(Recorded).id == number
        assert [one.number for one in desk.actions.events("edge-a")] == [1, 2]

    desk(story)


@pytest.mark.parametrize("error", [TrustError("forged"), DecodeError("rubbish")])
def test_events_that_do_not_hold_are_refused_and_the_circuit_goes_on(error):
    async def story(desk):
        await desk.start()

        async def refuse(*_: object) -> Recorded:
            raise error

        desk.actions.record_events = refuse
        desk.wire.send(Events(7, 1, (b"x",)))
        await desk.settle()
        assert desk.wire.last(Failed) == Failed(7, Code.NOT_TRUSTED, str(error))
        assert not desk.task.done()

    desk(story)


@pytest.mark.parametrize(
    "message",
    [Ask(b"n" * 16), Events(1, 1, (b"x",)), Live(()), Enrol(1, b"t" * 16, b"c", b"p" * 32)],
    ids=lambda one: type(one).__name__,
)
def test_start_comes_first_and_nobody_enrols_twice(message):
    async def story(desk):
        desk.wire.send(message)
        await desk.fails(ProtocolError, "Start comes first")
        assert desk.actions.nodes["edge-a"].connected == 0

    desk(story)


def test_an_enrolled_node_does_not_enrol():
    async def story(desk):
        await desk.start()
        desk.wire.send(Enrol(1, b"t" * 16, b"c", b"p" * 32))
        await desk.fails(ProtocolError, "does not enrol")
        assert desk.actions.nodes["edge-a"].connected == 0, "and it counts as gone"

    desk(story)


def test_start_comes_once_and_names_its_own_generation():
    async def twice(desk):
        await desk.start()
        desk.wire.send(Start("1", 1, 0, 1))
        await desk.fails(ProtocolError, "twice")

    async def foreign(desk):
        desk.wire.send(Start("1", 1, 0, 2))
        await desk.fails(ProtocolError, "another generation")

    desk(twice)
    desk(foreign)


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x01\xc0"])
def test_rubbish_ends_the_circuit(data):
    async def story(desk):
        await desk.start()
        desk.wire.send_bytes(data)
        await desk.fails(DecodeError)

    desk(story)


@pytest.mark.parametrize("kind", ["ask", "events", "live", "prove"])
def test_a_node_that_sends_faster_than_it_is_answered_loses_its_circuit(kind):
    async def story(desk):
        await desk.start()
        hang = asyncio.Event()

        async def never(*_: object) -> Any:
            await hang.wait()

        desk.actions.authority_version = never
        desk.actions.record_events = never
        desk.actions.node_live = never
        desk.actions.prove_growth = never
        message = {
            "ask": Ask(b"n" * 16), "events": Events(1, 1, (b"x",)), "live": Live(()), "prove": Prove(1, (1,), 2),
        }[kind]  # fmt: skip
        allowed = (1 if kind == "events" else WAITING) + 1
        desk.wire.send(*[message])
        await desk.settle()
        desk.wire.send(*[message] * (allowed - 1))
        await desk.settle()
        assert not desk.task.done()
        desk.wire.send(message)
        await desk.fails(ProtocolError, "faster than it is answered")

    desk(story)


def test_an_expired_certificate_may_renew_and_nothing_else():
    async def renews(desk):
        desk.wire.send(Renew(3, make_csr(desk.actions.pki.key("edge-a", 1))))
        await desk.settle()
        assert desk.wire.kinds() == [Issued]
        assert desk.wire.last(Issued).id == 3
        assert desk.actions.nodes["edge-a"].connected == 0

    async def starts(desk):
        desk.wire.send(Start("1", 1, 0, 1))
        await desk.fails(ProtocolError, "renew first")
        assert desk.wire.said == []

    desk(renews, end=NOW - SECOND)
    desk(starts, end=NOW - SECOND)


def test_a_renewal_that_is_refused_is_said():
    async def story(desk):
        await desk.start()
        desk.actions.revoke("edge-a")
        desk.wire.send(Renew(3, make_csr(desk.actions.pki.key("edge-a", 1))))
        await desk.settle()
        assert desk.wire.last(Failed).code == Code.NOT_TRUSTED

    desk(story)


def test_a_question_for_proofs_is_answered_or_refused_beside_everything_else():
    """K-09."""

    async def story(desk):
        await desk.start()
        desk.wire.send(Prove(8, (0,), 0))
        await desk.settle()
        assert desk.wire.last(Proofs) == Proofs(8, ((),))
        desk.wire.send(Prove(9, (0,), 1))
        await desk.settle()
        assert desk.wire.last(Failed).code == Code.NOT_TRUSTED
        desk.actions.away = True
        desk.wire.send(Prove(10, (0,), 0))
        await desk.settle()
        assert (desk.wire.last(Failed).id, desk.wire.last(Failed).code) == (10, Code.BUSY)
        assert not desk.task.done()

    desk(story)


def test_a_node_measures_when_it_is_asked_and_is_not_asked_too_often():
    """K-12."""

    async def story(desk):
        await desk.start()
        asked = asyncio.ensure_future(desk.session.measure(("router-1", "router-2")))
        await desk.settle()
        question = desk.wire.last(Measure)
        assert question.routers == ("router-1", "router-2")
        desk.wire.send(Measured(question.id + 1, (7, 7)))  # nobody asked for that
        desk.wire.send(Measured(question.id, (1500, 0)))
        assert await asked == {"router-1": 1500}
        assert await desk.session.measure(("router-1",)) == {}, "too soon"
        assert desk.wire.kinds().count(Measure) == 1
        await asyncio.sleep(limits.MEASURE_PAUSE)
        asked = asyncio.ensure_future(desk.session.measure(("router-1",)))
        await desk.settle()
        desk.wire.send(Measured(desk.wire.last(Measure).id, (2000,)))
        assert await asked == {"router-1": 2000}

    desk(story)


def test_a_node_that_does_not_know_the_question_costs_its_time_and_no_more():
    """K-12."""

    async def story(desk):
        loop = asyncio.get_running_loop()
        await desk.start()
        began = loop.time()
        assert await desk.session.measure(("router-1",)) == {}
        assert loop.time() - began == pytest.approx(MEASURE_SECONDS)
        assert desk.session._measuring == {}
        desk.wire.send(Measured(desk.wire.last(Measure).id, (7,)))  # too late
        await desk.settle()
        assert not desk.task.done()
        began = loop.time()
        asked = asyncio.ensure_future(desk.session.measure(("router-1",)))
        await desk.settle()
        desk.wire.send_bytes(b"")
        assert await asked == {}
        assert loop.time() - began < MEASURE_SECONDS, "it is gone: nobody waits for it"

    desk(story)


def test_questions_to_a_node_that_does_not_read_do_not_pile_up(monkeypatch):
    async def story(desk):
        await desk.start()

        async def stuck(data: bytes) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(desk.wire, "write", stuck)
        for _ in range(3 * WAITING):
            assert await desk.session.measure(("router-1",)) == {}
            await asyncio.sleep(limits.MEASURE_PAUSE)
        assert desk.session._to_measure.qsize() == WAITING
        assert desk.session._measuring == {}

    desk(story)


def test_a_change_is_pushed_and_no_change_is_not():
    async def story(desk):
        await desk.start()
        said = len(desk.wire.said)
        desk.session.changed()
        await desk.settle()
        assert len(desk.wire.said) == said
        desk.actions.assignments["edge-a"] = Assignments(2, b"", (), ())
        desk.session.changed()
        await desk.settle()
        assert len(desk.wire.said) == said, "a version alone is no news: it rises for all nodes"
        desk.actions.assignments["edge-a"] = Assignments(3, b"", (LISTENER,), ())
        desk.session.changed()
        await desk.settle()
        assert desk.wire.kinds()[said:] == [Assignments]
        assert desk.wire.last(Assignments).version == 3

    desk(story)


def test_a_push_is_tried_again_when_the_store_was_away():
    async def story(desk):
        await desk.start()
        desk.actions.away = True
        desk.actions.assignments["edge-a"] = Assignments(2, b"", (LISTENER,), ())
        desk.session.changed()
        await desk.settle()
        desk.actions.away = False
        await asyncio.sleep(session_module.RETRY_SECONDS + 0.1)
        assert desk.wire.last(Assignments).version == 2

    desk(story)


def test_a_silent_node_is_gone():
    async def story(desk):
        await desk.start()
        await asyncio.sleep(session_module.SILENT_SECONDS + 1)
        with pytest.raises(OSError, match="silent"):
            await desk.task
        assert desk.actions.nodes["edge-a"].connected == 0

    desk(story)


def test_a_node_that_leaves_is_told_to_the_store():
    async def story(desk):
        await desk.start()
        desk.wire.send_bytes(b"")
        await desk.settle()
        await desk.task
        assert desk.actions.nodes["edge-a"].connected == 0

    desk(story)


def test_a_store_that_is_away_at_start_ends_the_circuit():
    async def story(desk):
        desk.actions.away = True
        desk.wire.send(Start("1", 1, 0, 1))
        await desk.fails(FerruleError, "away")

    desk(story)
