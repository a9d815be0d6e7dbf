"""The hub: dials all routers, hosts `_control`, publishes the authority (A-01, F-13, E-07)."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from controller.hub.needs import HubActions, RouterToDial
from controller.hub.newcomers import NEWCOMERS, serve_newcomer
from controller.hub.session import Session
from overlay import limits
from overlay.addresses import parse_address
from overlay.aio.attaching import Attacher
from overlay.aio.dialer import Dialer, dial_link
from overlay.aio.endpoint import Endpoint
from overlay.aio.incoming import Incoming
from overlay.aio.link_driver import LinkDriver
from overlay.aio.logs import get_logger
from overlay.aio.seconds import pause
from overlay.aio.tasks import cancel, spawn
from overlay.aio.uplinks import ROUTER_RETRY
from overlay.aio.world import World
from overlay.errors import SECURITY_CODES, Code, FerruleError, TrustError
from overlay.fabric.authority import Authority
from overlay.fabric.state import AuthorityState
from overlay.identity.certificate import Leaf, Role
from overlay.ordered import OrderedSet
from overlay.policy.grant import Grant
from overlay.wire.bodies import CONTROL_SERVICE, LinkControl, Publish
from overlay.wire.codec import Signed, decode

SESSIONS = 16_384
"""Control circuits at the same time."""
PUSHES_AT_ONCE = 2
"""Nodes for which assignments and grants are worked out at the same time; recording events comes in between."""
CHECKS_AT_ONCE = 256
"""Control circuits that are being looked at before they are accepted."""

_log = get_logger("hub")


class Hub:
    """One per controller. `run` until told to stop."""

    def __init__(self, world: World, actions: HubActions, *, version: str) -> None:
        self._world = world
        self._actions = actions
        self._version = version
        self._state = AuthorityState(actions.signers)
        self._authority = b""
        self._map = b""
        self._routers: dict[str, RouterToDial] = {}
        self._dialers: dict[tuple[str, str], Dialer] = {}
        self._links: list[LinkDriver] = []
        self._sessions = OrderedSet[Session]()
        self._serving = OrderedSet[asyncio.Task[None]]()
        self._unlooked = False
        """The store could not say who is to be dialed: it is asked again."""
        self._newcomers = 0
        self._checking = 0
        self._said_restored = False
        self._stopping = False
        self._publishing = asyncio.Lock()
        self.pushes = asyncio.Semaphore(PUSHES_AT_ONCE)
        """Publisher."""
        self._attacher = Attacher(
            lambda: actions.credentials, actions.now, actions.boot, self._known
        )
        self.endpoint = Endpoint(
            world, lambda: actions.credentials, actions.signers, actions.now, _no_grants,
            actions.boot, admit=self._admit, on_control=self._heard, on_link=self._link,
        )  # fmt: skip
        self.endpoint.on_incoming = self._incoming
        self.endpoint.on_health = self._unsound

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`; no failure of a node, a router or the store ends it."""
        news = self._actions.subscribe()
        tasks = [
            spawn(self._watch(news.wait), "hub news"),
            spawn(self._publish_on(), "hub authority"),
        ]
        try:
            await self._look_at_routers()
            await stop.wait()
        finally:
            self._stopping = True
            news.close()
            await cancel(*tasks)
            for dialer in self._dialers.values():
                await dialer.close()
            await cancel(*self._serving)
            self.endpoint.close()
            for link in list(self._links):
                link.goodbye(Code.GOING_AWAY, "the controller stops")
                link.goodbye(Code.NORMAL, "the controller stops")

    # --- routers ----------------------------------------------------------------------------------

    def _unsound(self, _: LinkDriver) -> None:
        self._attacher.announce()

    def _known(self) -> list[LinkDriver]:
        return [link for link in self._links if not link.over and not link.newcomer]

    async def _look_at_routers(self) -> None:
        """Dial whom there is to dial, and no others."""
        try:
            routers = await self._actions.routers_to_dial()
        except FerruleError as error:
            _log.warning("hub.routers", reason=str(error))
            self._unlooked = True
            return
        self._unlooked = False
        before, self._routers = self._routers, {one.name: one for one in routers}
        wanted = OrderedSet((one.name, one.address) for one in routers)
        for gone in [known for known in self._dialers if known not in wanted]:
            dialer = self._dialers.pop(gone)
            link = dialer.link
            await dialer.close()
            if link is not None:
                link.goodbye(Code.NORMAL, "not a router of this plant any more")
        for name, address in wanted:
            known = self._dialers.get((name, address))
            if known is None:
                known = self._dialers[name, address] = self._dialer(name, address)
                known.start()
            elif before.get(name) != self._routers[name]:
                known.wake()

    def _dialer(self, name: str, address: str) -> Dialer:
        place = parse_address(address)

        async def dial() -> LinkDriver:
            if place is None:
                raise FerruleError(f"the address {address} of {name} is not HOST:PORT")
            return await self._dial(name, *place)

        return Dialer(self._world, name, dial, longest=ROUTER_RETRY)

    async def _dial(self, name: str, host: str, port: int) -> LinkDriver:
        """As an enrolled router or as a newcomer; where it may be either, as the other if it is not the one."""
        router = self._routers.get(name)
        ways = [False]
        if router is not None and router.newcomer:
            ways = [False, True] if router.enrolled else [True]
        for newcomer in ways[:-1]:
            with contextlib.suppress(FerruleError, ConnectionResetError):
                return await self._dial_as(name, host, port, newcomer=newcomer)
        return await self._dial_as(name, host, port, newcomer=ways[-1])

    async def _dial_as(self, name: str, host: str, port: int, *, newcomer: bool) -> LinkDriver:
        return await dial_link(
            self._world, host, port, self._actions.credentials, self.endpoint,
            now=self._actions.now, expect=name, enrol=newcomer, admit=self._admit,
            expired_leaf_ok=True, boot=self._actions.boot, version=self._version,
        )  # fmt: skip

    def _link(self, link: LinkDriver, up: bool) -> None:  # noqa: FBT001 - the endpoint's signature
        if not up:
            if link in self._links:
                self._links.remove(link)
            _log.info("hub.link_down", router=link.name, reason=link.end[1])
            if link.found and link.end[0] in SECURITY_CODES:
                fault = self._actions.link_fault(link.name, *link.end)
                _ = spawn(fault, f"fault of {link.name}")
            self._attacher.announce()
            return
        self._links.append(link)
        _log.info("hub.link_up", router=link.name, newcomer=link.newcomer, group=link.group)
        if link.newcomer:
            return
        for signed in (self._authority, self._map):
            if signed:
                link.send_control(Publish(signed))
        self._attacher.announce()

    def _admit(self, leaf: Leaf) -> None:
        if self._state.revoked(leaf):
            raise TrustError(f"{leaf.identity.role.value} {leaf.identity.name} is revoked")

    def _heard(self, link: LinkDriver, body: LinkControl) -> None:
        """Routers publish what they have: the only news in it for a controller is that it is itself behind."""
        if isinstance(body, Publish):
            with contextlib.suppress(FerruleError):
                signed = decode(Signed, body.signed)
                if signed.type == Authority.TYPE:
                    self.heard_version(decode(Authority, signed.body).version, link.name)

    def heard_version(self, version: int, node: str) -> None:
        """A node has an authority that this controller has not made: its store was set back (a restored backup)."""
        if self._authority and version > self._state.version and not self._said_restored:
            self._said_restored = True
            _log.error(
                "hub.behind", node=node, theirs=version, ours=self._state.version,
                text="Nodes hold a newer authority than this store: it was restored from an older backup. "
                "They refuse what this controller publishes.",
            )  # fmt: skip

    # --- publishing -------------------------------------------------------------------------------

    async def current_authority(self, version: int) -> bytes:
        """Publisher."""
        if not self._authority or self._state.version < version:
            await self._publish()
        return self._authority

    async def _publish(self) -> None:
        """Sign and send the authority (A-01).

        Raises:
            FerruleError: the store is away.
        """
        async with self._publishing:
            signed = await self._actions.authority()
            self._authority = signed
            self._state.offer(signed, self._actions.now())
        for link in self._known():
            link.send_control(Publish(signed))

    async def _publish_map(self) -> None:
        signed = await self._actions.fabric_map()
        if signed != self._map:
            self._map = signed
            for link in self._known():
                link.send_control(Publish(signed))

    async def _publish_on(self) -> None:
        while True:
            try:
                await self._publish()
                await self._publish_map()
            except FerruleError as error:
                _log.warning("hub.authority", reason=str(error))
            if self._unlooked:
                await self._look_at_routers()
            self._attacher.tick()
            await pause(limits.AUTHORITY_INTERVAL)

    async def _watch(self, wait: Callable[[], Awaitable[frozenset[str]]]) -> None:
        """Everything that changes goes out at once."""
        while topics := await wait():
            try:
                if "authority" in topics:
                    await self._publish()
                    await self._cut_revoked()
                if "map" in topics:
                    await self._publish_map()
            except FerruleError as error:
                _log.warning("hub.authority", reason=str(error))
            # A kill changes no assignment and no grant: who opens a circuit looks for it in the authority.
            if topics & {"map", "policy"}:
                for session in self._sessions:
                    session.changed()
            if topics & {"map", "policy", "presence"}:
                await self._look_at_routers()

    async def _cut_revoked(self) -> None:
        """Only revocation cuts `_control` (A-04)."""
        for session in list(self._sessions):
            if self._state.revoked(session.leaf):
                session.end(Code.REVOKED, f"{session.name} is revoked")
        self.endpoint.forget(self._state.revoked)
        for link in list(self._links):
            if link.peer is not None and self._state.revoked(link.peer):
                link.goodbye(Code.REVOKED, f"{link.name} is revoked")

    # --- control circuits -------------------------------------------------------------------------

    async def measure(self, node: str, routers: Sequence[str]) -> dict[str, int]:
        """Round trips in µs from a node to routers, measured by it now: what it can tell (`Session.measure`)."""
        here = [one for one in self._sessions if one.name == node and one.started]
        return await here[-1].measure(routers) if here else {}

    def _incoming(self, incoming: Incoming) -> None:
        if self._stopping:
            incoming.refuse(Code.GOING_AWAY, "the controller stops")
        elif incoming.service != CONTROL_SERVICE:
            incoming.refuse(Code.NO_GRANT, "a controller hosts the control service only")
        elif incoming.caller is None and self._newcomers >= NEWCOMERS:
            incoming.refuse(Code.BUSY, "too many machines enrol at the same time; try again")
        elif len(self._sessions) >= SESSIONS or self._checking >= CHECKS_AT_ONCE:
            incoming.refuse(Code.BUSY, "too many control circuits; try again")
        else:
            # Counted here: of many that come in one turn of the event loop no task has begun yet.
            if incoming.caller is None:
                self._newcomers += 1
                task = self._serve_newcomer
            else:
                self._checking += 1
                task = self._serve
            serving = spawn(task(incoming), "control circuit")
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

    async def _serve_newcomer(self, incoming: Incoming) -> None:
        try:
            await serve_newcomer(self._actions, incoming)
        except (FerruleError, OSError) as error:
            _log.info("hub.newcomer", reason=str(error) or type(error).__name__)
        finally:
            self._newcomers -= 1

    async def _serve(self, incoming: Incoming) -> None:
        leaf = incoming.caller
        assert leaf is not None  # noqa: S101 - `_incoming` saw to it
        name = leaf.identity.name
        try:
            if leaf.identity.role is Role.CONTROLLER:
                raise TrustError("a controller does not speak on `_control`")
            await self._actions.check_leaf(leaf)
            stream = await incoming.accept()
        except TrustError as error:
            _log.warning("hub.refused", node=name, reason=str(error))
            incoming.refuse(Code.REVOKED, str(error)[: limits.MAX_REASON])
            return
        except (FerruleError, OSError) as error:
            incoming.refuse(Code.BUSY, str(error)[: limits.MAX_REASON])
            return
        finally:
            self._checking -= 1
        session = Session(self._actions, self, leaf, stream)
        self._sessions.add(session)
        _log.info("hub.node_up", node=name, path=" ".join(incoming.path))
        code, why = Code.NORMAL, "it ended"
        try:
            await session.run()
        except FerruleError as error:
            code, why = getattr(error, "code", Code.PROTOCOL), str(error)
        except OSError as error:
            why = str(error) or type(error).__name__
        finally:
            self._sessions.discard(session)
            stream.abort(code, why[: limits.MAX_REASON])
            _log.info("hub.node_down", node=name, reason=why)


def _no_grants(
    grant: Grant,
    *,
    key_id: bytes,
    via: str,
    service: str,
    transport: int,
    integrity: int,
    circuit: bytes,
    host: str | None,
) -> tuple[Code, str] | None:
    """A controller hosts nothing that needs a grant."""
    del grant, key_id, via, transport, integrity, circuit, host
    return Code.NO_GRANT, f"a controller does not host {service}"
