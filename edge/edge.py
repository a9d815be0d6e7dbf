"""One edge: what its parts are and how they hear of each other."""

from collections.abc import Iterable
from typing import Any

from edge.calling import Calling
from edge.enforcement import Enforcer
from edge.events import Events
from edge.grants import GrantBook
from edge.host.checks import Checks
from edge.host.foreign import ForeignAddresses
from edge.hosting import Hosting
from edge.interception import Choices, Interception
from edge.kill import LocalSwitch
from edge.listeners import Listeners
from edge.machine.capability import own_net_admin
from edge.machine.changes import HostChanges
from edge.machine.tables import Tables
from edge.names.names import Names
from edge.peers import Peers
from edge.permits import Permits
from edge.rules import Rules
from overlay import limits
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.endpoint import Endpoint
from overlay.aio.http_proxy import PROXY_PORT, check_proxy
from overlay.aio.incoming import Declined
from overlay.aio.link_driver import LinkDriver
from overlay.aio.logs import get_logger
from overlay.aio.node import NodeAgent
from overlay.aio.seconds import pause
from overlay.aio.uplinks import targets
from overlay.aio.world import World
from overlay.audit.event import Outcome
from overlay.control.messages import Assignments
from overlay.errors import SECURITY_CODES, Code
from overlay.fabric.authority import Authority, FabricMap
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant
from overlay.wire.bodies import CONTROL_SERVICE
from overlay.wire.timestamps import format_time

_log = get_logger("edge")


