"""What must hold of the inventory, whoever changes it: names, limits, and that what is named exists and fits."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions.addresses import overlap
from controller.actions.core import Work
from controller.actions.errors import Conflict, Invalid, NotFound, TooMany, Unsupported
from controller.actions.requests import TAGS
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    Base,
    InterceptRow,
    ListenerRow,
    NameRow,
    NodeRow,
    RevocationRow,
    ServiceRow,
    ZoneRow,
)
from overlay import limits
from overlay.policy.model import EDGES_PER_ASSET, Zone, check_zone_parent
from overlay.policy.names import (
    PROTOCOLS,
    hint,
    known_protocol,
    listed,
    parse_name,
    parse_ports,
    shown,
    with_article,
)
from overlay.policy.times import parse_duration
from overlay.wire.bodies import STREAM

Row = TypeVar("Row", bound=Base)

OBJECTS: dict[type[Base], int] = {
    ZoneRow: 10_000,
    NodeRow: 20_000,
    AssetRow: 100_000,
    ServiceRow: 200_000,
    ListenerRow: 200_000,
    InterceptRow: 200_000,
}
"""How many of each a plant may have."""
ROUTERS = limits.MAP_ROUTERS
PER_EDGE = limits.ASSIGNED
"""Listeners on one edge, and services it hosts: what one `Assignments` holds."""
DIALS = limits.ROUTER_DIALS
MAX_PRIORITY = 1000


async def limit(session: AsyncSession, table: type[Base]) -> None:
    """Is there room for one more?

    Raises:
        TooMany: there is not.
    """
    count = await session.scalar(select(func.count()).select_from(table)) or 0
    if count >= OBJECTS[table]:
        raise TooMany(f"a plant has at most {OBJECTS[table]} {table.__tablename__}")


async def claim(session: AsyncSession, name: str, kind: str, table: type[Base]) -> None:
    """Take a name of the one namespace.

    Raises:
        Conflict: something has it. TooMany: there are enough of these.
    """
    await limit(session, table)
    held = await session.get(NameRow, name)
    if held is not None:
        raise Conflict(f"the name {name} is taken by {with_article(held.kind)}: choose another")
    session.add(NameRow(name=name, kind=kind))
    await session.flush()


async def find(session: AsyncSession, table: type[Row], kind: str, name: str) -> Row:
    """The object of this name.

    Raises:
        NotFound: there is none; the text offers what is near.
    """
    row = await session.get(table, name)
    if row is None:
        raise await missing(session, table, kind, name)
    return row


async def missing(session: AsyncSession, table: type[Base], kind: str, name: str) -> NotFound:
    """The error for a name that nothing has."""
    query = select(table.__table__.columns["name"]).limit(2000)
    if table is NodeRow:
        query = query.where(NodeRow.role == kind)
    near = hint(name, (await session.execute(query)).scalars())
    return NotFound(f"there is no {kind} {shown(name)}: {near or f'see ferrule ls {kind}'}")


async def find_node(session: AsyncSession, role: str, name: str) -> NodeRow:
    """The router or edge of this name.

    Raises:
        NotFound: there is none, or it has the other role.
    """
    row = await session.get(NodeRow, name)
    if row is None or row.role != role:
        raise await missing(session, NodeRow, role, name)
    return row


async def new_node(
    work: Work, name: str, role: str, *, zone: str | None = None, address: str = ""
) -> NodeRow:
    """A router or edge; one that was removed and comes back goes on with its generations (I-04).

    Raises:
        TooMany: a map cannot hold more routers.
    """
    if role == "router":
        query = select(func.count()).select_from(NodeRow).where(NodeRow.role == role)
        if (await work.session.scalar(query) or 0) >= ROUTERS:
            raise TooMany(f"a plant has at most {ROUTERS} routers")
    revocation = await work.session.get(RevocationRow, name)
    row = NodeRow(
        name=name,
        role=role,
        zone=zone,
        address=address,
        dials=[],
        created=work.now,
        generation=0 if revocation is None else revocation.generation,
        seen=0,
        version="",
    )
    work.session.add(row)
    return row


async def zone_name(session: AsyncSession, text: str | None) -> str | None:
    """The zone that is named, which must exist; None for none (also for an empty text)."""
    if not text:
        return None
    return (await find(session, ZoneRow, "zone", parse_name(text, "zone"))).name


async def set_parent(session: AsyncSession, zone: ZoneRow, text: str) -> None:
    """Put a zone into another; an empty text takes it out.

    Raises:
        NotFound: no such zone. InputError: it would lie inside itself, or too deep.
    """
    parent = await zone_name(session, text)
    if parent is not None:
        rows = (await session.execute(select(ZoneRow))).scalars()
        zones = [Zone(row.name, row.parent) for row in rows if row.name != zone.name]
        check_zone_parent([*zones, Zone(zone.name)], zone.name, parent)
    zone.parent = parent


async def check_dials(session: AsyncSession, name: str, dials: Sequence[str]) -> list[str]:
    """The routers that a router dials, which must exist.

    Raises:
        NotFound, Invalid: one is not there, is the router itself, or they are too many.
    """
    names = list(dict.fromkeys(parse_name(text, "router") for text in dials))
    if len(names) > DIALS:
        raise Invalid(f"a router dials at most {DIALS} others")
    for other in names:
        if other == name:
            raise Invalid(f"router {name} cannot dial itself")
        await find_node(session, "router", other)
    return names


async def check_router_address(session: AsyncSession, name: str, address: str) -> None:
    """Two routers cannot be dialled at one address.

    Raises:
        Conflict: another router has it.
    """
    query = select(NodeRow.name).where(NodeRow.address == address, NodeRow.name != name)
    other = await session.scalar(query.limit(1))
    if other is not None:
        raise Conflict(f"{address} is already the address of router {other}")


def parse_tags(texts: Sequence[str]) -> list[str]:
    """Tags in canonical form, each once, sorted.

    Raises:
        InputError: not a name. Invalid: too many.
    """
    tags = sorted({parse_name(text.removeprefix("tag:"), "tag") for text in texts if text})
    if len(tags) > TAGS:
        raise Invalid(f"an asset has at most {TAGS} tags")
    return tags


async def set_edges(session: AsyncSession, asset: str, texts: Sequence[str]) -> None:
    """Replace the edges before an asset; each text is EDGE, EDGE:PRIORITY or EDGE:PRIORITY:WEIGHT.

    Raises:
        Invalid: none, too many, one twice, a bad number. NotFound: no such edge. TooMany: the edge hosts enough.
    """
    edges: dict[str, tuple[int, int]] = {}
    for text in texts:
        name, *numbers = text.split(":")
        edge = parse_name(name, "edge")
        fine = all(one.isascii() and one.isdigit() and int(one) <= MAX_PRIORITY for one in numbers)
        if len(numbers) > 2 or not fine:
            raise Invalid(
                f"{shown(text)}: write EDGE:PRIORITY:WEIGHT, numbers up to {MAX_PRIORITY}"
            )
        if edge in edges:
            raise Invalid(f"edge {edge} is named twice")
        priority, weight = (*map(int, numbers), 0, 0)[:2]
        edges[edge] = priority, weight
    if not 1 <= len(edges) <= EDGES_PER_ASSET:
        raise Invalid(f"an asset stands behind 1 to {EDGES_PER_ASSET} edges: --edge EDGE")
    for edge in edges:
        await find_node(session, "edge", edge)
    await session.execute(delete(AssetEdgeRow).where(AssetEdgeRow.asset == asset))
    session.add_all(
        AssetEdgeRow(asset=asset, edge=edge, priority=priority, weight=weight)
        for edge, (priority, weight) in edges.items()
    )
    await session.flush()
    await check_hosting(session, asset)
    await check_asserted(session, asset, frozenset(edges))


async def check_hosting(session: AsyncSession, asset: str) -> None:
    """Does each edge before the asset still have room for the services that it hosts?

    Raises:
        TooMany: it has not.
    """
    await session.flush()
    edges = select(AssetEdgeRow.edge).where(AssetEdgeRow.asset == asset)
    counts = await session.execute(
        select(AssetEdgeRow.edge, func.count())
        .join(ServiceRow, ServiceRow.asset == AssetEdgeRow.asset)
        .where(AssetEdgeRow.edge.in_(edges))
        .group_by(AssetEdgeRow.edge)
    )
    for edge, count in counts:
        if count > PER_EDGE:
            raise TooMany(f"edge {edge} hosts at most {PER_EDGE} services")


async def check_asserted(session: AsyncSession, asset: str, edges: frozenset[str]) -> None:
    """Listeners and intercepts that count as an asset must be on an edge before it.

    Raises:
        Conflict: one elsewhere counts as this asset.
    """
    for kind, query in (
        ("listener", select(ListenerRow.name, ListenerRow.edge).where(ListenerRow.who == asset)),
        (
            "intercept",
            select(InterceptRow.name, InterceptRow.edge).where(InterceptRow.who == asset),
        ),
    ):
        stray = [row.name for row in await session.execute(query) if row.edge not in edges]
        if stray:
            raise Conflict(
                f"{kind} {listed(stray)} counts as {asset}, which would no longer stand behind that "
                f"edge: ferrule rm {kind} NAME first"
            )


def ports_of(protocol: str, text: str | None) -> tuple[int, int]:
    """The ports of a service: as typed, or those of a known protocol.

    Raises:
        InputError: no port, and the protocol is not known; or a bad port.
    """
    if text:
        return parse_ports(text)
    known_protocol(protocol)
    return PROTOCOLS[protocol].port, PROTOCOLS[protocol].port


def default_transport(protocol: str) -> str:
    """`tcp` unless the protocol is known to use datagrams."""
    known = PROTOCOLS.get(protocol)
    return "tcp" if known is None or known.transport == STREAM else "udp"


def parse_health(text: str | None) -> int:
    """Seconds between two checks of an asset; 0 for none.

    Raises:
        InputError: no duration. Invalid: too often, or too seldom to be of use.
    """
    if not text or text.strip().lower() == "off":
        return 0
    seconds = parse_duration(text)
    if seconds > limits.HEALTH_SECONDS:
        raise Invalid(f"health is off, or between 1s and 1h, not {shown(text)}")
    return seconds


async def check_place(session: AsyncSession, asset: AssetRow) -> None:
    """Does everything fit an asset that is a subnet: there is no one address to listen for, to check, or to name?

    Raises:
        Unsupported: a listener or a health check cannot say which of its devices is meant.
    """
    if "/" not in asset.address:
        return
    await session.flush()
    listeners = await session.execute(
        select(ListenerRow.name)
        .join(ServiceRow, ServiceRow.name == ListenerRow.service)
        .where(ServiceRow.asset == asset.name)
    )
    checked = await session.execute(
        select(ServiceRow.name).where(ServiceRow.asset == asset.name, ServiceRow.health > 0)
    )
    for what, names in (("a listener", listeners), ("health", checked)):
        found = sorted(names.scalars())
        if found:
            raise Unsupported(
                f"{asset.name} is the subnet {asset.address}, and {what} is for one device: {listed(found)}"
            )


def check_health(service: ServiceRow) -> None:
    """Can the service be checked as it is asked for?

    Raises:
        Invalid: what answers no connection cannot be asked.
    """
    if service.health and service.transport == "udp":
        raise Invalid(
            f"{service.name} uses UDP, which answers no connection, so its health cannot be checked: health=off"
        )


def listener_name(edge: str, listen: str, transport: str) -> str:
    """What a listener is called: `edge-a:127.0.0.1:15020`, with `:udp` for datagrams."""
    return f"{edge}:{listen}" + (":udp" if transport == "udp" else "")


async def check_listener(
    session: AsyncSession,
    name: str,
    edge: str,
    service: ServiceRow,
    who: str | None,
    replaced: str = "",
) -> None:
    """May this listener be? It takes the place of the one that is called `replaced`.

    Raises:
        Conflict, NotFound: its place is taken, or `who` does not stand behind the edge. TooMany: the edge has enough.
        Unsupported: the service has a range of ports, and a listener leads to one.
    """
    if service.port != service.port_end:
        raise Unsupported(
            f"{service.name} has the ports {service.port}-{service.port_end}; a listener leads to one "
            "port, so this build cannot offer it: make a service for each port"
        )
    owner = await find(session, AssetRow, "asset", service.asset)
    if "/" in owner.address:
        raise Unsupported(
            f"{owner.name} is the subnet {owner.address}, and a listener leads to one device: intercept it instead"
        )
    taken = await session.get(ListenerRow, name)
    if taken is not None:
        raise Conflict(f"{name} is taken by the listener for {taken.service}")
    listen = name.removeprefix(f"{edge}:").removesuffix(":udp")
    others = select(ListenerRow).where(
        ListenerRow.edge == edge,
        ListenerRow.transport == service.transport,
        ListenerRow.name != replaced,
    )
    for other in (await session.execute(others)).scalars():
        if overlap(listen, other.listen):
            raise Conflict(
                f"{listen} and {other.listen} on {edge}, the listener for {other.service}, include each other: "
                "only one of them can be bound, so choose another port"
            )
    count = await session.scalar(
        select(func.count()).select_from(ListenerRow).where(ListenerRow.edge == edge)
    )
    if (count or 0) >= PER_EDGE:
        raise TooMany(f"an edge has at most {PER_EDGE} listeners")
    await check_assertion(session, who, edge)


async def check_assertion(session: AsyncSession, who: str | None, edge: str) -> None:
    """May an edge assert this asset? None is the edge itself.

    Raises:
        NotFound: no such asset. Conflict: it does not stand behind the edge.
    """
    if who is None:
        return
    await find(session, AssetRow, "asset", who)
    if await session.get(AssetEdgeRow, (who, edge)) is None:
        raise Conflict(
            f"{who} does not stand behind {edge}: ferrule set asset {who} edge={edge}, "
            "or choose another --as"
        )
