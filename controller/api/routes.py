"""Every route of the API, under /api/v1. The OpenAPI document is made from this table, and a test walks it.

`python -m controller.api.routes` prints the document, for docs/openapi.json.
"""

import sys
from typing import Any

from controller.actions import requests as r
from controller.actions import types as t
from controller.api import follow, handlers
from controller.api.handlers import list_of, remove_of, set_of, show_of
from controller.api.openapi import document
from controller.api.route import Call, Handler, Route

VERIFY_SECONDS = 600.0
"""Hashing a log of years takes a while."""
WAIT_SECONDS = 60.0


def _kind(
    kind: t.ObjectKind, new: type[r.Request], add: Handler, made: type[t.Result], shown: Any
) -> list[Route]:
    """The five routes of one kind of object: `new` is what adding takes, `made` what it answers."""
    many, one = f"/{kind}s", f"/{kind}s/{{name}}"
    return [
        Route("GET", many, f"list_{kind}s", list_of(kind), list[shown], about=f"List {kind}s"),
        Route("POST", many, f"add_{kind}", add, made, body=new),
        Route("GET", one, f"show_{kind}", show_of(kind), shown, about=f"Show one {kind}"),
        Route("PATCH", one, f"set_{kind}", set_of(kind), shown, body=r.Changes,
              about=f"Change one {kind}"),
        Route("DELETE", one, f"remove_{kind}", remove_of(kind), t.Removed,
              about=f"Remove one {kind}"),
    ]  # fmt: skip


_INVENTORY = [
    *_kind("zone", r.NewZone, handlers.add_zone, t.Zone, t.Zone),
    *_kind("router", r.NewRouter, handlers.add_router, t.AddedRouter, t.Router),
    *_kind("edge", r.NewEdge, handlers.add_edge, t.AddedEdge, t.Edge),
    *_kind("asset", r.NewAsset, handlers.add_asset, t.Asset, t.Asset),
    *_kind("service", r.NewService, handlers.add_service, t.Service, t.Service),
    *_kind("listener", r.NewListener, handlers.add_listener, t.Listener, t.Listener),
    *_kind("intercept", r.NewIntercept, handlers.add_intercept, t.Intercept, t.Intercept),
    Route("POST", "/routers/{name}/token", "router_token", handlers.router_token, t.Token),
    Route("POST", "/edges/{name}/token", "edge_token", handlers.edge_token, t.Token),
]

_POLICY = [
    Route("GET", "/conduits", "list_conduits", list_of("conduit"), list[t.Conduit],
          about="List conduits in force"),
    Route("POST", "/conduits", "allow", handlers.allow, t.Conduit, body=r.Allow),
    Route("POST", "/conduits/dry-run", "allow_dry_run", handlers.allow_dry_run, t.Effect,
          body=r.Allow),
    Route("GET", "/conduits/{name}", "show_conduit", show_of("conduit"), t.Conduit,
          about="Show one conduit"),
    Route("PATCH", "/conduits/{name}", "set_conduit", set_of("conduit"), t.Conduit, body=r.Changes,
          about="Change one conduit"),
    Route("DELETE", "/conduits/{name}", "deny_conduit", handlers.deny_conduit, t.Denied),
    Route("POST", "/deny", "deny", handlers.deny, t.Denied, body=r.Deny),
    Route("GET", "/why", "why", handlers.why, t.Why, query=handlers.WhyQuery),
]  # fmt: skip

_SOVEREIGNTY = [
    Route("GET", "/kills", "list_kills", list_of("kill"), list[t.Kill], about="List active kills"),
    Route("POST", "/kills", "kill", handlers.kill, t.Kill, body=r.NewKill),
    Route("GET", "/kills/{name}", "show_kill", show_of("kill"), t.Kill,
          about="Show one active kill"),
    Route("DELETE", "/kills/{name}", "remove_kill", remove_of("kill"), t.Removed,
          about="Lift one kill"),
    Route("POST", "/restore", "restore", handlers.restore, t.Restored, body=r.Restore),
    Route("POST", "/revoke", "revoke", handlers.revoke, t.Revoked, body=r.Revoke),
    Route("GET", "/sessions", "list_sessions", handlers.sessions, list[t.Session],
          query=handlers.HistoryQuery),
    Route("GET", "/sessions/follow", "follow_sessions", follow.follow_sessions, t.Session,
          lines=True),
    Route("GET", "/sessions/{id}", "show_session", handlers.show_session, t.Session),
    Route("GET", "/sessions/{id}/trace", "trace_session", handlers.trace_session, t.Trace),
    Route("POST", "/sessions/kill", "kill_session", handlers.kill_session, t.Session,
          body=r.KillSession),
]  # fmt: skip

_AUDIT = [
    Route("GET", "/audit", "audit_tail", handlers.audit_tail, list[t.AuditRecord],
          query=handlers.TailQuery),
    Route("GET", "/audit/follow", "follow_audit", follow.follow_audit, t.AuditRecord,
          query=follow.FollowQuery, lines=True),
    Route("GET", "/audit/search", "audit_search", handlers.audit_search, list[t.AuditRecord],
          query=r.Search),
    Route("GET", "/audit/verify", "audit_verify", handlers.audit_verify, t.Verified,
          seconds=VERIFY_SECONDS),
    Route("GET", "/audit/export", "audit_export", handlers.audit_export, dict[str, Any],
          lines=True),
    Route("GET", "/audit/{seq}/proof", "audit_prove", handlers.audit_prove, t.Proof),
]  # fmt: skip


async def _document(_: Call, __: object, ___: object) -> bytes:
    """This document."""
    return document(ROUTES)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/login", "login", handlers.login, t.LoggedIn, body=r.Login, open=True),
    Route("POST", "/logout", "logout", handlers.logout),
    Route("GET", "/session", "whoami", handlers.whoami, t.Actor),
    Route("GET", "/openapi.json", "openapi", _document, dict[str, Any]),
    Route("GET", "/status", "status", follow.status, t.Status, query=follow.StatusQuery,
          seconds=WAIT_SECONDS),
    *_INVENTORY,
    *_POLICY,
    *_SOVEREIGNTY,
    *_AUDIT,
)  # fmt: skip


if __name__ == "__main__":
    sys.stdout.buffer.write(document(ROUTES))
