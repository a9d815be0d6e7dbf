"""What the plant consists of, who may do what in it, and the controller's action layer that holds that."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from overlay.audit.event import Event
from overlay.control.messages import Assignments, HostedEntry, ListenerEntry
from overlay.fabric.authority import Kill, Revocation, Withdrawal
from overlay.identity.certificate import Leaf, Role, read_leaf
from overlay.policy.grant import Grant
from tests.support.hub_actions import MemoryActions, event_in
from tests.support.pki import DAY, SECOND, Pki

ROUTERS = ("router-1", "router-2", "router-3", "router-4")
"""Those that are enrolled; `shape` says how many of them a plant has, and how they are connected."""
EDGES = ("edge-a", "edge-b", "edge-c")
ASSETS = {"plc-b": "edge-b", "plc-c": "edge-c"}
"""Each asset, and the edge that hosts it."""
PEOPLE = "hmi"
ASSET_PORT = 502
TIMES = ((20.0, 15.0), (3.0, 2.0))
"""Seconds after which a grant wants to be refreshed, and that it holds beyond that while the controller is away: so short
that a run sees the one, and with the second of them both ends.
"""
LIVES = (20 * SECOND, 60 * SECOND, 10 * DAY)
"""Of certificates that were renewed."""
LISTENERS = {
    "edge-a": (("plc-b.modbus", 15_001), ("plc-c.modbus", 15_002)),
    "edge-c": (("plc-b.modbus", 15_003),),
}
ZONES = {
    "edge-a": ("office",),
    "edge-c": ("line-2", "hall"),
    "plc-b": ("line-1", "hall"),
    "plc-c": ("line-2", "hall"),
}
"""Each zone with those above it, of whoever calls and of assets."""
TELEMETRY, TELEMETRY_PORT = "plc-b.telemetry", 15_004
"""Datagrams, at edge-a."""


def uses() -> Iterator[tuple[str, str]]:
    """(edge, service) of each listener."""
    for via, services in LISTENERS.items():
        for service, _ in services:
            yield via, service
    yield "edge-a", TELEMETRY


def assignments(name: str) -> Assignments:
    """What an edge listens for, and what it hosts."""
    listeners = tuple(
        ListenerEntry(service, f"0.0.0.0:{port}", name, 0)
        for service, port in LISTENERS.get(name, ())
    )
    hosted = tuple(
        HostedEntry(f"{asset}.modbus", asset, asset, ASSET_PORT, ASSET_PORT, 0)
        for asset, edge in ASSETS.items()
        if edge == name
    )
    if name == "edge-a":
        listeners += (ListenerEntry(TELEMETRY, f"0.0.0.0:{TELEMETRY_PORT}", name, 1),)
    if name == "edge-b":
        hosted += (HostedEntry(TELEMETRY, "plc-b", "plc-b", ASSET_PORT, ASSET_PORT, 1),)
    return Assignments(2, b"", listeners, hosted)


class Conduit(NamedTuple):
    """`via` may reach `service` until `end` (plant time in microseconds; 0: for ever)."""

    name: str
    via: str
    service: str
    end: int = 0
    integrity: int = 0


class Backup(NamedTuple):
    """Of a controller's folder."""

    decisions: tuple[int, int]
    """Versions of authority and map."""
    conduits: dict[str, Conduit]
    boot: int
    records: int


