"""What deciding costs in a plant of some size: the real action layer on a real store, and nothing travels."""

import time
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import update

from controller.actions import requests as r
from controller.hub.updates import REFRESH_AFTER, GrantLedger
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    Base,
    CertificateRow,
    ConduitRow,
    NameRow,
    NodeRow,
    PlantRow,
    ServiceRow,
)
from overlay.identity.certificate import Identity, Role, read_leaf
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from overlay.wire.codec import encode
from tests.simulation.growth.tables import milli
from tests.support.controllers import ADMIN, Controller, Node, controller

PERIOD = 5
"""Seconds in which every node asks once."""


class Decided(NamedTuple):
    """CPU seconds of the real action layer, most of them for one conduit more."""

    edges: int
    allow: float
    authority: float
    load: float
    first: float
    """What all nodes have to do and their grants, told for the first time."""
    change: float
    """The same after the conduit more."""
    refresh: float
    """When all grants have to be signed anew."""
    beat: float
    """Of one question for freshness and one report of what is live; each node sends both every 5 s."""
    assignments: int
    """Bytes for one edge."""


async def decided(edges: int, folder: Path) -> Decided:
    """A store with so many edges, an asset, a service and a conduit each."""
    async with controller(folder) as made:
        actions = made.actions
        await made.router()
        nodes = await filled(made, edges)
        ledgers = [GrantLedger() for _ in nodes]
        spent = time.process_time()
        await told(made, nodes, ledgers)
        first = time.process_time() - spent
        spent = time.process_time()
        await actions.allow(ADMIN, allowed(0, edges // 2))
        allow = time.process_time() - spent
        spent = time.process_time()
        await actions.authority()
        authority = time.process_time() - spent
        spent = time.process_time()
        await actions.snapshot()
        load = time.process_time() - spent
        size = len(encode(await actions.assignments_for(nodes[0].leaf)))
        spent = time.process_time()
        assert await told(made, nodes, ledgers) == 1
        change = time.process_time() - spent
        made.pass_(REFRESH_AFTER / 1e6)
        spent = time.process_time()
        assert await told(made, nodes, ledgers) == edges + 1
        refresh = time.process_time() - spent
        beat = await beats(made, nodes)
        return Decided(edges, allow, authority, load, first, change, refresh, beat, size)


async def told(made: Controller, nodes: list[Node], ledgers: list[GrantLedger]) -> int:
    """What the hub does for all nodes after a change; how many grants that signs."""
    actions, signed = made.actions, 0
    for node, ledger in zip(nodes, ledgers, strict=True):
        await actions.assignments_for(node.leaf)
        news = ledger.compare(await actions.grants_for(node.leaf), actions.now())
        grants = await actions.sign_grants(news.put)
        list(ledger.tell(news, grants))
        signed += len(grants)
    return signed


async def beats(made: Controller, nodes: list[Node]) -> float:
    """CPU seconds for one question and one report, each node in its turn within `PERIOD` seconds."""
    for node in nodes:
        await made.actions.node_live(node.leaf, ())
    spent = time.process_time()
    for second in range(PERIOD):
        made.pass_(1.0)
        for node in nodes[second::PERIOD]:
            await made.actions.authority_version()
            await made.actions.node_live(node.leaf, ())
    return (time.process_time() - spent) / len(nodes)


async def filled(made: Controller, edges: int) -> list[Node]:
    """Put enrolled edges into the store, each with what it hosts, listens at and may reach: by rows, since each action
    would read the plant anew."""
    actions, nodes, rows = made.actions, list[Node](), list[Base]()
    now = actions.now()
    for number in range(edges):
        name, asset, service = f"edge-{number}", f"plc-{number}", f"plc-{number}.modbus"
        key = SigningKey.generate(name.encode().ljust(32, b"e"))
        identity = Identity(actions.plant, Role.EDGE, name)
        chain = actions.pki.issue(key.public, identity, 1, now, number + 1)
        leaf = read_leaf(chain[0])
        nodes.append(Node(made, Credentials.enrolled(actions.anchor, key, chain)))
        rows += (
            NameRow(name=name, kind="edge"), NameRow(name=asset, kind="asset"),
            NodeRow(name=name, role="edge", generation=1, created=now),
            CertificateRow(
                fingerprint=leaf.fingerprint, key=leaf.key_id, name=name, role="edge", generation=1,
                not_after=leaf.not_after, der=leaf.der,
            ),
            AssetRow(name=asset, address="192.0.2.1"), AssetEdgeRow(asset=asset, edge=name),
            ServiceRow(
                name=service, asset=asset, protocol="modbus", port=502, port_end=502, transport="tcp"
            ),
            ConduitRow(
                id=f"c{number}", who=name, to=f"plc-{(number + 1) % edges}", protocol="modbus", until=0,
                max_session=0, hold=0, strict=False, reason="", by="ada", created=now,
            ),
        )  # fmt: skip
    async with made.store.write() as session:
        for kind in (
            NameRow,
            NodeRow,
            CertificateRow,
            AssetRow,
            AssetEdgeRow,
            ServiceRow,
            ConduitRow,
        ):
            session.add_all([row for row in rows if isinstance(row, kind)])
            await session.flush()
        await session.execute(update(PlantRow).values(conduits=edges))
    for node in nodes:
        actions.presence.connected(node.leaf.identity.name, "edge", 1, "0.1.0", 1, now)
    actions.publish("policy")
    return nodes


def allowed(number: int, other: int) -> r.Allow:
    """Edge `number` to the asset of another."""
    return r.Allow(who=f"edge-{number}", to=f"plc-{other}", protocol="modbus")


DECIDED = (
    "edges | one more conduit, CPU ms | reading the plant | signing the authority | all nodes told first | "
    "after the change | at refresh | question and report of one | assignments of one, bytes"
)


def decided_row(one: Decided) -> tuple[object, ...]:
    """Its line."""
    return (
        one.edges, *map(milli, (one.allow, one.load, one.authority, one.first, one.change, one.refresh)),
        f"{one.beat * 1000:.3f}", one.assignments,
    )  # fmt: skip
