"""Changing and removing objects: `ferrule set` and `ferrule rm`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.addresses import parse_endpoint, parse_mac, parse_place
from controller.actions.checks import (
    check_assertion,
    check_dials,
    check_health,
    check_listener,
    check_place,
    check_router_address,
    find,
    find_node,
    listener_name,
    parse_health,
    parse_tags,
    ports_of,
    set_edges,
    set_parent,
    zone_name,
)
from controller.actions.conduits import Conduits, check_size
from controller.actions.core import Work
from controller.actions.errors import Conflict, Invalid, Unsupported
from controller.actions.intercepts import (
    check_asset,
    check_intercepts,
    check_pools,
    check_routers,
    parse_mode,
    parse_places,
    parse_pools,
    set_places,
)
from controller.actions.paths import check_another_router, check_router_removal
from controller.actions.roles import Permission
from controller.actions.sovereignty import Sovereignty, revoke_up_to
from controller.actions.views import check_kind
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    ConduitRow,
    InterceptRow,
    KillRow,
    ListenerRow,
    NameRow,
    NodeRow,
    PlantRow,
    ServiceRow,
    ZoneRow,
)
from overlay.audit.event import EventName
from overlay.policy.names import hint, listed, parse_name, shown, with_article

Value = str | tuple[str, ...]
TOPICS = {"router": ("policy", "map")}
MAX_LEVEL, MAX_SL = 5, 4
CONNECT = ("held", "at-once")
SOURCES = ("edge", "caller")


class Editing(Conduits, Sovereignty):
    """What happens to objects after they were made."""

    async def set_object(self, actor: t.Actor, kind: str, name: str, new: r.Changes) -> t.Result:
        """Change an object; all of the changes or none.

        Raises:
            NotFound: no such object. Invalid, InputError: an unknown key or a bad value.
            Conflict: it would contradict others.
            Unsupported: objects of this kind are not changed.
        """
        keys = KEYS.get(check_kind(kind))
        if keys is None:
            raise Unsupported(f"{with_article(kind)} is not changed: end it and make another")
        if not new.changes:
            raise Invalid(f"say what to change: {', '.join(f'{key}=VALUE' for key in keys)}")
        about = f"{kind} {name}"
        async with self.change(actor, Permission.INVENTORY, EventName.OBJECT_SET, about) as work:
            row = await self.row(work.session, kind, name)
            for key, value in new.changes.items():
                change = keys.get(key)
                if change is None:
                    near = hint(key, keys) or f"{with_article(kind)} has {listed(keys)}"
                    raise Invalid(f"{shown(key)} cannot be set: {near}")
                await change(work.session, row, value)
            await work.session.flush()
            made: t.Result = await self.view(work.session, kind, row)
            work.note(
                EventName.OBJECT_SET,
                reason=f"{kind} {row.name}: {listed(new.changes)}",
                detail={"kind": kind, "name": row.name, "changes": new.changes},
            )
            work.topics.update(TOPICS.get(kind, ("policy",)))
        return made

    async def remove_object(self, actor: t.Actor, kind: str, name: str) -> t.Removed:
        """Remove an object; a conduit is denied, a kill lifted. Certificates of a removed node are void.

        Raises:
            NotFound: no such object. Conflict: others depend on it; the text says which.
        """
        if check_kind(kind) == "conduit":
            await self.deny(actor, r.Deny(conduit=name))
            return t.Removed(kind=kind, name=name)
        if kind == "kill":
            return await self.lift_kill(actor, name)
        about = f"{kind} {name}"
        async with self.change(actor, Permission.INVENTORY, EventName.OBJECT_REMOVE, about) as work:
            row = await self.row(work.session, kind, name)
            found = [one async for one in _dependents(work.session, kind, row)]
            if found:
                raise Conflict(f"{kind} {row.name} cannot be removed: {listed(found)}")
            await self._remove(work, kind, row)
            work.note(
                EventName.OBJECT_REMOVE,
                reason=f"{kind} {row.name}",
                detail={"kind": kind, "name": row.name},
            )
            work.topics.update(TOPICS.get(kind, ("policy",)))
        return t.Removed(kind=kind, name=row.name)

    async def _remove(self, work: Work, kind: str, row: Any) -> None:
        if isinstance(row, NodeRow):
            if kind == "router":
                await check_router_removal(work.session, row.name)
            await revoke_up_to(work, row.name, row.generation, "removed")
            await check_size(work)
            work.topics.update(("authority", "presence"))
        await work.session.delete(row)
        await work.session.flush()
        if kind not in {"service", "listener", "intercept"}:
            await work.session.execute(delete(NameRow).where(NameRow.name == row.name))


# --- set ----------------------------------------------------------------------------------------------

Change = Callable[[AsyncSession, Any, Value], Awaitable[None]]


def one(key: str, value: Value) -> str:
    """A value of which there is one.

    Raises:
        Invalid: several.
    """
    if isinstance(value, str):
        return value.strip()
    if len(value) == 1:
        return value[0].strip()
    raise Invalid(f"{key} takes one value, not {len(value)}")


def many(value: Value) -> list[str]:
    """A value of which there may be several: as a list, or separated by commas; an empty text is none."""
    texts = value.split(",") if isinstance(value, str) else value
    return [text.strip() for text in texts if text.strip()]


def number(key: str, value: Value, low: int, high: int) -> int | None:
    """A whole number; None for an empty text.

    Raises:
        Invalid: something else, or out of range.
    """
    text = one(key, value)
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 4 and low <= int(text) <= high:
        return int(text)
    raise Invalid(f"{key} is a number from {low} to {high}, not {shown(text)}")


async def _level(_session: AsyncSession, row: ZoneRow, value: Value) -> None:
    row.level = number("level", value, 0, MAX_LEVEL)


async def _sl(_session: AsyncSession, row: ZoneRow, value: Value) -> None:
    row.sl = number("sl", value, 1, MAX_SL)


async def _parent(session: AsyncSession, row: ZoneRow, value: Value) -> None:
    await set_parent(session, row, one("parent", value))


async def _router_address(session: AsyncSession, row: NodeRow, value: Value) -> None:
    row.address = parse_endpoint(one("address", value), "router's address")
    await check_router_address(session, row.name, row.address)
    await check_routers(session)


async def _dials(session: AsyncSession, row: NodeRow, value: Value) -> None:
    row.dials = await check_dials(session, row.name, many(value))


async def _draining(session: AsyncSession, row: NodeRow, value: Value) -> None:
    text = one("draining", value).lower()
    if text not in {"true", "false"}:
        raise Invalid(f"draining is true or false, not {shown(text)}")
    before, row.draining = row.draining, text == "true"
    if row.draining and not before:
        await check_another_router(
            session, row.name, "drained, it would refuse every new one of the plant"
        )


async def _zone(session: AsyncSession, row: NodeRow | AssetRow, value: Value) -> None:
    row.zone = await zone_name(session, one("zone", value))


async def _edges(session: AsyncSession, row: AssetRow, value: Value) -> None:
    await set_edges(session, row.name, many(value))
    await check_asset(session, await _root(session), row.name)


async def _address(session: AsyncSession, row: AssetRow, value: Value) -> None:
    text = one("address", value)
    row.address = parse_place(text) if text else ""
    if not row.address:
        services = await _names(session, ServiceRow.name, ServiceRow.asset == row.name)
        if services:
            raise Conflict(f"{row.name} needs its address: it offers {listed(services)}")
    await check_place(session, row)
    await check_asset(session, await _root(session), row.name)


async def _mac(_session: AsyncSession, row: AssetRow, value: Value) -> None:
    text = one("mac", value)
    row.mac = parse_mac(text) if text else ""


async def _tags(_session: AsyncSession, row: AssetRow, value: Value) -> None:
    row.tags = parse_tags(many(value))


async def _port(session: AsyncSession, row: ServiceRow, value: Value) -> None:
    row.port, row.port_end = ports_of(row.protocol, one("port", value) or None)
    await check_asset(session, await _root(session), row.asset)
    listeners = await _names(session, ListenerRow.name, ListenerRow.service == row.name)
    if row.port != row.port_end and listeners:
        raise Unsupported(
            f"a listener leads to one port, so {row.name} cannot have several while there is "
            f"{listed(listeners)}"
        )


async def _transport(session: AsyncSession, row: ServiceRow, value: Value) -> None:
    text = one("transport", value).lower()
    if text not in {"tcp", "udp"}:
        raise Invalid(f"transport is tcp or udp, not {shown(text)}")
    listeners = await _names(session, ListenerRow.name, ListenerRow.service == row.name)
    if listeners and text != row.transport:
        raise Conflict(f"remove its listeners first: {listed(listeners)}")
    row.transport = text
    check_health(row)
    await check_asset(session, await _root(session), row.asset)


async def _connect(_session: AsyncSession, row: ServiceRow, value: Value) -> None:
    text = one("connect", value).lower()
    if text not in CONNECT:
        raise Invalid(f"connect is {listed(CONNECT, 'or')}, not {shown(text)}")
    row.connect = text


async def _source(_session: AsyncSession, row: ServiceRow, value: Value) -> None:
    text = one("source", value).lower()
    if text not in SOURCES:
        raise Invalid(f"source is {listed(SOURCES, 'or')}, not {shown(text)}")
    row.source = text


async def _health(session: AsyncSession, row: ServiceRow, value: Value) -> None:
    row.health = parse_health(one("health", value))
    check_health(row)
    await check_place(session, await find(session, AssetRow, "asset", row.asset))


async def _listen(session: AsyncSession, row: ListenerRow, value: Value) -> None:
    listen = parse_endpoint(one("listen", value), "listener's address", ip_only=True)
    service = await find(session, ServiceRow, "service", row.service)
    name = listener_name(row.edge, listen, row.transport)
    if name != row.name:
        await check_listener(session, name, row.edge, service, row.who, row.name)
        row.name, row.listen = name, listen


async def _as(session: AsyncSession, row: ListenerRow | InterceptRow, value: Value) -> None:
    text = one("as", value)
    who = parse_name(text, "asset") if text else None
    await check_assertion(session, who, row.edge)
    row.who = who


async def _pool(session: AsyncSession, row: NodeRow, value: Value) -> None:
    root = await _root(session)
    row.pools = parse_pools(many(value), root)
    await check_pools(session, root, row)


async def _mode(_session: AsyncSession, row: InterceptRow, value: Value) -> None:
    row.mode = parse_mode(one("mode", value))


async def _places(session: AsyncSession, row: InterceptRow, value: Value) -> None:
    await set_places(session, row, parse_places(many(value)))
    edge = await find_node(session, "edge", row.edge)
    await check_intercepts(session, await _root(session), edge, row.asset)


async def _root(session: AsyncSession) -> bytes:
    """SHA-256 of the plant's root."""
    return (await session.execute(select(PlantRow.root))).scalar_one()


