"""What edges intercept: what must hold of it, and how it is told."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions.errors import Conflict, Invalid, TooMany
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    InterceptPlaceRow,
    InterceptRow,
    NodeRow,
    PlantRow,
    ServiceRow,
)
from overlay import limits
from overlay.control.messages import InterceptEntry, ServicePorts
from overlay.policy.interception import (
    MODES,
    OWN_NUMBERS,
    Pools,
    Prefix,
    Rule,
    as_address,
    explain,
    parse_prefix,
    settle,
)
from overlay.policy.names import TRANSPORTS, listed, shown

PER_EDGE = limits.ASSIGNED
"""Intercepts of one edge; and services, and addresses, that they come to."""


def domain_of(plant: str) -> str:
    """Where assets have their DNS names: ASSET.PLANT.internal (`internal` is kept free for this, ICANN 2024-07-29)."""
    return f"{plant}.internal"


def intercept_name(edge: str, asset: str, service: str | None) -> str:
    """What an intercept is called: `edge-a:plc-b`, or `edge-a:plc-b.modbus`."""
    return f"{edge}:{service or asset}"


def parse_mode(text: str | None) -> str:
    """A mode of interception.

    Raises:
        Invalid: there is no such mode.
    """
    mode = (text or MODES[0]).strip().lower()
    if mode not in MODES:
        raise Invalid(f"{shown(mode)} is no mode of interception: {listed(MODES, 'or')}")
    return mode


def parse_places(texts: Sequence[str]) -> list[str]:
    """Addresses and subnets in canonical form, each once.

    Raises:
        InputError: one is none. Invalid: too many.
    """
    places = list(dict.fromkeys(str(parse_prefix(text)) for text in texts if text.strip()))
    if len(places) > limits.INTERCEPT_ADDRESSES:
        raise Invalid(f"an intercept has at most {limits.INTERCEPT_ADDRESSES} addresses")
    return places


def parse_pools(texts: Sequence[str], root: bytes) -> list[str]:
    """The pools of an edge in canonical form; what is missing is the default.

    Raises:
        InputError: no subnets, too small, or two of one kind.
    """
    given = [str(parse_prefix(text)) for text in texts if text.strip()]
    Pools.of(given, root)
    return given


async def number_of(session: AsyncSession, asset: AssetRow) -> int:
    """The asset's place in pools; given at its first intercept, and never to another asset."""
    if not asset.number:
        plant = (await session.execute(select(PlantRow))).scalar_one()
        plant.numbers = max(plant.numbers, OWN_NUMBERS - 1) + 1
        asset.number = plant.numbers
    return asset.number


async def set_places(session: AsyncSession, row: InterceptRow, places: Sequence[str]) -> None:
    """Replace where an intercept catches besides the pools."""
    row.addresses = list(places)
    await session.execute(delete(InterceptPlaceRow).where(InterceptPlaceRow.intercept == row.name))
    session.add_all(
        InterceptPlaceRow(intercept=row.name, edge=row.edge, place=place) for place in places
    )
    await session.flush()


# --- what must hold -----------------------------------------------------------------------------------


async def check_intercepts(session: AsyncSession, root: bytes, edge: NodeRow, asset: str) -> None:
    """May what an edge intercepts of this asset be together with everything else that it intercepts?

    Raises:
        Conflict: something is in two places at once, in a pool, or where the edge itself dials; in a sentence.
        TooMany: more than an edge is told.
    """
    await session.flush()
    await _check_size(session, edge.name)
    pools = Pools.of(edge.pools, root)
    mine = await _rows(session, and_(InterceptRow.edge == edge.name, InterceptRow.asset == asset))
    if not mine:
        return
    places = {place for row in mine for place in row.addresses}
    await _check_subnet(session, asset, mine)
    same = select(InterceptPlaceRow.intercept).where(
        InterceptPlaceRow.edge == edge.name, InterceptPlaceRow.place.in_(places)
    )
    rows = await _rows(
        session,
        and_(
            InterceptRow.edge == edge.name,
            or_(InterceptRow.asset == asset, InterceptRow.name.in_(same)),
        ),
    )
    entries = await entries_of(session, rows)
    rules = []
    for entry in entries:
        if not pools.holds(entry.number):
            raise Conflict(
                f"the pool {pools.v4} has no address left for {entry.asset}: "
                f"ferrule set edge {edge.name} pool=SUBNET"
            )
        for prefix in (*pools.prefixes(entry.number), *map(parse_prefix, entry.addresses)):
            rules += [
                Rule(prefix, one.transport, one.port, one.port_end, entry.exact, one.service)
                for one in entry.services
            ]
    for stays, goes in settle(rules)[1][:1]:
        raise Conflict(explain(rules[stays], rules[goes]))
    for place in sorted(places):
        network = parse_prefix(place).as_network()
        if any(network.version == pool.version and network.overlaps(pool) for pool in pools):
            raise Conflict(
                f"{place} lies in the pool of overlay addresses of {edge.name}, where every asset "
                "has its place already: choose another address, or another pool"
            )
    await check_dialled(session, root, edge)
    await check_routers(session)


