"""A router among routers: attachments, whom the map says to dial, what is flooded where (F-10, A-01)."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from overlay.addresses import parse_address
from overlay.aio.attaching import cost_of
from overlay.aio.dialer import Dialer, dial_link
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_owner import LinkOwner
from overlay.aio.logs import get_logger
from overlay.aio.node import NodeAgent
from overlay.aio.tasks import spawn
from overlay.aio.uplinks import ROUTER_RETRY
from overlay.aio.world import World
from overlay.audit.event import EventName, Outcome
from overlay.errors import (
    ClockError,
    DecodeError,
    FerruleError,
    LimitError,
    ProtocolError,
    TrustError,
)
from overlay.fabric.authority import FabricMap
from overlay.fabric.paths import Attachments, Topology, Way
from overlay.identity.certificate import Role
from overlay.wire.bodies import Attach, Attachment, Publish
from overlay.wire.codec import Signed, decode

_log = get_logger("fabric")


class Fabric:
    """What this router knows of the others, and tells them. `links` gives all links that are up, by name."""

    def __init__(
        self,
        world: World,
        agent: NodeAgent,
        version: str,
        links: Callable[[], Mapping[str, LinkDriver]],
    ) -> None:
        self.attachments = Attachments(agent.signers)
        self.topology = Topology(agent.name)
        self.ignored = 0
        """Attachments from other routers that did not hold."""
        self.on_attached: Callable[[list[Attachment]], None] = lambda _: None
        """Called with attachments that are news."""
        self.on_ways: Callable[[], None] = lambda: None
        """Called when a way leads elsewhere, or is gone."""
        self._world = world
        self._agent = agent
        self._version = version
        self._links = links
        agent.witnessing.links = lambda: links().values()
        self._dialers: dict[tuple[str, str], Dialer] = {}
        self._bulk_lanes: dict[str, int] = {}
        self._changed = False
        self._closed = False

    def link_up(self, link: LinkDriver) -> None:
        """Tell a new neighbour what is in force, and all routers that there is one."""
        for signed in self._agent.holdings.publications():
            link.send_control(Publish(signed))
        self._agent.witnessing.greet(link)
        if link.dialer:
            self._bulk_lanes[link.name] = link.hello.bulk_lanes
        if self._is_router(link):
            for batch in self.attachments.batches(self._agent.plant_now()):
                link.send_control(Attach(batch))
            self._neighbours_changed()

    def link_down(self, link: LinkDriver) -> None:
        """A neighbour is gone."""
        if self._is_router(link):
            self._neighbours_changed()

    def link_health(self, link: LinkDriver) -> None:
        """A neighbour goes away, does not answer, or answers again."""
        if self._is_router(link):
            self._neighbours_changed()

    def attach(self, link: LinkDriver, body: Attach) -> None:
        """Attachments came in: keep what is news, and flood that to the other routers.

        Raises:
            ProtocolError: an edge or controller speaks for another node, or its signature does not hold (L-33).
        """
        now = self._agent.plant_now()
        news: list[bytes] = []
        bodies: list[Attachment] = []
        if not self._is_router(link):
            _check_own(link, body)
        for data in body.attachments:
            try:
                attached = self.attachments.offer(data, now)
            except ClockError as error:
                self.ignored += 1  # it sends another one when a controller has told it the time
                _log.warning("attachment.clock", link=link.name, reason=str(error))
            except (DecodeError, TrustError) as error:
                if not self._is_router(link):
                    raise ProtocolError(f"an attachment of {link.name}: {error}") from None
                self._refused(link, error)
            except LimitError:
                self.ignored += 1
            else:
                if attached is not None:
                    news.append(data)
                    bodies.append(attached.body)
                    self._changed = self._changed or attached.leaf.identity.role is Role.ROUTER
        if news:
            self.on_attached(bodies)
            for other in self._routers():
                if other is not link:
                    other.send_control(Attach(tuple(news)))
        if self._changed:
            self._recompute()

    def _refused(self, link: LinkDriver, error: FerruleError) -> None:
        """Another router passed on what does not hold: it did not check, or made it up."""
        self.ignored += 1
        reason = f"an attachment was refused: {error}"[:200]
        self._agent.record(
            EventName.SECURITY_REFUSED, Outcome.DENIED, who=link.name, via=link.name, reason=reason
        )

    def publish(self, signed: Iterable[bytes], source: LinkDriver | None) -> None:
        """Flood newer authorities and maps to all links (A-01)."""
        for data in signed:
            for link in self._links().values():
                if link is not source and not link.newcomer:
                    link.send_control(Publish(data))

    def map_changed(self, fabric: FabricMap, owner: LinkOwner) -> None:
        """Dial the routers that the map tells this one to dial, and no others; none any more after `close`."""
        if self._closed:
            self._recompute()
            return
        addresses = {entry.name: entry.address for entry in fabric.routers}
        mine = next((entry for entry in fabric.routers if entry.name == self._agent.name), None)
        wanted = {
            (name, addresses[name]) for name in (mine.dials if mine else ()) if name in addresses
        }
        for gone in sorted(set(self._dialers) - wanted):
            dialer = self._dialers.pop(gone)
            _ = spawn(self._stop(dialer), f"stop dialing {dialer.name}")
        for name, address in sorted(wanted - set(self._dialers)):
            place = parse_address(address)
            if place is None:
                _log.warning("dial.address", router=name, address=address)
                continue
            attempt = self._attempt(name, *place, owner)
            dialer = Dialer(self._world, name, attempt, longest=ROUTER_RETRY)
            self._dialers[(name, address)] = dialer
            dialer.start()
        self._recompute()

    def dials(self, lane: int) -> tuple[tuple[str, str], ...]:
        """Routers to dial on this bulk lane, by name and address: those of the map that have it (L-08)."""
        return tuple(
            sorted(
                (name, address)
                for name, address in self._dialers
                if lane <= self._bulk_lanes.get(name, 0)
            )
        )

    def tick(self) -> None:
        """Renew the own attachment and forget old ones; call it every few seconds."""
        self.attachments.expire(self._agent.plant_now())
        self._agent.attacher.tick(told=self._agent.state.time.answered)
        self._recompute()

    async def close(self) -> None:
        """Stop dialing, whatever the map says from now on: this router is going away."""
        self._closed = True
        for dialer in self._dialers.values():
            await dialer.close()
        self._dialers.clear()

    def _attempt(
        self, name: str, host: str, port: int, owner: LinkOwner
    ) -> Callable[[], Coroutine[Any, Any, LinkDriver]]:
        async def attempt() -> LinkDriver:
            return await dial_link(
                self._world,
                host,
                port,
                self._agent.credentials(),
                owner,
                now=self._agent.certificate_now,
                expect=name,
                admit=self._agent.holdings.admit,
                boot=self._agent.boot,
                version=self._version,
            )

        return attempt

    @staticmethod
    async def _stop(dialer: Dialer) -> None:
        link = dialer.link
        await dialer.close()
        if link is not None:
            link.close()

    def _neighbours_changed(self) -> None:
        self._recompute()
        self._agent.attacher.announce()

    def _recompute(self) -> None:
        self._changed = False
        costs = {
            link.name: float(cost_of(link, passes=True))
            for link in self._routers()
            if not link.going_away
        }
        held = self._agent.state.fabric.map
        drained = frozenset[str]() if held is None else held.drained()
        before = self.topology.ways
        self.topology.update(costs, self.attachments, self._agent.plant_now(), drained)
        if _steps(before) != _steps(self.topology.ways):
            self.on_ways()

    def _routers(self) -> list[LinkDriver]:
        return [link for link in self._links().values() if self._is_router(link)]

    @staticmethod
    def _is_router(link: LinkDriver) -> bool:
        return link.peer is not None and link.peer.identity.role is Role.ROUTER


def _steps(ways: Mapping[str, Way]) -> dict[str, tuple[str, ...]]:
    return {name: way for name, (_, way) in ways.items()}


def _check_own(link: LinkDriver, body: Attach) -> None:
    """Edges and controllers attach themselves only, one attachment at a time (L-33), before any signature is looked at.

    Raises:
        ProtocolError: they do not.
    """
    if len(body.attachments) != 1:
        raise ProtocolError(f"{link.name} sends {len(body.attachments)} attachments, not its own")
    try:
        node = decode(Attachment, decode(Signed, body.attachments[0]).body).node
    except DecodeError as error:
        raise ProtocolError(f"an attachment of {link.name}: {error}") from None
    if node != link.name:
        raise ProtocolError(f"{link.name} attaches {node}")
