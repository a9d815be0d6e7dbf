"""What recorded events change in the tables that people look at: sessions, kills that did their work, local kills.

A batch of events is one statement of each kind, whatever its size: a controller that takes in thousands of openings a
second would else spend its time on statements. Nothing that one kind writes is read by another, so their order is free.
"""

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions.core import Work
from controller.actions.records import detail_of
from controller.store.log import plain
from controller.store.tables import AssetEdgeRow, CircuitRow, KillRow, NodeRow, ServiceRow
from overlay.audit.event import Event, EventName, Outcome
from overlay.wire.bodies import RIDERS

IDS_PER_QUERY = 500
TWICE = 16
"""Circuits of one batch that two nodes claim, of which it is said."""
_ID = re.compile("[0-9a-f]{32}")
_Row = dict[str, Any]
_circuits = CircuitRow.metadata.tables[CircuitRow.__tablename__]

# Parameters of an UPDATE may not be named like the columns that it sets.
_circuit = (_circuits.c.id == bindparam("of_id"), _circuits.c.node == bindparam("of_node"))
_MOVE = update(_circuits).where(*_circuit).values(moves=_circuits.c.moves + 1)
_CLOSE = update(_circuits).where(*_circuit)
_REOPEN = (
    update(_circuits)
    .where(*_circuit, _circuits.c.ended != 0, _circuits.c.ended < bindparam("of_time"))
    .values(ended=0, end_reason="")
)


class Projection:
    """The changes of some events, gathered by `add` and written by `write`."""

    def __init__(self) -> None:
        self._opened: dict[tuple[str, str], _Row] = {}
        """By circuit and node: what one node says never touches what another has said."""
        self._hosts: dict[str, str] = {}
        self._moved: list[_Row] = []
        self._closed: list[_Row] = []
        self._open: dict[tuple[str, str], int] = {}
        """When the last opening was that no end follows; microseconds."""
        self._again: set[tuple[str, str]] = set()
        """Opened more than once: a host that has begun anew got the OPEN of a caller that heard no ACCEPT (C-16)."""
        self._pulled: dict[str, _Row] = {}
        self._twice: dict[str, tuple[str, str]] = {}

    def add(self, event: Event, asset: str, address: str) -> None:
        """One event, in the order of its node; `asset` and `address` as they are recorded."""
        if event.event is EventName.CIRCUIT_OPEN and event.outcome is Outcome.ALLOWED:
            if _is_id(event.circuit):
                key = (event.circuit, event.node)
                if key in self._opened:
                    self._again.add(key)
                self._opened.setdefault(key, _opened(event, asset, address))
                self._open[key] = event.time
                host = self._hosts.setdefault(event.circuit, event.node)
                self._claimed(event.circuit, host, event.node)
        elif event.event is EventName.CIRCUIT_MOVE:
            self._moved.append(_moved(event))
        elif event.event is EventName.CIRCUIT_CLOSE:
            if _is_id(event.circuit):
                self._closed.append(_closed(event))
                self._open.pop((event.circuit, event.node), None)
        elif event.event in {EventName.LOCAL_KILL, EventName.LOCAL_RESTORE}:
            pulled = event.event is EventName.LOCAL_KILL
            self._pulled[event.node] = {
                "local_kill": plain(event.reason) if pulled else None,
                "local_since": event.time if pulled else 0,
            }

    def _claimed(self, circuit: str, host: str, node: str) -> None:
        """Two nodes say that they host one circuit: one of them makes up a session, or hides one."""
        if host != node and len(self._twice) < TWICE:
            self._twice[circuit] = host, node

    async def write(self, work: Work) -> None:
        """Write what was added, inside the caller's transaction."""
        session = work.session
        if self._opened:
            known = await _known(session, list(self._hosts))
            for name, host in known:
                self._claimed(name, host, self._hosts[name])
            self._again |= known
            rows = [row for key, row in self._opened.items() if key not in known]
            if rows:
                await session.execute(insert(_circuits), rows)
        if self._moved:
            await _execute(session, _MOVE, self._moved)
        if self._closed:
            await _execute(session, _CLOSE, self._closed)
            if await _end_kills(session, self._closed, work.now):
                work.topics.add("authority")  # a kill that has done its work leaves it
        for (name, node), time in self._open.items():
            if (name, node) in self._again:
                moment = {"of_id": name, "of_node": node, "of_time": time}
                await session.execute(_REOPEN, moment)
        if self._opened or self._moved or self._closed:
            work.topics.add("sessions")
        for circuit, (host, node) in self._twice.items():
            work.note(
                EventName.SECURITY_FORK,
                Outcome.FAILED,
                via=node,
                circuit=circuit,
                reason=f"{host} and {node} both say that they host this circuit",
                detail={"nodes": [host, node]},
            )
        for node, values in self._pulled.items():
            await session.execute(update(NodeRow).where(NodeRow.name == node).values(values))
            work.topics.add("policy")


