"""Bugs of each kind, to plant: the simulation has to find them.

`python -m tests.simulation.planted --seeds 100` says how many seeds find each, `--name late` of some only. Faults are aimed at most
of them: what two RESUMEs show that overtake each other was found by one seed of 36 that drew its faults, and is by 6 of 6 with
queues on the ways.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from edge import rules
from edge.enforcement import Enforcer
from overlay import limits
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.pump import Pump
from overlay.aio.recorder import Recorder
from overlay.audit.event import EventName
from overlay.circuit.circuit import Circuit
from overlay.circuit.datagrams import DatagramPair
from overlay.circuit.frames import Frame
from overlay.circuit.receiving import ReceivingHalf
from overlay.circuit.sending import SendingHalf
from overlay.circuit.signatures import Verifying
from overlay.fabric.state import AuthorityState
from router.switch import Switch
from tests.simulation.run import run
from tests.simulation.striking import SEED_DRAWS, Aim
from tests.support.planted import take_late_for_forged

Planting = Callable[[pytest.MonkeyPatch], None]


class Bug(NamedTuple):
    """What `plant` breaks must be found as a violation of this kind, with one of these words."""

    plant: Planting
    kind: str
    words: tuple[str, ...] = ("",)
    aim: Aim = SEED_DRAWS


def _swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Pump.data, [0]

    def data(self: Pump, data: Any) -> None:
        calls[0] += 1
        if calls[0] % 25:
            real(self, data)
        else:
            self._stream.consumed(len(data))

    monkeypatch.setattr(Pump, "data", data)


def _never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Enforcer, "review", lambda _: None)


def _never_cut_by_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Switch, "_cut_void", lambda _: None)


def _taken_after_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Circuit.receive_data

    def receive_data(self: Circuit, *arguments: Any) -> Any:
        over, self.over = self.over, None
        try:
            return real(self, *arguments)
        finally:
            self.over = over or self.over

    monkeypatch.setattr(Circuit, "receive_data", receive_data)


def _window_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ReceivingHalf.credit

    def credit(self: ReceivingHalf) -> tuple[int, int]:
        ack, _ = real(self)
        self._told_limit = max(self._told_limit, self._consumed + self._window.size + (1 << 20))
        return ack, self._told_limit

    monkeypatch.setattr(ReceivingHalf, "credit", credit)


def _not_recorded(event: EventName) -> Planting:
    """Each fourth time."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real, calls = Recorder.record, [0]

        def record(self: Recorder, what: EventName, outcome: Any, **fields: Any) -> None:
            calls[0] += what is event
            if what is not event or calls[0] % 4:
                real(self, what, outcome, **fields)

        monkeypatch.setattr(Recorder, "record", record)

    return plant


def _waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SendingHalf.acknowledge

    def acknowledge(self: SendingHalf, ack: int, limit: int, now: float | None = None) -> bool:
        return real(self, ack, max(self.limit, min(limit, 300_000)), now)  # credit ends here

    monkeypatch.setattr(SendingHalf, "acknowledge", acknowledge)


def _datagrams_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CircuitStream.send_datagram

    def send_datagram(self: CircuitStream, data: Any, *, more: bool = False) -> None:
        real(self, data, more=True)
        real(self, data, more=more)

    monkeypatch.setattr(CircuitStream, "send_datagram", send_datagram)


def _datagrams_without_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    real, held = DatagramPair.seal, dict[int, bytes]()

    def seal(self: DatagramPair, plain: Any) -> Frame:
        whole = held.pop(id(self), b"") + bytes(plain)
        if len(whole) == len(plain):
            held[id(self)] = whole[-1:]
            whole = whole[:-1]
        return real(self, whole)

    monkeypatch.setattr(DatagramPair, "seal", seal)


class _Believing(Verifying):
    """Holds every signature for good."""

    def frame(self, *_: Any) -> None:
        return


def _not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ReceivingHalf.data

    def data(self: ReceivingHalf, *arguments: Any) -> Any:
        verifying, self._verifying = self._verifying, _Believing(*self._verifying)
        try:
            return real(self, *arguments)
        finally:
            self._verifying = verifying

    monkeypatch.setattr(ReceivingHalf, "data", data)