KEYS: dict[str, dict[str, Change]] = {
    "zone": {"level": _level, "sl": _sl, "parent": _parent},
    "router": {"address": _router_address, "dials": _dials, "draining": _draining},
    "edge": {"zone": _zone, "pool": _pool},
    "asset": {"edge": _edges, "address": _address, "mac": _mac, "zone": _zone, "tag": _tags},
    "service": {
        "port": _port,
        "transport": _transport,
        "connect": _connect,
        "health": _health,
        "source": _source,
    },
    "listener": {"listen": _listen, "as": _as},
    "intercept": {"mode": _mode, "address": _places, "as": _as},
}


# --- rm -----------------------------------------------------------------------------------------------


async def _names(
    session: AsyncSession, column: InstrumentedAttribute[str], condition: Any
) -> Sequence[str]:
    return list((await session.execute(select(column).where(condition).order_by(column))).scalars())


async def _dependents(session: AsyncSession, kind: str, row: Any) -> AsyncIterator[str]:
    """What depends on an object, each in words."""
    name = row.name
    for words, column, condition in _DEPENDENTS[kind](name):
        for other in await _names(session, column, condition):
            yield f"{words} {other}"
    if kind == "router":
        for node in (await session.execute(select(NodeRow))).scalars():
            if name in node.dials:
                yield f"router {node.name} dials it"
    for conduit in await _conduits(session, kind, row):
        yield f"conduit {conduit} names it"
    level = {"zone": "zone", "service": "service"}.get(kind, "identity")
    killed = select(KillRow.id).where(
        KillRow.ended == 0, KillRow.level == level, KillRow.name == name
    )
    if (await session.execute(killed.limit(1))).first() is not None:
        yield f"it is killed (ferrule restore {level} {name})"


