"""Routes that wait or follow: `status?wait=`, the audit and the sessions as they change.

A follower asks the actions again as soon as something changed, but not more often than `FOLLOW_PAUSE` allows, so that
a plant in turmoil costs little more than a quiet one. At least every `HEARTBEAT` the follower's login is checked again;
None is an empty line, which says "still here".
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from msgspec import Meta

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.changes import Subscription
from controller.actions.records import MAX_TAIL
from controller.api.guard import MAX_WAIT_SECONDS
from controller.api.route import Call

FOLLOW_PAUSE = 0.1
HEARTBEAT = 10.0
STATUS_AGAIN = 1.0
"""Some states change by time alone; they are looked at again after this."""
BATCH = 500


class StatusQuery(r.Request):
    """`wait`: seconds to wait for every router and edge to be connected; at most 30, ask again for more."""

    wait: Annotated[float, Meta(ge=0)] = 0.0


class FollowQuery(r.Request):
    """`after`: begin after this `seq`, else with the newest `limit` records."""

    after: Annotated[int, Meta(ge=0)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_TAIL)] = 10


def is_whole(status: t.Status) -> bool:
    """Every router and edge that was added is connected, revoked ones aside."""
    nodes = (*status.routers, *status.edges)
    return all(node.state in ("connected", "revoked") for node in nodes)


async def status(call: Call, query: StatusQuery, _: object) -> t.Status:
    """Which programs of the plant are connected: now, or as soon as all are, or after `wait`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(query.wait, MAX_WAIT_SECONDS)
    if not query.wait:
        return await call.actions.status(call.actor)
    subscription = call.actions.subscribe()
    try:
        while True:
            found = await call.actions.status(call.actor)
            left = deadline - loop.time()
            if is_whole(found) or left <= 0 or call.gone():
                return found
            await _changed(subscription, "presence", min(left, STATUS_AGAIN))
    finally:
        subscription.close()


async def follow_audit(
    call: Call, query: FollowQuery, _: object
) -> AsyncGenerator[t.AuditRecord | None, None]:
    """Audit records as they are written, in `seq` order, none missed, none twice."""
    return _audit(call, query.after, query.limit)


async def _audit(
    call: Call, after: int | None, limit: int
) -> AsyncGenerator[t.AuditRecord | None, None]:
    subscription = call.actions.subscribe()
    pace = _Pace()
    try:
        records = await call.actions.audit_tail(call.actor, after=after, limit=limit)
        last = after or 0
        while True:
            for record in records:
                last = record.seq
                yield record
            if not records:
                if not await _changed(subscription, "audit", HEARTBEAT):
                    yield None
                await call.actions.session(call.token)
                await pace.keep()
            records = await call.actions.audit_tail(call.actor, after=last, limit=BATCH)
    finally:
        subscription.close()


async def follow_sessions(
    call: Call, _: object, __: object
) -> AsyncGenerator[t.Session | None, None]:
    """The live sessions, then each again when it begins, moves to another path or ends."""
    return _sessions(call)


async def _sessions(call: Call) -> AsyncGenerator[t.Session | None, None]:
    subscription = call.actions.subscribe()
    known: dict[str, t.Session] = {}
    pace = _Pace()
    try:
        while True:
            await pace.keep()
            live = {found.id: found for found in await call.actions.sessions(call.actor)}
            gone = known.keys() - live.keys()
            if gone:
                ended = await call.actions.sessions(call.actor, history=True)
                for session in ended:
                    if session.id in gone:
                        yield session
            for session in live.values():
                before = known.get(session.id)
                if before is None or before.path != session.path:
                    yield session
            known = live
            if not await _changed(subscription, "sessions", HEARTBEAT):
                yield None
            await call.actions.session(call.token)
    finally:
        subscription.close()


class _Pace:
    """Keeps `FOLLOW_PAUSE` between two looks, and none before the first one after a quiet time."""

    def __init__(self) -> None:
        self._last = -FOLLOW_PAUSE

    async def keep(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._last + FOLLOW_PAUSE - loop.time()))
        self._last = loop.time()


async def _changed(subscription: Subscription, topic: str, seconds: float) -> bool:
    """Whether `topic` changed within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                topics = await subscription.wait()
                if topic in topics or not topics:
                    return True
    except TimeoutError:
        return False
