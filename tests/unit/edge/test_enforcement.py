"""The enforcer alone: what ended while the machine slept (G-02)."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from edge.enforcement import Enforcer
from overlay.errors import Code
from tests.support.simulation import Simulation

END = 20.0
"""When the grant ends, seconds of a clock that goes on while the machine sleeps."""


def test_a_grant_that_ended_while_the_machine_slept_is_cut_at_the_first_look():
    sim = Simulation()
    host = sim.host("edge")
    cut: list[Code] = []

    def now() -> int:
        return round(sim.loop.now * 1e6)

    def judge(*_: Any) -> tuple[Code, str] | None:
        return (Code.EXPIRED, "it has ended") if now() >= END * 1e6 else None

    rules: Any = SimpleNamespace(
        now=now, judge=judge, until=lambda *_: END * 1e6, refresh_binds=lambda: True
    )
    stream: Any = SimpleNamespace(
        grant=object(),
        hosting=True,
        closed=sim.loop.create_future(),
        abort=lambda code, _: cut.append(code),
    )

    async def program() -> None:
        enforcer = Enforcer(lambda: [] if cut else [stream], SimpleNamespace(), rules)  # type: ignore[arg-type]
        enforcer.opened(stream)
        while True:
            await asyncio.sleep(1.0)
            enforcer.tick()

    async def story() -> None:
        host.start(program())
        await asyncio.sleep(10.5)
        assert not cut
        host.sleep()
        await asyncio.sleep(3600.0)
        assert not cut, "nothing runs meanwhile"
        host.thaw()
        await asyncio.sleep(1.0)
        assert cut == [Code.EXPIRED]

    sim.run(story())


@pytest.mark.parametrize("hosting", [False, True])
async def test_what_was_killed_while_it_was_opening_is_cut_as_soon_as_it_is_open(hosting: bool):
    """At the caller one of several permitted hosts was left before that; at the host its asset was dialed."""
    cut: list[Code] = []
    killed = Code.KILLED, "killed: identity edge-b"
    rules: Any = SimpleNamespace(
        now=lambda: 0, judge=lambda *_: killed, until=lambda *_: 1e6, refresh_binds=lambda: True
    )
    book: Any = SimpleNamespace(objection=lambda *_: None, successor=lambda *_: None)
    stream: Any = SimpleNamespace(
        grant=object(), hosting=hosting, core=None, abort=lambda code, _: cut.append(code)
    )
    Enforcer(list, book, rules).opened(stream)
    assert cut == [Code.KILLED]