class Edge:
    """Implements the hooks of `NodeAgent` (`overlay.aio.holdings.NodeHooks`). Make it inside the event loop."""

    def __init__(
        self,
        world: World,
        agent: NodeAgent,
        choices: Choices | None = None,
        changes: HostChanges | None = None,
        *,
        lanes: bool = True,
        circuit_memory: int = limits.CIRCUIT_MEMORY,
    ) -> None:
        self.agent = agent
        self.events = Events(agent)
        self.switch = LocalSwitch(agent.state, agent.plant_now)
        self.book = GrantBook()
        self.rules = Rules(
            self.switch, lambda: agent.state.authority, agent.plant_now, agent.refresh_binds
        )
        self.endpoint = Endpoint(
            world, agent.credentials, agent.signers, agent.plant_now, self.rules, agent.boot,
            certificate_now=agent.certificate_now, admit=agent.holdings.admit,
            on_control=agent.link_control, on_link=self._link_changed,
            memory=circuit_memory,
        )  # fmt: skip
        if lanes:
            self.endpoint.use_lanes()
        self.enforcer = Enforcer(self.endpoint.streams, self.book, self.rules)
        self.foreign = ForeignAddresses(changes, (choices or Choices()).interface)
        self.hosting = Hosting(
            world, self.events, self.switch, self.foreign, agent.room, self._opened
        )
        self.checks = Checks(world, agent.plant_now, self.events.health, self._announce_down)
        self.endpoint.elsewhere = lambda grant: grant.asset in self.checks.down
        self.calling = Calling(
            self.endpoint, self.book, self.rules, self.events, agent.room, self._opened
        )
        self.permits = Permits(self.book, self.rules, self.calling.judge, self._permitted)
        self.listeners = Listeners(world, self.calling)
        self.peers = Peers(self._dialed, lambda: {link.remote[0] for link in self.endpoint.links()})
        self.interception: Interception | None = None
        self.names: Names | None = None
        self.tables: Tables | None = None
        if changes is not None:  # a program that is an edge itself catches nothing of its host
            self.interception = interception = Interception(
                self.calling,
                lambda: agent.name,
                lambda: agent.credentials().anchor.digest,
                changes,
                self.peers.addresses,
                self.permits.uses,
                choices,
            )
            self.tables = Tables(changes)
            self.names = Names(
                world,
                lambda: interception.table,
                self.calling.reaches,
                changes,
                lambda: interception.interface,
                (choices or Choices()).names,
            )
            interception.made = self.names.look  # devices may ask at once
        self.updates = 0
        """How often grants came, from disk or from the controller."""
        self._assignments: Assignments | None = None
        self.endpoint.on_incoming = self.hosting.incoming
        self.endpoint.on_declined = self._declined
        self.endpoint.on_security = self._security
        if self.switch.pulled is not None:
            _log.warning("switch.pulled", reason=self.switch.pulled.reason)

    # --- NodeHooks --------------------------------------------------------------------------------

    def authority_changed(self, authority: Authority) -> None:
        """NodeHooks: cut what it names (A-04)."""
        revoked = self.agent.state.authority.revoked
        self.endpoint.forget(revoked)
        self.endpoint.cut(
            lambda _, __, peer: peer is not None and revoked(peer),
            Code.REVOKED,
            "the other end is revoked",
        )
        for link in self.endpoint.links():
            if link.peer is not None and revoked(link.peer):
                link.goodbye(Code.REVOKED, f"{link.name} is revoked")
        lanes = self.endpoint.lanes
        for link in () if lanes is None else lanes.links:
            if lanes is not None and link.peer is not None and revoked(link.peer):
                lanes.goodbye(link, Code.REVOKED, f"{link.name} is revoked")
        self.enforcer.review()
        self.permits.review()
        self._assign()

    def authority_renewed(self, authority: Authority) -> None:
        """NodeHooks: nothing that was judged is judged otherwise for that."""

    def map_changed(self, fabric: FabricMap) -> None:
        """NodeHooks: the agent dials by it."""

    def assigned(self, assignments: Assignments) -> None:
        """NodeHooks."""
        self._assignments = assignments
        self._assign()

    def granted(self, put: list[tuple[Grant, bytes]], gone: list[Grant]) -> None:
        """NodeHooks: circuits move to grants that last longer, or to others when theirs are gone."""
        self.updates += 1
        self.book.drop(gone)
        self.book.put(put)
        self.enforcer.review()
        self.permits.review()

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """NodeHooks."""
        return [
            (facts.circuit_id, facts.bytes_in, facts.bytes_out)
            for facts in self.endpoint.live()
            if facts.hosting and facts.grant is not None
        ]

    def _permitted(self) -> None:
        if self.interception is not None:
            self.interception.granted()

    def _assign(self) -> None:
        assignments = self._assignments
        if assignments is None:
            return
        gone = self._revoked()
        self.listeners.assign(() if gone else assignments.listeners)
        self.hosting.assign(() if gone else assignments.hosted)
        self.checks.assign(() if gone else assignments.hosted)
        self.foreign.assign(() if gone else assignments.hosted)
        if self.tables is not None and (
            assignments.intercepts or any(one.keep_source for one in assignments.hosted)
        ):
            self.tables.start()
        if self.interception is not None and self.names is not None:
            self.interception.assign(None if gone else assignments)
            self.names.assign(None if gone else assignments)

    def _dialed(self) -> list[str]:
        """Hosts of routers, and of the proxy to them."""
        return [host for host, _ in (*self._routers(), *self._proxy())]

    def _routers(self) -> list[tuple[str, int]]:
        state = self.agent.state
        found = targets(state.fabric.map, state.token_routers)
        return [(one.host, one.port) for one in found]

    def _proxy(self) -> list[tuple[str, int]]:
        proxy = self.agent.reach.proxy
        if proxy is None:
            return []
        url = check_proxy(proxy)
        return [(url.hostname or "", url.port or PROXY_PORT)]

    def _revoked(self) -> bool:
        """This edge itself is revoked: it offers nothing any more."""
        leaf: Leaf = self.agent.state.leaf
        return self.agent.state.authority.revoked(leaf)

    # --- local switch -----------------------------------------------------------------------------

    async def pull(self, reason: str) -> None:
        """Pull the switch: on disk and in effect when this returns. Raises: FerruleError: it is only in effect."""
        try:
            await self.switch.pull(reason)
        finally:
            self.permits.review()
            objection = self.switch.objection()
            if objection is not None:
                self.endpoint.cut(lambda grant, *_: grant is not None, *objection)
                await self.endpoint.settled()
        pulled = self.switch.pulled
        if pulled is not None:
            self.events.switch(pulled=True, reason=pulled.reason)
            _log.warning("switch.pulled", reason=pulled.reason)

    async def release(self, reason: str) -> bool:
        """Release the switch; False when it was not pulled. Raises: FerruleError: it stays pulled."""
        released = await self.switch.release()
        if released:
            self.permits.review()
            self.events.switch(pulled=False, reason=reason)
            _log.warning("switch.released", reason=reason)
        return released

    def status(self) -> dict[str, Any]:
        """What `ferrule-edge status` says; the first four keys are a contract."""
        agent, pulled = self.agent, self.switch.pulled
        circuits = [facts for facts in self.endpoint.live() if facts.service != CONTROL_SERVICE]
        interception = self.interception
        intercepted = None if interception is None else interception.status()
        resumed = self.endpoint.resumed()
        waiting, size = agent.recorder.waiting()
        state = "connected" if agent.connected else "lost" if agent.name else "waiting"
        return {
            "name": agent.name,
            "state": state,
            "routers": list(agent.router_names()),
            "kill": None
            if pulled is None
            else {"reason": pulled.reason, "since": format_time(pulled.since)},
            "links": {name: trip / 1000 or None for name, trip in sorted(agent.routers().items())},
            "fresh": agent.fresh(),
            "log": agent.witnessing.status(),
            "circuits": {
                "hosting": sum(facts.hosting for facts in circuits),
                "calling": sum(not facts.hosting for facts in circuits),
                "datagrams_dropped": self.endpoint.datagrams_dropped + self.listeners.dropped,
                "resumes": resumed.resumes,
                "resent_bytes": resumed.resent_bytes,
                "stalled": round(resumed.stalled, 3),
                "late_paths": resumed.late,
                "admitted": self.events.attempts[Outcome.ALLOWED],
                "denied": self.events.attempts[Outcome.DENIED],
                "failed": self.events.attempts[Outcome.FAILED],
                "bulk": sum(not stream.at_home_now for stream in self.endpoint.streams()),
            },
            "spool": {"events": waiting, "bytes": size},
            "listeners": [
                {"listen": entry.listen, "service": entry.service, "who": entry.who}
                for entry in self.listeners.bound
            ],
            "health": self.checks.status(),
            "problems": [
                f"{listen}: {why}" for listen, why in sorted(self.listeners.problems.items())
            ]
            + [f"{name}: {why}" for name, why in sorted(agent.link_errors().items())]
            + ([] if interception is None else interception.problems)
            + ([self.foreign.problem] if self.foreign.problem else [])
            + ([] if self.names is None else self.names.problems()),
            "names": None if self.names is None else self.names.status(),
            "net_admin": own_net_admin(),
            "dials": self._proxy() or self._routers(),
        } | ({} if intercepted is None else {"interception": intercepted})

    # --- from the endpoint --------------------------------------------------------------------------

    def _link_changed(self, link: LinkDriver, up: bool) -> None:  # noqa: FBT001 - the endpoint's way
        self.agent.link_changed(link, up)
        if not up and link.found and link.end[0] in SECURITY_CODES:
            self.events.link_fault(link.name, *link.end)
        if not up and link.end[0] is Code.REVOKED and not self.endpoint.links():
            # Every router sends this edge away, so the authority that says why does not reach it any more.
            self.endpoint.cut(lambda *_: True, Code.REVOKED, link.end[1] or "this edge is revoked")

    def _announce_down(self, assets: tuple[str, ...]) -> None:
        """Routers choose another edge before these assets (F-11)."""
        self.agent.attacher.down = assets
        self.agent.attacher.announce()

    def _opened(self, stream: CircuitStream) -> None:
        stream.on_opened = stream.on_granted = lambda: self.enforcer.opened(stream)
        self.enforcer.opened(stream)

    def _declined(self, declined: Declined) -> None:
        if declined.service not in (CONTROL_SERVICE, ""):
            self.events.declined(declined)

    def _security(self, code: Code, reason: str, grant: Grant | None, circuit_id: bytes) -> None:
        _log.warning("security", code=code.name, reason=reason)
        self.events.security(code, reason, grant, circuit_id)

    async def enforce(self) -> None:
        """Look every second at what may not go on, until cancelled."""
        while True:
            await pause(1.0)
            if self.agent.name:
                self.enforcer.tick()
                self.permits.tick()

    async def close(self) -> None:
        """End everything."""
        await self.listeners.close()
        if self.tables is not None:
            await self.tables.close()
        if self.names is not None:
            await self.names.close()
        if self.interception is not None:
            await self.interception.close()
        await self.peers.close()
        await self.checks.close()
        await self.hosting.close()
        await self.foreign.close()
        self.enforcer.close()
        self.permits.close()
        self.endpoint.close()
        if self.endpoint.lanes is not None:
            await self.endpoint.lanes.close()
