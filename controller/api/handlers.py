"""What each route does: ask the actions, and hand back what they answer. No decision is made here."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from msgspec import Meta

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.errors import Invalid
from controller.actions.records import MAX_TAIL
from controller.api.route import Call, Handler

Empty = Any
"""A query or body that the route does not have."""

MAX_SEQ_DIGITS = 18


class WhyQuery(r.Request):
    """Who asks for what, as in `allow`."""

    who: r.Text
    to: r.Text
    protocol: r.Text


class TailQuery(r.Request):
    """`after`: only records with a greater `seq` (the first `limit` of them, else the newest `limit`)."""

    after: Annotated[int, Meta(ge=0)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_TAIL)] = 50


class HistoryQuery(r.Request):
    """`history`: the ended ones, too."""

    history: bool = False


# --- people ----------------------------------------------------------------------------------------
async def login(call: Call, _: Empty, body: r.Login) -> t.LoggedIn:
    """Log in; the answer's token authorises every other request."""
    return await call.actions.login(body, call.source)


async def logout(call: Call, _: Empty, __: Empty) -> None:
    """End this login."""
    await call.actions.logout(call.actor, call.token)


async def whoami(call: Call, _: Empty, __: Empty) -> t.Actor:
    """Who is logged in."""
    return call.actor


# --- inventory -------------------------------------------------------------------------------------
async def add_zone(call: Call, _: Empty, body: r.NewZone) -> t.Zone:
    """Add one zone."""
    return await call.actions.add_zone(call.actor, body)


async def add_router(call: Call, _: Empty, body: r.NewRouter) -> t.AddedRouter:
    """Add one router; the answer holds its one-time token."""
    return await call.actions.add_router(call.actor, body)


async def add_edge(call: Call, _: Empty, body: r.NewEdge) -> t.AddedEdge:
    """Add one edge; the answer holds its one-time token."""
    return await call.actions.add_edge(call.actor, body)


async def add_asset(call: Call, _: Empty, body: r.NewAsset) -> t.Asset:
    """Add one asset."""
    return await call.actions.add_asset(call.actor, body)


async def add_service(call: Call, _: Empty, body: r.NewService) -> t.Service:
    """Add one service."""
    return await call.actions.add_service(call.actor, body)


async def add_listener(call: Call, _: Empty, body: r.NewListener) -> t.Listener:
    """Add one listener."""
    return await call.actions.add_listener(call.actor, body)


async def add_intercept(call: Call, _: Empty, body: r.NewIntercept) -> t.Intercept:
    """Have an edge intercept traffic for an asset or a service."""
    return await call.actions.add_intercept(call.actor, body)


async def router_token(call: Call, _: Empty, __: Empty) -> t.Token:
    """Make a fresh token for a router."""
    return await call.actions.make_token(call.actor, "router", call.path["name"])


async def edge_token(call: Call, _: Empty, __: Empty) -> t.Token:
    """Make a fresh token for an edge."""
    return await call.actions.make_token(call.actor, "edge", call.path["name"])


def list_of(kind: t.ObjectKind) -> Handler:
    """The handler that lists objects of `kind`."""

    async def handler(call: Call, _: Empty, __: Empty) -> list[t.Result]:
        return await call.actions.list_objects(call.actor, kind)

    return handler


def show_of(kind: t.ObjectKind) -> Handler:
    """The handler that shows one object of `kind`."""

    async def handler(call: Call, _: Empty, __: Empty) -> t.Result:
        return await call.actions.show_object(call.actor, kind, call.path["name"])

    return handler


def set_of(kind: t.ObjectKind) -> Handler:
    """The handler that changes one object of `kind`."""

    async def handler(call: Call, _: Empty, body: r.Changes) -> t.Result:
        return await call.actions.set_object(call.actor, kind, call.path["name"], body)

    return handler


def remove_of(kind: t.ObjectKind) -> Handler:
    """The handler that removes one object of `kind`."""

    async def handler(call: Call, _: Empty, __: Empty) -> t.Removed:
        return await call.actions.remove_object(call.actor, kind, call.path["name"])

    return handler


# --- policy ----------------------------------------------------------------------------------------
async def allow(call: Call, _: Empty, body: r.Allow) -> t.Conduit:
    """Allow who may reach what."""
    return await call.actions.allow(call.actor, body)


async def allow_dry_run(call: Call, _: Empty, body: r.Allow) -> t.Effect:
    """What allowing would change, without changing it."""
    return await call.actions.allow_dry_run(call.actor, body)


async def deny(call: Call, _: Empty, body: r.Deny) -> t.Denied:
    """End conduits by id, or by what they were written for."""
    return await call.actions.deny(call.actor, body)


async def deny_conduit(call: Call, _: Empty, __: Empty) -> t.Denied:
    """End one conduit."""
    return await call.actions.deny(call.actor, r.Deny(conduit=call.path["name"]))


async def why(call: Call, query: WhyQuery, _: Empty) -> t.Why:
    """Whether something is allowed, with each check."""
    return await call.actions.why(call.actor, query.who, query.to, query.protocol)


# --- sovereignty -----------------------------------------------------------------------------------
async def kill(call: Call, _: Empty, body: r.NewKill) -> t.Kill:
    """Cut and refuse all that the target covers."""
    return await call.actions.kill(call.actor, body)


async def kill_session(call: Call, _: Empty, body: r.KillSession) -> t.Session:
    """Cut one session; its conduit stays."""
    return await call.actions.kill_session(call.actor, body)


async def restore(call: Call, _: Empty, body: r.Restore) -> t.Restored:
    """Lift the kills of one target."""
    return await call.actions.restore(call.actor, body)


async def revoke(call: Call, _: Empty, body: r.Revoke) -> t.Revoked:
    """Void an identity's certificates, for ever."""
    return await call.actions.revoke(call.actor, body)


async def sessions(call: Call, query: HistoryQuery, _: Empty) -> list[t.Session]:
    """List sessions, oldest first."""
    return await call.actions.sessions(call.actor, history=query.history)


async def trace_session(call: Call, _: Empty, __: Empty) -> t.Trace:
    """The hops of a session's path, with their round trips, measured now where the nodes can."""
    return await call.actions.trace(call.actor, call.path["id"])


async def show_session(call: Call, _: Empty, __: Empty) -> t.Session:
    """Show one session."""
    return await call.actions.show_session(call.actor, call.path["id"])


# --- audit -----------------------------------------------------------------------------------------
async def audit_tail(call: Call, query: TailQuery, _: Empty) -> list[t.AuditRecord]:
    """The newest audit records."""
    return await call.actions.audit_tail(call.actor, after=query.after, limit=query.limit)


async def audit_search(call: Call, query: r.Search, _: Empty) -> list[t.AuditRecord]:
    """Audit records that match."""
    return await call.actions.audit_search(call.actor, query)


async def audit_verify(call: Call, _: Empty, __: Empty) -> t.Verified:
    """Check the whole log."""
    return await call.actions.audit_verify(call.actor)


async def audit_prove(call: Call, _: Empty, __: Empty) -> t.Proof:
    """Prove that one record is in the log."""
    seq = call.path["seq"]
    if not (seq.isascii() and seq.isdigit() and len(seq) <= MAX_SEQ_DIGITS):
        raise Invalid(f"{seq[:40]!r} is no number of an audit record")
    return await call.actions.audit_prove(call.actor, int(seq))


async def audit_export(call: Call, _: Empty, __: Empty) -> AsyncGenerator[bytes, None]:
    """The log with a signed head, to verify offline."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        async for piece in call.actions.audit_export(call.actor):
            yield piece

    return pieces()
