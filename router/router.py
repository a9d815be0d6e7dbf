"""A router's first process: express, the fabric, its own circuits, and what its workers have to know.

It is a node, too: its own `_control` circuit runs over its links.
"""

import asyncio
import itertools
from collections.abc import Iterable

from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_owner import LinkOwner
from overlay.aio.node import NodeAgent
from overlay.aio.seconds import pause
from overlay.aio.world import World
from overlay.control.messages import Assignments
from overlay.errors import Code
from overlay.fabric.authority import Authority, FabricMap
from overlay.identity.certificate import Role
from overlay.link.load import Busy, Level
from overlay.policy.grant import Grant
from overlay.wire.bodies import EXPRESS, Attach, LinkControl, Load, Publish
from overlay.wire.header import Header
from router.admission import Admission
from router.briefing import Briefing
from router.fabric import Fabric
from router.processes import Starter
from router.shedding import Queues
from router.switch import TICK, Switch
from router.workers import Workers

_FABRIC_TURNS = 2


class Router(Switch):
    """Owner of the links in this process, and the hooks of its node agent.

    Args:
        workers: how many, each with a bulk lane; `starter` starts one.
    """

    def __init__(
        self,
        world: World,
        agent: NodeAgent,
        endpoint: LinkOwner,
        version: str,
        workers: int = 0,
        starter: Starter | None = None,
    ) -> None:
        super().__init__(agent, lambda: agent.state.authority, Queues.shared(workers + 1))
        self.fabric: Fabric | None = None
        self.workers: Workers | None = None
        self._world = world
        self._agent = agent
        self._endpoint = endpoint
        self._version = version
        self._news_from: LinkDriver | None = None
        self.busy = Busy()
        self._load = Level()
        if starter is not None and workers:
            briefing = Briefing(agent, lambda: self.fabric, version, world.clock.boot)
            self.workers = Workers(world, agent, workers, starter, briefing)
            self.workers.on_applied = agent.authority_applied
            agent.applied = self._applied

    # --- LinkOwner ----------------------------------------------------------------------------------

    def link_up(self, link: LinkDriver) -> None:
        """A link is up. One for bulk carries circuits and nothing else (L-08)."""
        super().link_up(link)
        if self._told_by_endpoint(link):
            self._endpoint.link_up(link)
        if link.peer is not None and not link.newcomer and link.lane == EXPRESS:
            self._need_fabric().link_up(link)
            if self._load.now:
                link.send_control(Load(self._load.now))

    def link_down(self, link: LinkDriver, code: Code, reason: str) -> None:
        """A link is gone."""
        super().link_down(link, code, reason)
        if self._told_by_endpoint(link):
            self._endpoint.link_down(link, code, reason)
        if self.fabric is not None and not link.newcomer and link.lane == EXPRESS:
            self.fabric.link_down(link)

    def health(self, link: LinkDriver) -> None:
        """Others learn of it before circuits do, so that none comes back here (L-35, L-36)."""
        if self.fabric is not None and not link.newcomer and link.lane == EXPRESS:
            self.fabric.link_health(link)
        super().health(link)
        if self._told_by_endpoint(link):
            self._endpoint.health(link)

    def control(self, link: LinkDriver, body: LinkControl) -> None:
        """Attachments and publications."""
        if isinstance(body, Attach):
            self._need_fabric().attach(link, body)
            return
        self._news_from = link
        try:
            news = self._agent.link_control(link, body)
            if isinstance(body, Publish) and news:
                self._need_fabric().publish(news, link)
        finally:
            self._news_from = None

    def room(self, link: LinkDriver, circuit: int) -> None:
        """A circuit of this router's own may send again."""
        if circuit not in self._hops[link]:
            self._endpoint.room(link, circuit)

    def _frame_of_no_circuit(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        if bool(header.circuit & 1) is link.dialer:  # this router's own endpoint opened it
            self._endpoint.frame(link, header, payload)
        else:
            super()._frame_of_no_circuit(link, header, payload)

    def _told_by_endpoint(self, link: LinkDriver) -> bool:
        """This router's own circuits may run over it; with an edge it has none, and bulk begins nothing."""
        return (
            link.peer is not None
            and link.peer.identity.role is not Role.EDGE
            and link.lane == EXPRESS
        )

    # --- hooks of the agent ---------------------------------------------------------------------------

    def authority_changed(self, authority: Authority) -> None:
        """Cut what is void now, and tell everybody (A-01, A-04); workers cut at the same time."""
        self.authority_renewed(authority)
        fabric = self._need_fabric()
        state = self._agent.state.authority
        for link in self.links:
            if link.peer is not None and state.revoked(link.peer):
                fabric.attachments.forget(link.name)
        self.enforce()

    def authority_renewed(self, authority: Authority) -> None:
        """NodeHooks: tell workers and everybody; the others hold against it how old theirs is."""
        fabric = self._need_fabric()
        if self.workers is not None:
            self.workers.brief()
        held = self._agent.state.authority.held
        if held is not None and self._news_from is None:
            fabric.publish([held.signed], None)

    def map_changed(self, fabric: FabricMap) -> None:
        """Dial whom the map says."""
        self._need_fabric().map_changed(fabric, self)
        self.drain_by_map(self._agent.name in fabric.drained())
        held = self._agent.state.fabric.held
        if held is not None and self._news_from is None:
            self._need_fabric().publish([held.signed], None)

    def assigned(self, assignments: Assignments) -> None:
        """A router has neither listeners nor hosted services."""

    def granted(self, put: list[tuple[Grant, bytes]], gone: list[Grant]) -> None:
        """A router dials nothing under grants."""

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """A router hosts nothing."""
        return ()

    def _applied(self) -> int:
        version = self._agent.state.authority.version
        return version if self.workers is None else self.workers.applied(version)

    # --- time and end ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Cut circuits whose grants end, keep the fabric fresh and the workers told, for ever."""
        for turn in itertools.count():
            await pause(TICK)
            if self.fabric is not None and turn % _FABRIC_TURNS == 0:
                self.fabric.tick()
            self.tick()
            self._weigh()
            if self.workers is not None and self._agent.name:
                self._need_fabric()
                self.workers.tick()
                if not self.workers.started:
                    self.workers.start()

    def _weigh(self) -> None:
        """Tell the neighbours when this router has become clearly busier or calmer (F-17)."""
        clock = self._world.clock
        self.busy.look(clock.boot(), clock.cpu())
        if self._load.look(self.busiest()):
            for link in self.links.express.values():
                link.send_control(Load(self._load.now))

    def busiest(self) -> float:
        """Share of a core that the busiest process of this router uses."""
        return max(self.busy.share, 0.0 if self.workers is None else self.workers.busiest())

    async def leave(self) -> None:
        """Say goodbye to all on every lane, give circuits a moment to move, then close the links."""
        self.leaving = True
        if self.fabric is not None:
            await self.fabric.close()
            self._agent.attacher.leaving = True
            self._agent.attacher.announce()
        if self.workers is None:
            await super().leave()
        else:
            await asyncio.gather(super().leave(), self.workers.leave())

    def _need_fabric(self) -> Fabric:
        if self.fabric is None:
            self.fabric = Fabric(
                self._world, self._agent, self._version, lambda: self.links.express
            )
            if self.workers is not None:
                self.fabric.on_attached = self.workers.attached
                self.fabric.on_ways = self.workers.brief
            self.admission = Admission(
                self._agent.name,
                self._agent.signers,
                self._agent.state.authority,
                self.fabric.attachments,
                self.fabric.topology,
            )
        return self.fabric
