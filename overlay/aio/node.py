"""What edge and router share as nodes: identity, authority, plant time, `_control`, audit events.

A program builds it in this order; only `run` needs the network::

    agent = await NodeAgent.open(world, directory, role=Role.EDGE, version=..., token=path)
    endpoint = Endpoint(
        world, agent.credentials, agent.signers, agent.plant_now, grants, agent.boot,
        admit=agent.holdings.admit, on_control=agent.link_control, on_link=agent.link_changed,
    )
    agent.use(endpoint, hooks)
    await agent.run(stop)        # enrols first when needed; returns soon after `stop`
    await agent.close()
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overlay.aio.alarms import Alarms
from overlay.aio.attaching import Attacher
from overlay.aio.control_circuit import ControlCircuit
from overlay.aio.dialer import DIRECT, Reach, dial_link
from overlay.aio.enrol import Enrolment, read_token
from overlay.aio.holdings import Holdings, NodeHooks
from overlay.aio.lane_dialing import dialers_for
from overlay.aio.logs import get_logger
from overlay.aio.node_links import NodeLinks
from overlay.aio.recorder import Recorder
from overlay.aio.seconds import pause
from overlay.aio.spool import Spool
from overlay.aio.state import KeptState
from overlay.aio.tasks import cancel, spawn
from overlay.aio.uplinks import Target, Uplinks, targets
from overlay.aio.witnessing import Witnessing
from overlay.aio.world import World
from overlay.audit.event import EventName, Outcome
from overlay.control.messages import Assignments, GrantUpdate
from overlay.errors import DecodeError, FerruleError, ProtocolError, TrustError
from overlay.fabric.authority import FabricMap
from overlay.fabric.state import published_kind
from overlay.identity.certificate import Leaf, Role
from overlay.identity.enrolment import Token
from overlay.identity.fields import FloorTime
from overlay.identity.trust import Credentials, Signers
from overlay.wire.bodies import Heads, LinkControl, Publish

if TYPE_CHECKING:
    from overlay.aio.endpoint import Endpoint
    from overlay.aio.link_driver import LinkDriver

LAST_EVENTS_SECONDS = 1.0
"""When a program ends, for the last events to reach the controller."""

_log = get_logger("node")


class NodeAgent:
    """One node's side of the control conversation, and all that the rest of the program asks of it."""

    def __init__(
        self, world: World, state: KeptState, role: Role, version: str, reach: Reach
    ) -> None:
        self._world = world
        self._role = role
        self._version = version
        self.reach = reach
        self._token: Token | None = None
        self._newcomer: Credentials | None = None
        self._endpoint: Endpoint | None = None
        self._hooks: NodeHooks | None = None
        self._links = NodeLinks()
        self.routers, self.measure = self._links.trips, self._links.measure
        """ConversationOwner."""
        self.state = state
        self.holdings = Holdings(state, self.certificate_now)
        """Authority, map, assignments and grants; `holdings.admit` is what handshakes ask."""
        self._control = ControlCircuit(world, state, self, version)
        self.uplinks = Uplinks(world, self._dial, self.credentials)
        self.applied: Callable[[], int] = lambda: state.authority.version
        """ConversationOwner; a program of several processes says what all of them apply."""
        self.recorder = Recorder()
        self.attacher = Attacher(self.credentials, self.plant_now, state.boot, self._links.routers)
        self.witnessing = Witnessing(state, self.certificate_now, self.record, lambda: self.links)

    @classmethod
    async def open(
        cls,
        world: World,
        directory: Path,
        *,
        role: Role,
        version: str,
        token: Path | None = None,
        reach: Reach = DIRECT,
    ) -> "NodeAgent":
        """Take the folder. Enrolled: `token` is not even looked at. Not enrolled: it is read, and a key made.

        Raises:
            FerruleError: the folder is in use or damaged, holds another kind of node, or there is no usable token.
        """
        state = await KeptState.open(world, directory)
        try:
            agent = cls(world, state, role, version, reach)
            if state.enrolled:
                if state.leaf.identity.role is not role:
                    found = state.leaf.identity
                    raise FerruleError(f"{directory} belongs to {found.role.value} {found.name}.")
            else:
                agent._token = await read_token(world, token, role)
                agent._newcomer = await state.newcomer(agent._token.anchor, agent._token.routers)
        except OSError as error:
            await state.close()
            raise FerruleError(f"{directory} cannot be used: {error.strerror or error}.") from None
        except BaseException:
            await state.close()
            raise
        return agent

    def use(self, endpoint: "Endpoint", hooks: NodeHooks) -> None:
        """The endpoint that carries `_control` (and owns the links that this agent dials), and the program's side."""
        self._endpoint = endpoint
        self._hooks = hooks
        endpoint.on_health = self._link_health
        if endpoint.lanes is not None:
            self.uplinks.lanes = dialers_for(
                self._world, endpoint.lanes, self.credentials, self.certificate_now, self.reach,
                self.boot, self._version,
            )  # fmt: skip

    async def run(self, stop: asyncio.Event) -> None:
        """Enrol if needed, keep links and `_control`, until `stop`; then write and send what is pending.

        Raises:
            FerruleError: the controller refuses the token, or a file is damaged; nothing else ends it.
        """
        stopping = spawn(stop.wait(), "stop")
        try:
            if not self.state.enrolled and not await self._until(stopping, self._enrol()):
                return
            await self._until(stopping, self._run_enrolled())
        finally:
            await cancel(stopping)
            await self.uplinks.close()

    async def close(self) -> None:
        """Write what is waiting, end the links and give the folder free; after `run`."""
        await self._links.end("the node is stopping")
        await self.recorder.close()
        self.witnessing.keep()
        await self.state.close()

    async def _until(
        self, stopping: "asyncio.Task[Literal[True]]", work: Coroutine[Any, Any, None]
    ) -> bool:
        """Run `work` until it returns (True) or the program is to stop (False)."""
        task = spawn(work, "node", awaited=True)
        try:
            await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            await cancel(task)

    # --- asked all the time, no I/O -------------------------------------------------------------

    def plant_now(self) -> int:
        """Plant time in microseconds (A-20)."""
        return self.state.now()

    def certificate_now(self) -> int:
        """The time for certificates of others. Before a controller has told the time it is only known not to be before
        the floor, so that a wrong clock locks nobody out (A-20)."""
        now = self.state.now()
        return now if self.state.time.answered else FloorTime(self.state.time.floor)

    def fresh(self) -> bool:
        """The authority is fresh (K-03)."""
        return self._control.freshness.fresh(self._world.clock.boot())

    def refresh_binds(self) -> bool:
        """What `check_grant` wants as `fresh`: fresh, and the 30 s of G-02 are over."""
        return self._control.freshness.refresh_binds(self._world.clock.boot())

    @property
    def connected(self) -> bool:
        """The control circuit is up, the controller has answered, and there is a link that carries it."""
        return self._control.connected and bool(self.links)

    @property
    def boot(self) -> int:
        """How often this folder was started."""
        return self.state.boot

    @property
    def name(self) -> str:
        """This node's name; empty before it is enrolled."""
        return self.state.leaf.identity.name if self.state.enrolled else ""

    @property
    def signers(self) -> Signers:
        """Who may sign for this plant."""
        return self.state.signers

    @property
    def links(self) -> "list[LinkDriver]":
        """Links that are up, oldest first."""
        return self._links.up

    def router_names(self) -> tuple[str, ...]:
        """Routers that there is a link to."""
        return tuple(sorted({link.name for link in self._links.routers()}))

    def link_errors(self) -> dict[str, str]:
        """Why routers are not reached, by name or address."""
        return self.uplinks.errors()

    def credentials(self) -> Credentials:
        """Key and chain as they are now; after a renewal the new ones, before enrolment the newcomer's."""
        if self._newcomer is not None and not self.state.enrolled:
            return self._newcomer
        return self.state.credentials()

    def room(self) -> bool:
        """The spool takes events of new circuits; False: refuse them with BUSY (U-09)."""
        return self.recorder.room()

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Put an event in the spool (`overlay.audit.event.Event` has the fields). Never blocks, never fails."""
        self.recorder.record(event, outcome, **fields)

    @property
    def _expired(self) -> bool:
        """With a certificate that has ended a node renews, and says nothing else (I-05)."""
        return self.state.leaf.not_after < self.plant_now()

    # --- from links -----------------------------------------------------------------------------

    def link_changed(self, link: "LinkDriver", up: bool) -> None:  # noqa: FBT001 - the endpoint's signature
        """A link has come up or is gone."""
        self._links.note(link, up=up)
        if up and self._role is Role.EDGE:
            self._avoid_drained()
        if not self.state.enrolled or link.newcomer:
            return
        if up:
            self.record(EventName.LINK_UP, Outcome.DONE, who=link.name, reason=link.mode)
        else:
            self.record(EventName.LINK_DOWN, Outcome.DONE, who=link.name, reason=link.end[1])
        if up and self._role is Role.EDGE:
            self.witnessing.greet(link)
        if self._role is Role.EDGE and not self._expired:
            self.attacher.announce()
        self._control.links_changed()

    def _link_health(self, link: "LinkDriver") -> None:
        """Routers learn by which links this node is reached well."""
        if self._role is Role.EDGE and self.state.enrolled and not self._expired:
            self.attacher.announce()

    def link_control(self, link: "LinkDriver", message: LinkControl) -> list[bytes]:
        """A CONTROL message came in on a link. A Publish is applied; what was news is returned: a router forwards it.

        Raises:
            ProtocolError: a Publish from an edge (A-10), or one that does not decode.
        """
        if isinstance(message, Heads):
            self.witnessing.heard(link, message)
        if not isinstance(message, Publish):
            return []
        if link.peer is None or link.peer.identity.role is Role.EDGE:
            raise ProtocolError("only routers and controllers publish")
        try:
            news = self._offer(message.signed)
        except DecodeError as error:
            raise ProtocolError(f"a publication that cannot be read: {error}") from None
        except TrustError as error:
            _log.warning("publication.refused", link=link.name, reason=str(error))
            self.record(
                EventName.SECURITY_REFUSED, Outcome.DENIED, who=link.name,
                reason=f"publication refused: {error}",
            )  # fmt: skip
            return []
        return [message.signed] if news else []

    def _offer(self, signed: bytes) -> bool:
        try:
            news = self.holdings.offer(signed)
        finally:
            self.witnessing.published(signed)
        if news:
            self._control.authority_changed()
        if news and self._role is Role.EDGE and published_kind(signed) == FabricMap.TYPE:
            self._set_targets()
            self._avoid_drained()
        return news

    def _avoid_drained(self) -> None:
        """Circuits leave the routers that drain by the map (L-37)."""
        fabric, endpoint = self.state.fabric.map, self._endpoint
        if fabric is None or endpoint is None or not self.state.enrolled:
            return
        drained = fabric.drained()
        for link in endpoint.links():
            link.avoid(link.name in drained)
        if endpoint.lanes is not None:
            endpoint.lanes.avoid(drained)

    def authority_applied(self) -> None:
        """What `applied` says has changed."""
        self._control.authority_changed()

    def _set_targets(self) -> None:
        state = self.state
        fabric = state.fabric.map if state.enrolled else None
        self.uplinks.set_targets(targets(fabric, state.token_routers))

    # --- from the controller: ConversationOwner -------------------------------------------------

    def authority_offered(self, signed: bytes) -> None:
        """ConversationOwner."""
        self._offer(signed)

    def assignments_came(self, assignments: Assignments) -> None:
        """ConversationOwner."""
        self.holdings.assignments_came(assignments)
        if self._role is Role.EDGE:
            self._set_targets()

    def admit_controller(self, leaf: Leaf) -> None:
        """ConversationOwner."""
        self.holdings.admit(leaf)
        self.holdings.grants_begin()

    def grants_came(self, update: GrantUpdate) -> None:
        """ConversationOwner."""
        self.holdings.grants_came(update)

    def renewed(self) -> None:
        """ConversationOwner."""
        self.record(EventName.NODE_RENEW, Outcome.DONE)

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """ConversationOwner."""
        return () if self._hooks is None else self._hooks.live()

    async def control_links(self) -> "list[LinkDriver]":
        """ConversationOwner."""
        return await self._links.for_control()

    def leave_links(self) -> None:
        """ConversationOwner."""
        self._links.leave("renewed")

    # --- before enrolment -------------------------------------------------------------------------

    async def _enrol(self) -> None:
        assert self._token is not None  # noqa: S101  (read in `open`)
        assert self._newcomer is not None  # noqa: S101
        assert self._endpoint is not None  # noqa: S101  (`use` comes before `run`)
        enrolment = Enrolment(
            self._world, self.state, self._endpoint, self._token, self._newcomer,
            self.certificate_now,
        )  # fmt: skip
        dial = self._set_targets if self._token.routers else None
        if dial is not None and self._role is Role.EDGE:
            dial()
        await enrolment.run(self._links.for_enrolment, dial)
        await self.uplinks.rest()
        self._links.leave("enrolled")

    # --- enrolled -----------------------------------------------------------------------------------

    async def _run_enrolled(self) -> None:
        spool = await Spool.open(
            self._world, self.state.shelf, self.state.credentials, self.plant_now
        )
        self.recorder.begin(spool)
        await self.witnessing.begin()
        self.record(EventName.NODE_START, Outcome.DONE, detail=f'{{"version":"{self._version}"}}')
        assert self._hooks is not None  # noqa: S101  (`use` comes before `run`)
        assert self._endpoint is not None  # noqa: S101
        self.holdings.begin(self._hooks)
        if self._role is Role.EDGE:
            self._set_targets()
        tasks = [
            spawn(self._control.run(spool, self._endpoint), "control", awaited=True),
            spawn(self._housekeeping(), "housekeeping", awaited=True),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.record(EventName.NODE_STOP, Outcome.DONE)
            await self.recorder.drain(LAST_EVENTS_SECONDS if self.connected else 0.0)
            await cancel(*tasks)

    async def _housekeeping(self) -> None:
        alarms = Alarms(self._world.clock, self.state, self.record)
        while True:
            await pause(1.0)
            self.recorder.tick()
            self.witnessing.tick()
            if self._role is Role.EDGE and self._links.routers() and not self._expired:
                self.attacher.tick(told=self.state.time.answered)
            self.uplinks.renew(self.plant_now())
            alarms.look(fresh=self.fresh())

    async def _dial(self, target: Target) -> "LinkDriver":
        assert self._endpoint is not None  # noqa: S101  (`use` comes before `run`)
        return await dial_link(
            self._world, target.host, target.port, self.credentials(), self._endpoint,
            now=self.certificate_now, expect=target.name, proxy=self.reach.proxy,
            mode=self.reach.records, enrol=not self.state.enrolled, admit=self.holdings.admit, boot=self.boot,
            version=self._version,
        )  # fmt: skip
