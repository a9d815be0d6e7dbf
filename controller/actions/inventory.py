"""Adding to the inventory: zones, nodes, assets, services, listeners, intercepts; and tokens to enrol with."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import delete

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.addresses import parse_endpoint, parse_mac, parse_place
from controller.actions.checks import (
    check_assertion,
    check_dials,
    check_health,
    check_hosting,
    check_listener,
    check_place,
    check_router_address,
    claim,
    default_transport,
    find,
    find_node,
    limit,
    listener_name,
    new_node,
    parse_health,
    parse_tags,
    ports_of,
    set_edges,
    set_parent,
    zone_name,
)
from controller.actions.core import Work
from controller.actions.errors import Conflict
from controller.actions.intercepts import (
    check_asset,
    check_intercepts,
    check_routers,
    intercept_name,
    number_of,
    parse_mode,
    parse_places,
    parse_pools,
    set_places,
)
from controller.actions.paths import token_routers
from controller.actions.roles import Permission
from controller.actions.views import Views, fields
from controller.store.tables import (
    AssetRow,
    InterceptRow,
    ListenerRow,
    NodeRow,
    ServiceRow,
    TokenRow,
    ZoneRow,
)
from overlay import limits
from overlay.audit.event import EventName
from overlay.identity.certificate import Role
from overlay.identity.enrolment import Token, token_key
from overlay.policy.names import parse_name, parse_service, service_name, shown
from overlay.wire.timestamps import SECOND, format_time


class Inventory(Views):
    """`ferrule add …` and `ferrule token`."""

    async def add_zone(self, actor: t.Actor, new: r.NewZone) -> t.Zone:
        """Make a zone.

        Raises:
            Invalid, Conflict, NotFound: a bad or used name; a parent that is not there.
        """
        name = parse_name(new.name, "zone")
        async with self._adding(actor, "zone", name) as work:
            row = ZoneRow(name=name, level=new.level, sl=new.sl, parent=None)
            await claim(work.session, name, "zone", ZoneRow)
            work.session.add(row)
            if new.parent is not None:
                await set_parent(work.session, row, new.parent)
            made: t.Zone = await self._added(work, "zone", row)
        return made

    async def add_router(self, actor: t.Actor, new: r.NewRouter) -> t.AddedRouter:
        """Make a router and its first token.

        Raises:
            Invalid, Conflict, NotFound, TooMany: bad address, used name, a router it shall dial that is not there.
        """
        name = parse_name(new.name, "router")
        address = parse_endpoint(new.address, "router's address")
        async with self._adding(actor, "router", name) as work:
            await claim(work.session, name, "router", NodeRow)
            row = await new_node(work, name, "router", address=address)
            row.dials = await check_dials(work.session, name, new.dials)
            await check_router_address(work.session, name, address)
            await check_routers(work.session)
            made = await self._added(work, "router", row, topics=("policy", "map"))
            token = await self._token(work, row)
        return t.AddedRouter(**fields(made), token=token.token, expires=token.expires)

    async def add_edge(self, actor: t.Actor, new: r.NewEdge) -> t.AddedEdge:
        """Make an edge and its first token.

        Raises:
            Invalid, Conflict, NotFound: bad or used name, a zone that is not there, no router that it could dial.
        """
        name = parse_name(new.name, "edge")
        async with self._adding(actor, "edge", name) as work:
            await claim(work.session, name, "edge", NodeRow)
            zone = await zone_name(work.session, new.zone)
            row = await new_node(work, name, "edge", zone=zone)
            row.pools = parse_pools(new.pools, self.anchor.digest)
            made = await self._added(work, "edge", row)
            token = await self._token(work, row)
        return t.AddedEdge(**fields(made), token=token.token, expires=token.expires)

    async def make_token(self, actor: t.Actor, role: str, name: str) -> t.Token:
        """A fresh token for a router or edge; earlier tokens of it are void from now on.

        Raises:
            NotFound: there is no such node.
        """
        about = f"token for {role} {shown(name)}"
        async with self.change(actor, Permission.TOKEN, EventName.TOKEN_MAKE, about) as work:
            row = await find_node(work.session, role, parse_name(name, role))
            return await self._token(work, row)

    async def add_asset(self, actor: t.Actor, new: r.NewAsset) -> t.Asset:
        """Make an asset behind one or more edges.

        Raises:
            Invalid, Conflict, NotFound: bad or used name, bad address, an edge or zone that is not there.
        """
        name = parse_name(new.name, "asset")
        address = parse_place(new.address) if new.address else ""
        mac = parse_mac(new.mac) if new.mac else ""
        tags = parse_tags(new.tags)
        async with self._adding(actor, "asset", name) as work:
            await claim(work.session, name, "asset", AssetRow)
            zone = await zone_name(work.session, new.zone)
            row = AssetRow(name=name, address=address, mac=mac, zone=zone, tags=tags)
            work.session.add(row)
            await work.session.flush()
            await set_edges(work.session, name, new.edges)
            made: t.Asset = await self._added(work, "asset", row, asset=name, address=address)
        return made

    async def add_service(self, actor: t.Actor, new: r.NewService) -> t.Service:
        """Make the service ASSET.PROTOCOL.

        Raises:
            Invalid: an unknown protocol without a port, a bad port; health of what cannot be checked.
            Conflict, NotFound: it exists; the asset does not, or has no address.
        """
        asset, protocol = parse_name(new.asset, "asset"), parse_name(new.protocol, "protocol")
        name = service_name(asset, protocol)
        async with self._adding(actor, "service", name) as work:
            await limit(work.session, ServiceRow)
            owner = await find(work.session, AssetRow, "asset", asset)
            if not owner.address:
                raise Conflict(
                    f"asset {asset} has no address to dial: ferrule set asset {asset} address=IP"
                )
            if await work.session.get(ServiceRow, name) is not None:
                raise Conflict(f"service {name} exists already: ferrule set service {name} port=N")
            port, port_end = ports_of(protocol, new.port)
            transport = new.transport or default_transport(protocol)
            row = ServiceRow(
                name=name,
                asset=asset,
                protocol=protocol,
                port=port,
                port_end=port_end,
                transport=transport,
                connect=new.connect,
                health=parse_health(new.health),
                source=new.source,
            )
            check_health(row)
            work.session.add(row)
            await check_place(work.session, owner)
            await check_hosting(work.session, asset)
            await check_asset(work.session, self.anchor.digest, asset)
            made: t.Service = await self._added(work, "service", row, asset=asset, service=name)
        return made

    async def add_listener(self, actor: t.Actor, new: r.NewListener) -> t.Listener:
        """Make a listener on an edge.

        Raises:
            Invalid, Conflict, NotFound: bad address, a port that is taken, an edge, service or asset that is not there.
            Unsupported: the service has a range of ports.
        """
        edge = parse_name(new.edge, "edge")
        service = service_name(*parse_service(new.service))
        listen = parse_endpoint(new.listen, "listener's address", ip_only=True)
        who = parse_name(new.as_asset, "asset") if new.as_asset else None
        about = f"{edge}:{listen}"
        async with self._adding(actor, "listener", about) as work:
            await limit(work.session, ListenerRow)
            await find_node(work.session, "edge", edge)
            target = await find(work.session, ServiceRow, "service", service)
            name = listener_name(edge, listen, target.transport)
            await check_listener(work.session, name, edge, target, who)
            row = ListenerRow(
                name=name,
                edge=edge,
                service=service,
                listen=listen,
                transport=target.transport,
                who=who,
            )
            work.session.add(row)
            made: t.Listener = await self._added(
                work, "listener", row, asset=target.asset, service=service
            )
        return made

    async def add_intercept(self, actor: t.Actor, new: r.NewIntercept) -> t.Intercept:
        """Have an edge intercept traffic for an asset or a service.

        Raises:
            Unsupported: a mode that edges of this build do not have.
            Invalid, Conflict, NotFound: an edge, asset or service that is not there, a bad address or mode, or it
                contradicts what is intercepted already. TooMany: the edge has enough.
        """
        edge, mode = parse_name(new.edge, "edge"), parse_mode(new.mode)
        service = service_name(*parse_service(new.target)) if "." in new.target else None
        asset = service.partition(".")[0] if service else parse_name(new.target, "asset")
        places = parse_places(new.addresses)
        who = parse_name(new.as_asset, "asset") if new.as_asset else None
        name = intercept_name(edge, asset, service)
        async with self._adding(actor, "intercept", name) as work:
            await limit(work.session, InterceptRow)
            node = await find_node(work.session, "edge", edge)
            if service is not None:
                await find(work.session, ServiceRow, "service", service)
            owner = await find(work.session, AssetRow, "asset", asset)
            if await work.session.get(InterceptRow, name) is not None:
                raise Conflict(f"{name} exists already: ferrule set intercept {name} address=IP")
            await check_assertion(work.session, who, edge)
            await number_of(work.session, owner)
            row = InterceptRow(
                name=name, edge=edge, asset=asset, service=service, mode=mode, who=who, addresses=[]
            )
            work.session.add(row)
            await work.session.flush()
            await set_places(work.session, row, places)
            await check_intercepts(work.session, self.anchor.digest, node, asset)
            made: t.Intercept = await self._added(
                work, "intercept", row, asset=asset, service=service or ""
            )
        return made

    # --- shared by the above ----------------------------------------------------------------------

    def _adding(self, actor: t.Actor, kind: str, name: str) -> AbstractAsyncContextManager[Work]:
        return self.change(actor, Permission.INVENTORY, EventName.OBJECT_ADD, f"{kind} {name}")

    async def _added(
        self,
        work: Work,
        kind: str,
        row: Any,
        *,
        topics: tuple[str, ...] = ("policy",),
        **event: Any,
    ) -> Any:
        """Flush, note and announce; the view of what was made."""
        await work.session.flush()
        made = await self.view(work.session, kind, row)
        work.note(
            EventName.OBJECT_ADD,
            reason=f"{kind} {row.name}",
            detail={"kind": kind, "name": row.name},
            **event,
        )
        work.topics.update(topics)
        return made

    async def _token(self, work: Work, node: NodeRow) -> t.Token:
        """Make a token; the secret leaves in its text only (E-02)."""
        routers = await token_routers(work.session, node)
        if node.role == "edge" and not routers:
            raise Conflict(
                "there is no router that the edge could dial: ferrule add router NAME "
                "--address HOST:PORT --token-out FILE"
            )
        await work.session.execute(delete(TokenRow).where(TokenRow.name == node.name))
        identifier, secret = self.world.entropy.bytes(16), self.world.entropy.bytes(32)
        expires = work.now + int(limits.TOKEN_LIFE) * SECOND
        token = Token(
            plant=self.plant,
            role=Role(node.role),
            name=node.name,
            id=identifier,
            secret=secret,
            root=self.anchor.root,
            routers=tuple(routers),
            expires=expires,
        )
        work.session.add(
            TokenRow(
                id=identifier.hex(),
                name=node.name,
                role=node.role,
                key=token_key(secret),
                expires=expires,
                owner=None,
                generation=None,
            )
        )
        work.note(
            EventName.TOKEN_MAKE,
            reason=f"token for {node.role} {node.name}",
            detail={"kind": node.role, "name": node.name, "expires": format_time(expires)},
        )
        work.topics.add("presence")
        return t.Token(
            name=node.name,
            role="router" if node.role == "router" else "edge",
            token=token.encode(),
            expires=format_time(expires),
        )