async def check_routers(session: AsyncSession) -> None:
    """No edge may intercept a router's address: its own links would lead into themselves.

    Raises:
        Conflict: one would.
    """
    await session.flush()
    routers = []
    for name, text in await session.execute(
        select(NodeRow.name, NodeRow.address).where(NodeRow.address != "")
    ):
        address = as_address(text.rpartition(":")[0].strip("[]"))
        if address is not None:
            routers.append((name, address))
    found = await session.execute(
        select(InterceptPlaceRow.place, InterceptPlaceRow.intercept).distinct()
    )
    for place, intercept in found if routers else ():
        prefix = parse_prefix(place)
        for name, address in routers:
            if prefix.holds(address):
                raise Conflict(
                    f"router {name} is at {address}, so {intercept} cannot intercept {place}: "
                    "the edge would lose its way to the plant"
                )


async def check_dialled(session: AsyncSession, root: bytes, edge: NodeRow) -> None:
    """An edge must not intercept where it dials assets itself: its connections would come back to it.

    Raises:
        Conflict: it would.
    """
    await session.flush()
    if not await session.scalar(
        select(InterceptRow.name).where(InterceptRow.edge == edge.name).limit(1)
    ):
        return
    found = await session.execute(
        select(InterceptPlaceRow.place, InterceptPlaceRow.intercept).where(
            InterceptPlaceRow.edge == edge.name
        )
    )
    places = [(parse_prefix(place), place, name) for place, name in found]
    pools = Pools.of(edge.pools, root)
    dialled = await session.execute(
        select(AssetRow.name, AssetRow.address)
        .join(AssetEdgeRow, AssetEdgeRow.asset == AssetRow.name)
        .where(AssetEdgeRow.edge == edge.name, AssetRow.address != "")
        .where(select(ServiceRow.name).where(ServiceRow.asset == AssetRow.name).exists())
    )
    for asset, text in dialled:
        dialled_at = ipaddress.ip_network(text)  # 127.0.0.1, too, which is never intercepted
        address = dialled_at.network_address
        if dialled_at.overlaps(pools.of_version(address.version)):
            raise Conflict(
                f"edge {edge.name} dials {asset} at {text} itself, which lies in its pool of overlay "
                f"addresses, {pools.of_version(address.version)}: its own connections would come back to it. "
                f"ferrule set edge {edge.name} pool=SUBNET"
            )
        for prefix, place, name in places:
            if dialled_at.overlaps(prefix.as_network()):
                raise Conflict(
                    f"edge {edge.name} dials {asset} at {text} itself, so {name} cannot intercept {place} "
                    "there: its own connections would come back to it"
                )


async def check_asset(session: AsyncSession, root: bytes, asset: str) -> None:
    """As `check_intercepts`, for every edge that intercepts the asset or dials it.

    Raises:
        Conflict, TooMany: likewise.
    """
    await session.flush()
    edges = await session.execute(
        select(NodeRow).where(
            NodeRow.name.in_(select(InterceptRow.edge).where(InterceptRow.asset == asset))
        )
    )
    for edge in edges.scalars().all():
        await check_intercepts(session, root, edge, asset)
    fronts = select(AssetEdgeRow.edge).where(AssetEdgeRow.asset == asset)
    edges = await session.execute(select(NodeRow).where(NodeRow.name.in_(fronts)))
    for edge in edges.scalars().all():
        await check_dialled(session, root, edge)


