"""What a node keeps by the word of others, filled: grants, signers, early events, pipes, what it says of itself."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlay import limits
from overlay.aio import holdings, pipes
from overlay.aio.attaching import Attacher
from overlay.aio.holdings import Holdings
from overlay.aio.pipes import POOL, Pipes
from overlay.aio.recorder import EARLY, Recorder
from overlay.aio.state import KEPT_CHAINS, KeptState
from overlay.audit.event import EventName, Outcome
from overlay.control.messages import GrantUpdate
from overlay.errors import ProtocolError
from overlay.identity.certificate import Role
from overlay.wire.bodies import Attachment
from overlay.wire.codec import Signed, decode
from tests.support.pki import NOW, Pki
from tests.support.simulation import Simulation


def test_a_controller_cannot_make_the_grants_of_a_node_grow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(holdings, "GRANTS", 5)
    held = Holdings(cast("Any", None), lambda: NOW)
    held.grants_came(GrantUpdate(full=True, put=(b"grant",) * 5, more=True))
    with pytest.raises(ProtocolError, match="more than 5 grants"):
        held.grants_came(GrantUpdate(full=True, put=(b"grant",), more=True))
    held.grants_begin()
    held.grants_came(GrantUpdate(full=True, put=(b"grant",) * 5, more=True))


def test_the_controllers_that_a_node_remembers_are_bounded_and_the_last_ones_stay():
    pki, sim = Pki(), Simulation(1)
    chains = [pki.controller(f"controller-{n}").chain for n in range(KEPT_CHAINS + 3)]

    async def story() -> None:
        state = KeptState.__new__(KeptState)
        state._chains = []
        kept: list[Any] = []
        state.shelf = cast("Any", SimpleNamespace(later=lambda name, body: kept.append(body)))
        for chain in [*chains, chains[-1]]:
            state.keep_chain(chain)
        assert [chain for _, chain in kept[-1].chains] == chains[-KEPT_CHAINS:]
        assert len(kept) == len(chains)

    sim.run(story())


def test_events_before_there_is_a_spool_are_bounded():
    async def story() -> None:
        recorder = Recorder()
        for number in range(EARLY + 10):
            recorder.record(EventName.LINK_UP, Outcome.DONE, via=f"router-{number}")
        assert recorder.waiting() == (EARLY, 0)

    Simulation(1).run(story())


def test_a_process_has_so_many_pipes_and_no_more(monkeypatch: pytest.MonkeyPatch):
    """Descriptors and pipe memory of one user, whatever arrives on however many links at once."""
    monkeypatch.setattr(pipes, "Pipe", lambda: SimpleNamespace(close=lambda: None))
    pool = Pipes()
    taken = [pool.take() for _ in range(POOL + 5)]
    assert [one is None for one in taken] == [False] * POOL + [True] * 5
    first = taken[0]
    assert first is not None
    pool.give(first, empty=False)
    assert pool.take() is not None
    assert pool.take() is None


def test_an_attachment_never_says_more_than_others_take():
    """Else a node with more links, or more assets that are down, than one attachment holds would be nowhere."""
    credentials = Pki().edge("edge-a")
    said: list[Any] = []

    def link(number: int) -> Any:
        return SimpleNamespace(
            name=f"router-{number}", over=False, going_away=False, sound=True, round_trip=None, load=0,
            peer=SimpleNamespace(identity=SimpleNamespace(role=Role.ROUTER)),
            send_control=said.append,
        )  # fmt: skip

    async def story() -> None:
        links = [link(number) for number in range(limits.ROUTERS_PER_NODE + 3)]
        attacher = Attacher(lambda: credentials, lambda: NOW, 1, lambda: links)
        attacher.down = tuple(f"asset-{number}" for number in range(limits.ASSETS_DOWN + 3))
        body = decode(Attachment, decode(Signed, attacher.announce()).body)
        assert len(body.routers) == limits.ROUTERS_PER_NODE
        assert len(body.down) == limits.ASSETS_DOWN
        assert len(said) == len(links)

    Simulation(1).run(story())