async def _conduits(session: AsyncSession, kind: str, row: Any) -> list[str]:
    """Conduits in force that name an object (a service: asset and protocol)."""
    query = select(ConduitRow.id).where(ConduitRow.ended == 0).order_by(ConduitRow.created)
    if kind == "service":
        query = query.where(ConduitRow.to == row.asset, ConduitRow.protocol == row.protocol)
    elif kind in {"zone", "edge", "asset"}:
        query = query.where(or_(ConduitRow.who == row.name, ConduitRow.to == row.name))
    else:
        return []
    return list((await session.execute(query)).scalars())


_Dependents = Callable[[str], list[tuple[str, Any, Any]]]
_DEPENDENTS: dict[str, _Dependents] = {
    "zone": lambda name: [
        ("it holds zone", ZoneRow.name, ZoneRow.parent == name),
        ("it holds edge", NodeRow.name, NodeRow.zone == name),
        ("it holds asset", AssetRow.name, AssetRow.zone == name),
    ],
    "router": lambda _name: [],
    "edge": lambda name: [
        ("behind it stands asset", AssetEdgeRow.asset, AssetEdgeRow.edge == name),
        ("it has listener", ListenerRow.name, ListenerRow.edge == name),
        ("it has intercept", InterceptRow.name, InterceptRow.edge == name),
    ],
    "asset": lambda name: [
        ("it offers", ServiceRow.name, ServiceRow.asset == name),
        ("it is asserted by listener", ListenerRow.name, ListenerRow.who == name),
        ("it is asserted by intercept", InterceptRow.name, InterceptRow.who == name),
        ("it is intercepted by", InterceptRow.name, InterceptRow.asset == name),
    ],
    "service": lambda name: [
        ("it is offered by listener", ListenerRow.name, ListenerRow.service == name),
        ("it is intercepted by", InterceptRow.name, InterceptRow.service == name),
    ],
    "listener": lambda _name: [],
    "intercept": lambda _name: [],
}