async def check_pools(session: AsyncSession, root: bytes, edge: NodeRow) -> None:
    """As `check_intercepts`, for all that an edge intercepts.

    Raises:
        Conflict, TooMany: likewise.
    """
    assets = select(InterceptRow.asset).where(InterceptRow.edge == edge.name).distinct()
    for asset in (await session.execute(assets)).scalars().all():
        await check_intercepts(session, root, edge, asset)


async def _check_subnet(session: AsyncSession, asset: str, rows: Sequence[InterceptRow]) -> None:
    """An asset that is a subnet is caught at its own addresses, or at a subnet of the same length (C-19).

    Raises:
        Conflict: it is not said where, or it cannot be told which device is meant.
    """
    text = await session.scalar(select(AssetRow.address).where(AssetRow.name == asset)) or ""
    if "/" not in text:
        return
    subnet = parse_prefix(text)
    for row in rows:
        if not row.addresses:
            raise Conflict(
                f"{asset} is the subnet {text} and has no name for all of it: say where it is caught, --address {text}"
            )
        for place in row.addresses:
            if subnet.shift_from(parse_prefix(place)) is None:
                raise Conflict(
                    f"{place} is no part of {text}, where {asset} is, and not as large: which device is meant?"
                )


async def _check_size(session: AsyncSession, edge: str) -> None:
    for what, query in (
        ("intercepts", select(func.count()).select_from(InterceptRow)),
        (
            "intercepted services",
            select(func.count())
            .select_from(InterceptRow)
            .join(
                ServiceRow,
                and_(
                    ServiceRow.asset == InterceptRow.asset,
                    or_(InterceptRow.service.is_(None), InterceptRow.service == ServiceRow.name),
                ),
            ),
        ),
    ):
        if (await session.scalar(query.where(InterceptRow.edge == edge)) or 0) > PER_EDGE:
            raise TooMany(f"an edge has at most {PER_EDGE} {what}")
    query = select(func.count()).select_from(InterceptPlaceRow)
    if (await session.scalar(query.where(InterceptPlaceRow.edge == edge)) or 0) > PER_EDGE:
        raise TooMany(f"the intercepts of an edge have at most {PER_EDGE} addresses")


# --- what an edge is told -------------------------------------------------------------------------------


async def _rows(session: AsyncSession, condition: ColumnElement[bool]) -> Sequence[InterceptRow]:
    query = select(InterceptRow).where(condition).order_by(InterceptRow.name)
    return (await session.execute(query)).scalars().all()


class Target(NamedTuple):
    """What an intercept needs to know of its asset: its place in pools, and where it is if it is a subnet."""

    number: int
    subnet: str

    @classmethod
    def of(cls, number: int, address: str) -> "Target":
        """Of an asset's columns."""
        return cls(number, address if "/" in address else "")


async def entries_of(
    session: AsyncSession, rows: Sequence[InterceptRow]
) -> tuple[InterceptEntry, ...]:
    """Intercepts as an edge is told of them."""
    assets = {row.asset for row in rows}
    query = select(ServiceRow).where(ServiceRow.asset.in_(assets)).order_by(ServiceRow.name)
    services: dict[str, list[ServiceRow]] = {}
    for service in (await session.execute(query)).scalars():
        services.setdefault(service.asset, []).append(service)
    found = await session.execute(
        select(AssetRow.name, AssetRow.number, AssetRow.address).where(AssetRow.name.in_(assets))
    )
    targets = {row.name: Target.of(row.number, row.address) for row in found}
    return entries(rows, targets, services)


def entries(
    rows: Sequence[Any], targets: Mapping[str, Target], services: Mapping[str, Sequence[Any]]
) -> tuple[InterceptEntry, ...]:
    """The same, of rows or their columns (`InterceptRow`, and `ServiceRow` by asset)."""
    return tuple(
        InterceptEntry(
            row.asset,
            targets[row.asset].number,
            tuple(
                ServicePorts(
                    one.name,
                    one.port,
                    one.port_end,
                    TRANSPORTS[one.transport],
                    one.connect == "at-once",
                )
                for one in services.get(row.asset, ())
                if row.service is None or one.name == row.service
            ),
            row.who or row.edge,
            MODES.index(row.mode),
            tuple(row.addresses),
            row.service is not None,
            targets[row.asset].subnet,
        )
        for row in rows
    )


def prefixes_of(pools: Pools, number: int) -> tuple[Prefix, ...]:
    """The overlay addresses of a number; none when the pools do not hold it."""
    return pools.prefixes(number) if pools.holds(number) else ()