async def _execute(session: AsyncSession, statement: Any, rows: list[_Row]) -> None:
    """The statement for each row, which all set the same columns."""
    connection = await session.connection()
    await connection.execute(
        statement.values({name: bindparam(name) for name in rows[0] if not name.startswith("of_")}),
        rows,
    )


async def _known(session: AsyncSession, names: Sequence[str]) -> set[tuple[str, str]]:
    """Those of some circuits that have rows already, and whose: a node that was set back may report one twice."""
    found: set[tuple[str, str]] = set()
    for at in range(0, len(names), IDS_PER_QUERY):
        query = select(_circuits.c.id, _circuits.c.node).where(
            _circuits.c.id.in_(names[at : at + IDS_PER_QUERY])
        )
        found.update((name, node) for name, node in await session.execute(query))
    return found


async def _end_kills(session: AsyncSession, closed: Sequence[_Row], now: int) -> bool:
    """End the kills of closed circuits; whether there was one. Only an edge before the asset can say so (A-05): a
    caller, which knows the circuit's name first, would else lift the kill before the host has heard of it. Of several
    that claim to host it all must.
    """
    live = (KillRow.level == "circuit", KillRow.ended == 0)
    names = set((await session.execute(select(KillRow.name).where(*live))).scalars())
    done: set[str] = set()
    for row in closed:
        if row["of_id"] in names:
            rows = select(CircuitRow).where(CircuitRow.id == row["of_id"])
            claims = {one.node: one for one in (await session.execute(rows)).scalars()}
            claim = claims.get(row["of_node"])
            if claim is None or any(one.ended == 0 for one in claims.values()):
                continue
            if await _hosts(session, claim):
                done.add(row["of_id"])
    for name in done:
        await session.execute(update(KillRow).where(*live, KillRow.name == name).values(ended=now))
    return bool(done)


async def _hosts(session: AsyncSession, claim: CircuitRow) -> bool:
    """Whether the node that claims a session is one that hosts the service it names: as the controller says, not it."""
    known = select(ServiceRow.asset)
    if claim.service in RIDERS:
        known = known.where(ServiceRow.asset == claim.asset)
    else:
        known = known.where(ServiceRow.name == claim.service)
    asset = (await session.execute(known.limit(1))).scalar()
    if asset is None:
        return False
    return await session.get(AssetEdgeRow, (asset, claim.node)) is not None


def _opened(event: Event, asset: str, address: str) -> _Row:
    detail = detail_of(event.detail)
    return {
        "id": event.circuit,
        "node": event.node,
        "who": plain(event.who),
        "via": plain(event.via),
        "asset": plain(asset),
        "service": plain(event.service),
        "address": plain(address),
        "path": _path(detail),
        "conduit": plain(event.conduit),
        "started": event.time,
        "ended": 0,
        "end_reason": "",
        "bytes_in": 0,
        "bytes_out": 0,
        "moves": 0,
        "key_exchange": plain(str(detail.get("key_exchange", "")))[:63],
        "integrity": "strict" if detail.get("integrity") == "strict" else "normal",
    }


def _moved(event: Event) -> _Row:
    """It goes on under another conduit, or on another path."""
    return {
        "of_id": event.circuit,
        "of_node": event.node,
        "conduit": plain(event.conduit),
        "path": _path(detail_of(event.detail)),
    }


def _closed(event: Event) -> _Row:
    """The end that the hosting edge reports; it also corrects an end that was only presumed (K-06)."""
    detail = detail_of(event.detail)
    return {
        "of_id": event.circuit,
        "of_node": event.node,
        "ended": event.time,
        "end_reason": plain(event.reason),
        "bytes_in": _bytes(detail, "bytes_in", "caller"),
        "bytes_out": _bytes(detail, "bytes_out", "host"),
    }


def _path(detail: dict[str, object]) -> list[str]:
    path = detail.get("path")
    return [plain(str(name))[:63] for name in path[:16]] if isinstance(path, list) else []


def _is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def _bytes(detail: dict[str, Any], name: str, side: str) -> int:
    """Bytes of one direction: as said, or as the last checkpoint of the receipt says."""
    receipt = detail.get("receipt", detail)
    checkpoint = receipt.get(side) if isinstance(receipt, dict) else None
    counted = checkpoint.get("bytes") if isinstance(checkpoint, dict) else None
    for value in (detail.get(name), counted):
        if isinstance(value, int) and 0 <= value < 1 << 63:
            return value
    return 0
