"""Who may do what. A person has one role; every action names the one permission that it needs."""

from enum import Enum

from controller.actions.errors import NotAllowed
from controller.actions.types import Actor


class Permission(Enum):
    """What an action needs; the value completes the sentence "… may not …"."""

    READ = "look at the plant"
    AUDIT = "verify or export the audit log"
    INVENTORY = "change the inventory"
    POLICY = "change what is allowed"
    KILL = "kill"
    RESTORE = "lift kills"
    REVOKE = "revoke identities"
    TOKEN = "make enrolment tokens"  # noqa: S105 - not a password


_READ = frozenset({Permission.READ})
ROLES: dict[str, frozenset[Permission]] = {
    "admin": frozenset(Permission),
    "engineer": _READ
    | {
        Permission.INVENTORY,
        Permission.POLICY,
        Permission.TOKEN,
        Permission.KILL,
        Permission.RESTORE,
    },
    "approver": _READ | {Permission.KILL},
    "operator": _READ | {Permission.KILL},
    "auditor": _READ | {Permission.AUDIT},
}
"""Anybody who may act at all may pull a kill switch; lifting one needs who may change policy."""


def check(actor: Actor, permission: Permission) -> None:
    """Raise NotAllowed unless the actor's role has the permission; an unknown role has none."""
    if permission not in ROLES.get(actor.role, frozenset()):
        raise NotAllowed(f"{actor.name} ({actor.role}) may not {permission.value}")