class Actions(MemoryActions):
    """Grants follow from conduits; remembers what was in force under each version of the authority."""

    def __init__(self, world: Any, pki: Pki | None = None) -> None:
        super().__init__(world, pki)
        self.conduits: dict[str, Conduit] = {}
        self.kills_at: dict[int, tuple[Kill, ...]] = {self.version: ()}
        self.withdrawn_at: dict[int, tuple[Withdrawal, ...]] = {self.version: ()}
        self.revoked_at: dict[int, tuple[str, ...]] = {self.version: ()}
        self.times = TIMES[0]
        self._leaves: dict[str, Leaf] = {}
        """The newest certificate of each node that has renewed."""
        self.lost: list[bytes] = []
        """Records of the log that a restore has lost."""

    def copy_of(self, other: MemoryActions, dials: Mapping[str, tuple[str, ...]]) -> None:
        """Go on with the nodes, tokens and log of another plant of the same keys; of its routers with those of `dials`."""
        self.credentials, self.boot = other.credentials, other.boot
        self.signers = self.pki.signers(self.credentials)
        for name, row in other.nodes.items():
            if row.role is not Role.ROUTER or name in dials:
                self.nodes[name] = type(row)(row.role, row.address, row.generation)
                self.nodes[name].dials = dials.get(name, ())
        self.version, self.map_version = other.version + 1, other.map_version + 1
        self.rewrite(other.leaves)
        self._known = dict(other._known)
        self.changed()

    @property
    def decisions(self) -> tuple[int, int]:
        """What a backup must not be older than."""
        return self.version, self.map_version

    def back_up(self) -> Backup:
        return Backup(self.decisions, dict(self.conduits), self.boot, len(self.leaves))

    def restore(self, backup: Backup) -> None:
        """As the folder was, while the controller is stopped."""
        assert backup.decisions == self.decisions, "nodes refuse what is older than they know"
        self.conduits, self.boot = dict(backup.conduits), backup.boot
        self.lost += self.leaves[backup.records :]
        self.rewrite(self.leaves[: backup.records])

    def events(self, node: str) -> list[Event]:
        """What the log holds of a node, or held before a restore."""
        there = super().events(node)
        known = {(one.generation, one.number) for one in there}
        for leaf in self.lost:
            one = event_in(leaf)
            if one.node == node and (one.generation, one.number) not in known:
                known.add((one.generation, one.number))
                there.append(one)
        return sorted(there, key=lambda one: one.number)

    def changed(self) -> None:
        self.version += 1
        self.kills_at[self.version] = self.kills
        self.withdrawn_at[self.version] = self.withdrawn
        self.revoked_at[self.version] = tuple(one.name for one in self.revoked)
        self.publish("authority", "policy")

    def revoke(self, name: str) -> None:
        self.revoked = (*self.revoked, Revocation(name, self.nodes[name].generation))
        self.changed()

    def set_kills(self, kills: tuple[Kill, ...]) -> None:
        self.kills = kills
        self.changed()

    def drain(self, name: str, draining: bool) -> None:
        """A router gets nothing new, or takes part again."""
        self.nodes[name].draining = draining
        self.map_version += 1
        self.publish("map", "policy")

    def allow(self, conduit: Conduit) -> None:
        self.conduits[conduit.name] = conduit
        self.publish("policy")

    def withdraw(self, name: str) -> None:
        del self.conduits[name]
        self.withdrawn = (*self.withdrawn, Withdrawal(name, self.now()))
        self.changed()

    async def renew(self, leaf: Leaf, csr: bytes) -> tuple[bytes, ...]:
        chain = await super().renew(leaf, csr)
        self._leaves[leaf.identity.name] = read_leaf(chain[0])
        self.publish("policy")
        return chain

    async def grants_for(self, leaf: Leaf) -> Sequence[Grant]:
        self._look()
        now, via = self.now(), leaf.identity.name
        put = []
        newest = self._leaves.get(via, leaf)
        keys = (leaf,) if newest.key_id == leaf.key_id else (leaf, newest)  # E-08
        for conduit, one in itertools.product(self.conduits.values(), keys):
            if conduit.via != via or 0 < conduit.end <= now:
                continue
            refresh, hold = self.times
            refresh_by = now + int(refresh * SECOND)
            hold_until = refresh_by + int(hold * SECOND)
            if conduit.end:
                refresh_by, hold_until = min(refresh_by, conduit.end), min(hold_until, conduit.end)
            asset = conduit.service.split(".")[0]
            grant = Grant(
                sha256(conduit.name.encode() + one.key_id).digest()[:16], conduit.name, one.key_id, via, via, conduit.service,
                asset, (ASSETS[asset],), int(conduit.service == TELEMETRY), conduit.integrity, now - SECOND, refresh_by, hold_until, conduit.end, 0, ZONES.get(via, ()), ZONES[asset], 1,
                leaf.generation,
            )  # fmt: skip
            put.append(grant)
        return put
