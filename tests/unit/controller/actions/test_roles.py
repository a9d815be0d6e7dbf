"""Every write is authorised by role, and a refusal is recorded."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.actions import Actions
from controller.actions.errors import NotAllowed
from controller.actions.roles import ROLES, Permission, check
from tests.support.controllers import ADMIN, Mill
from tests.unit.controller.actions.test_conduits import allow, opened

Call = Callable[[Actions, t.Actor], Awaitable[Any]]


async def export(actions: Actions, actor: t.Actor) -> None:
    async for _ in actions.audit_export(actor):
        pass


WRITES: dict[str, tuple[Permission, Call]] = {
    "add_zone": (Permission.INVENTORY, lambda a, who: a.add_zone(who, r.NewZone(name="z9"))),
    "add_router": (
        Permission.INVENTORY,
        lambda a, who: a.add_router(who, r.NewRouter(name="r9", address="192.0.2.9:1")),
    ),
    "add_edge": (Permission.INVENTORY, lambda a, who: a.add_edge(who, r.NewEdge(name="e9"))),
    "make_token": (Permission.TOKEN, lambda a, who: a.make_token(who, "edge", "edge-a")),
    "add_asset": (
        Permission.INVENTORY,
        lambda a, who: a.add_asset(who, r.NewAsset(name="a9", edges=("edge-a",))),
    ),
    "add_service": (
        Permission.INVENTORY,
        lambda a, who: a.add_service(who, r.NewService(asset="plc-b", protocol="ssh")),
    ),
    "add_listener": (
        Permission.INVENTORY,
        lambda a, who: a.add_listener(
            who, r.NewListener(edge="edge-a", service="plc-b.modbus", listen="127.0.0.1:9999")
        ),
    ),
    "set_object": (
        Permission.INVENTORY,
        lambda a, who: a.set_object(who, "asset", "plc-b", r.Changes(changes={"tag": "x"})),
    ),
    "remove_object": (
        Permission.INVENTORY,
        lambda a, who: a.remove_object(who, "listener", "edge-a:127.0.0.1:15020"),
    ),
    "remove conduit": (Permission.POLICY, lambda a, who: a.remove_object(who, "conduit", "c1")),
    "remove kill": (Permission.RESTORE, lambda a, who: a.remove_object(who, "kill", "00")),
    "allow": (Permission.POLICY, lambda a, who: a.allow(who, allow())),
    "deny": (Permission.POLICY, lambda a, who: a.deny(who, r.Deny(conduit="c1"))),
    "kill": (Permission.KILL, lambda a, who: a.kill(who, r.NewKill(level="plant"))),
    "kill_session": (
        Permission.KILL,
        lambda a, who: a.kill_session(who, r.KillSession(id="ab" * 16)),
    ),
    "restore": (
        Permission.RESTORE,
        lambda a, who: a.restore(who, r.Restore(level="zone", name="z")),
    ),
    "revoke": (
        Permission.REVOKE,
        lambda a, who: a.revoke(who, r.Revoke(kind="edge", name="edge-b", reason="x")),
    ),
    "audit_export": (Permission.AUDIT, export),
}
READS: dict[str, tuple[Permission, Call]] = {
    "allow_dry_run": (Permission.POLICY, lambda a, who: a.allow_dry_run(who, allow())),
    "why": (Permission.READ, lambda a, who: a.why(who, "hmi-a", "plc-b", "modbus")),
    "list_objects": (Permission.READ, lambda a, who: a.list_objects(who, "zone")),
    "show_object": (Permission.READ, lambda a, who: a.show_object(who, "edge", "edge-a")),
    "status": (Permission.READ, lambda a, who: a.status(who)),
    "sessions": (Permission.READ, lambda a, who: a.sessions(who)),
    "audit_tail": (Permission.READ, lambda a, who: a.audit_tail(who)),
    "audit_search": (Permission.READ, lambda a, who: a.audit_search(who, r.Search())),
    "audit_verify": (Permission.AUDIT, lambda a, who: a.audit_verify(who)),
    "audit_prove": (Permission.AUDIT, lambda a, who: a.audit_prove(who, 1)),
}


async def test_writes_need_their_permission_and_refusals_are_recorded(plant: Mill):
    """One role that lacks exactly this permission is refused; the log says who tried what."""
    actions = plant.actions
    await actions.allow(ADMIN, allow())
    await opened(plant, "c1")
    for name, (permission, call) in WRITES.items():
        role = next(one for one, has in ROLES.items() if permission not in has)
        eve = t.Actor(name="eve", role=role)  # type: ignore[arg-type]
        before = await counted(plant)
        with pytest.raises(NotAllowed, match=f"eve .{role}. may not {permission.value}"):
            await call(actions, eve)
        (last,) = await actions.audit_tail(ADMIN, limit=1)
        assert (last.outcome, last.who) == ("denied", "eve"), name
        assert f"may not {permission.value}" in last.reason, name
        assert await counted(plant) == (before[0] + 1, *before[1:]), f"{name} changed something"


async def counted(plant: Mill) -> tuple[int, ...]:
    kinds = ("zone", "router", "edge", "asset", "service", "listener", "conduit", "kill")
    lists = [await plant.actions.list_objects(ADMIN, kind) for kind in kinds]
    tags = await plant.actions.show_object(ADMIN, "asset", "plc-b")
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    return (last.seq, *(len(one) for one in lists), len(tags.tags))  # type: ignore[attr-defined]


async def test_reads_need_their_permission(plant: Mill):
    nobody = t.Actor(name="eve", role="guest")  # type: ignore[arg-type]
    for permission, call in READS.values():
        with pytest.raises(NotAllowed):
            await call(plant.actions, nobody)
        lacking = [role for role, has in ROLES.items() if permission not in has]
        for role in lacking:
            with pytest.raises(NotAllowed):
                await call(plant.actions, t.Actor(name="eve", role=role))  # type: ignore[arg-type]


async def test_an_admin_may_do_everything(plant: Mill):
    for name, (_, call) in {**READS, **WRITES}.items():
        try:
            await call(plant.actions, ADMIN)
        except NotAllowed:
            pytest.fail(f"an admin may not {name}")
        except Exception:  # noqa: BLE001 - what is not there is another matter
            continue


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("engineer", {"READ", "INVENTORY", "POLICY", "TOKEN", "KILL", "RESTORE"}),
        ("approver", {"READ", "KILL"}),
        ("operator", {"READ", "KILL"}),
        ("auditor", {"READ", "AUDIT"}),
        ("admin", {one.name for one in Permission}),
        ("guest", set()),
    ],
)
def test_what_each_role_may(role: str, may: set[str]):
    actor = t.Actor(name="eve", role=role)  # type: ignore[arg-type]
    for permission in Permission:
        if permission.name in may:
            check(actor, permission)
        else:
            with pytest.raises(NotAllowed):
                check(actor, permission)