def _not_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    real = AuthorityState._hold

    def hold(self: AuthorityState, held: Any) -> None:
        real(self, held)
        self._revoked = {}

    monkeypatch.setattr(AuthorityState, "_hold", hold)


def _grants_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "check_time", lambda *_, **__: None)
    monkeypatch.setattr(rules, "valid_until", lambda *_, **__: float("inf"))


def _not_killed(**nothing: Any) -> Planting:
    """Kills of zones, or of circuits, are not looked at."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real = AuthorityState.kill_of

        def kill_of(
            self: AuthorityState,
            grant: Any,
            now: int,
            circuit: bytes = b"",
            host: str | None = None,
        ) -> Any:
            if "circuit" in nothing:
                return real(self, grant, now, nothing["circuit"], host)
            return real(self, structs.replace(grant, **nothing), now, circuit, host)

        monkeypatch.setattr(AuthorityState, "kill_of", kill_of)

    return plant


def _two_routers_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ROUTE", 2)


LATE = Aim(("queue", "connection", "slow"), every=200, form="apart")
"""What waits in a queue is overtaken by what is said again on another way."""
CUTS = Aim(("kill_zone", "withdraw"), every=250)
LATE_EDGES = Aim(("kill_zone", "kill", "freeze"), every=150)
"""An edge that knows of a kill tells the router that its circuit is gone: here neither does."""
BUGS = {
    "bytes are swallowed": Bug(_swallowed, "exactly once"),
    "circuits are not cut": Bug(_never_cut, "nothing open", ("edge-",), CUTS),
    "routers cut nothing": Bug(_never_cut_by_routers, "nothing open", ("router-",), LATE_EDGES),
    "zones are not killed": Bug(
        _not_killed(who_zones=(), asset_zones=()),
        "nothing open",
        ("kill of zone",),
        Aim(("kill_zone",), 500),
    ),
    "sessions are not killed": Bug(
        _not_killed(circuit=b""), "nothing open", ("kill of circuit",), Aim(("kill_session",), 250)
    ),
    "circuits cross two routers at most": Bug(
        _two_routers_at_most, "progress", aim=Aim(("clock",), form="star")
    ),
    "a circuit that was cut takes bytes": Bug(
        _taken_after_the_cut, "no delivery without a grant", aim=Aim(("kill_session",), 150)
    ),
    "a window is not kept": Bug(_window_too_wide, "bounded"),
    "openings are not recorded": Bug(_not_recorded(EventName.CIRCUIT_OPEN), "audit"),
    "ends are not recorded": Bug(_not_recorded(EventName.CIRCUIT_CLOSE), "audit"),
    "a circuit waits for ever": Bug(_waits_for_ever, "progress"),
    "datagrams come twice": Bug(_datagrams_twice, "datagrams"),
    "datagrams lose their boundaries": Bug(_datagrams_without_boundaries, "datagrams"),
    "strict frames are not verified": Bug(_not_verified, "strict"),
    "who is revoked goes on": Bug(_not_revoked, "nothing open", ("is revoked",), Aim(("revoke",))),
    "grants hold for ever": Bug(
        _grants_for_ever, "nothing open", ("hold-until", "has ended"), Aim(("ending",), 250)
    ),
    "what is late is an alarm": Bug(take_late_for_forged, "no false alarm", ("late",), LATE),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--long", action="store_true", help="as `make simulate` runs them")
    parser.add_argument("--name", default="", help="only those whose name has this in it")
    given = parser.parse_args()
    for name, bug in BUGS.items():
        if given.name not in name:
            continue
        with pytest.MonkeyPatch.context() as monkeypatch:
            bug.plant(monkeypatch)
            results = [run(seed, bug.aim, brief=not given.long) for seed in range(given.seeds)]
        kinds = [result.kind for result in results]
        others = sorted(set(kinds) - {"", bug.kind})
        told = f", as something else {', '.join(others)}" if others else ""
        print(f"{name}: {kinds.count(bug.kind)} of {given.seeds} seeds find it{told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
