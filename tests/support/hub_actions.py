"""An action layer in memory for tests of the hub and of nodes: what `controller.hub` needs, honest and small."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from overlay.aio.world import World
from overlay.audit.event import Event
from overlay.audit.merkle import (
    Frontier,
    NodeId,
    consistency_proof,
    leaf_hash,
)
from overlay.audit.proofs import Inclusions
from overlay.audit.record import event_of, make_record, read_leaf, signed_event
from overlay.audit.signing import EventReader
from overlay.control.messages import Assignments, Recorded
from overlay.errors import Code, FerruleError, TrustError
from overlay.fabric.authority import Authority, FabricMap, Kill, Revocation, RouterEntry, Withdrawal
from overlay.identity.certificate import Leaf, Role, read_csr
from overlay.identity.enrolment import Token, check_proof, token_key
from overlay.identity.trust import Credentials, sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import TreeHead
from tests.support.pki import DAY, SECOND, Pki


class RouterRow(NamedTuple):
    name: str
    address: str
    enrolled: bool
    newcomer: bool


@dataclass
class TokenRow:
    key: bytes
    role: Role
    name: str
    generation: int
    expires: int
    owner: bytes = b""
    spent: bool = False


@dataclass
class NodeRow:
    role: Role
    address: str = ""
    generation: int = 0
    dials: tuple[str, ...] = ()
    draining: bool = False
    connected: int = 0
    links: tuple[str, ...] = ()
    live: tuple[tuple[bytes, int, int], ...] = ()
    boots: list[int] = field(default_factory=list)


class News:
    """`Subscription`."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.event = asyncio.Event()

    async def wait(self) -> frozenset[str]:
        await self.event.wait()
        self.event.clear()
        topics, self.topics = frozenset(self.topics), set()
        return topics

    def close(self) -> None:
        self.topics.clear()
        self.event.set()


@lru_cache(4096)
def event_in(leaf: bytes) -> Event:
    """Of a record in the log."""
    return event_of(signed_event(read_leaf(leaf)))


class MemoryActions:
    """`HubActions`. It outlives a controller's crash in a test, as a database would."""

    def __init__(self, world: World, pki: Pki | None = None) -> None:
        self.pki = pki or Pki()
        self.world = world
        self.boot = 1
        self.credentials = self.pki.controller()
        self.signers = self.pki.signers(self.credentials)
        self.nodes: dict[str, NodeRow] = {}
        self.faults: list[tuple[str, Code, str]] = []
        self.tokens: dict[bytes, TokenRow] = {}
        self.kills: tuple[Kill, ...] = ()
        self.revoked: tuple[Revocation, ...] = ()
        self.withdrawn: tuple[Withdrawal, ...] = ()
        self.version = 1
        self.map_version = 1
        self.assignments: dict[str, Assignments] = {}
        self.grants: dict[str, list[Grant]] = {}
        self.leaves: list[bytes] = []
        self.questions: list[tuple[tuple[int, ...], int]] = []
        """Sizes for which somebody wanted a consistency proof."""
        self.away = False
        """The store cannot be reached."""
        self.life = 10 * DAY
        self._tree = Frontier()
        self._tree_nodes: dict[NodeId, bytes] = {}
        self._known: dict[tuple[str, int, int], int] = {}
        self._news: list[News] = []

    # --- what a test does ---------------------------------------------------------------------------

    def publish(self, *topics: str) -> None:
        for news in self._news:
            news.topics.update(topics)
            news.event.set()

    def add_router(self, name: str, address: str) -> str:
        self.nodes[name] = NodeRow(Role.ROUTER, address)
        self.map_version += 1
        text = self.make_token(name)
        self.publish("map", "policy")
        return text

    def add_edge(self, name: str) -> str:
        self.nodes[name] = NodeRow(Role.EDGE)
        return self.make_token(name)

    def make_token(self, name: str, life: int = DAY) -> str:
        node = self.nodes[name]
        secret, token = self.world.entropy.bytes(32), self.world.entropy.bytes(16)
        expires = self.now() + life
        generation = 1 + max(
            [node.generation, *(row.generation for row in self.tokens.values() if row.name == name)]
        )
        self.tokens[token] = TokenRow(token_key(secret), node.role, name, generation, expires)
        routers = tuple(one.address for one in self.nodes.values() if one.role is Role.ROUTER)
        self.publish("presence")
        return Token(
            self.pki.plant, node.role, name, token, secret, self.pki.root, routers, expires
        ).encode()

    def kill(self, *kills: Kill) -> None:
        self.kills = kills
        self.version += 1
        self.publish("authority")

    def revoke(self, name: str) -> None:
        self.revoked = (*self.revoked, Revocation(name, self.nodes[name].generation))
        self.version += 1
        self.publish("authority", "policy")

    def events(self, node: str) -> list[Event]:
        """What the log holds of a node, in the order of its numbers."""
        found = [event_in(leaf) for leaf in self.leaves]
        return sorted((one for one in found if one.node == node), key=lambda one: one.number)

    def check_log(self) -> None:
        """No event of any node is missing or twice."""
        for name in self.nodes:
            for generation in {one.generation for one in self.events(name)}:
                numbers = [o.number for o in self.events(name) if o.generation == generation]
                assert numbers == list(range(1, len(numbers) + 1)), (name, numbers)

    # --- HubActions ---------------------------------------------------------------------------------

    def now(self) -> int:
        return self.world.clock.wall()

    def subscribe(self) -> News:
        self._news.append(News())
        return self._news[-1]

    def _look(self) -> None:
        if self.away:
            raise FerruleError("the store is away")

    async def check_leaf(self, leaf: Leaf) -> None:
        self._look()
        for entry in self.revoked:
            if entry.name == leaf.identity.name and leaf.generation <= entry.generation:
                raise TrustError(f"{entry.name} is revoked")
        if leaf.identity.name not in self.nodes:
            raise TrustError("unknown node")

    async def authority(self) -> bytes:
        self._look()
        body = Authority(
            self.version, self.now(), self.kills, self.revoked, self.withdrawn, self.head()
        )
        return self._sign(body)

    async def authority_version(self) -> int:
        self._look()
        return self.version

    async def fabric_map(self) -> bytes:
        self._look()
        entries = tuple(
            RouterEntry(name, node.address, node.dials, node.draining)
            for name, node in self.nodes.items()
            if node.role is Role.ROUTER
        )
        return self._sign(FabricMap(self.map_version, entries))

    async def routers_to_dial(self) -> Sequence[RouterRow]:
        self._look()
        return [
            RouterRow(
                name,
                node.address,
                node.generation > 0 and not self._revoked(name),
                self._has_token(name),
            )
            for name, node in self.nodes.items()
            if node.role is Role.ROUTER and (self._has_token(name) or not self._revoked(name))
        ]

    def _has_token(self, name: str) -> bool:
        return any(
            row.name == name and not row.spent and row.expires > self.now()
            for row in self.tokens.values()
        )

    def _revoked(self, name: str) -> bool:
        return any(
            one.name == name and self.nodes[name].generation <= one.generation
            for one in self.revoked
        )

    async def assignments_for(self, leaf: Leaf) -> Assignments:
        self._look()
        given = self.assignments.get(leaf.identity.name)
        fabric = await self.fabric_map()
        if given is None:
            return Assignments(1, fabric, (), ())
        return Assignments(given.version, fabric, given.listeners, given.hosted)

    async def grants_for(self, leaf: Leaf) -> Sequence[Grant]:
        self._look()
        now = self.now()
        grants = []
        for grant in self.grants.get(leaf.identity.name, []):
            values = {name: getattr(grant, name) for name in grant.__struct_fields__}
            values |= {
                "caller_key": leaf.key_id, "generation": leaf.generation,
                "refresh_by": now + 600 * SECOND, "hold_until": now + 3600 * SECOND,
            }  # fmt: skip
            grants.append(Grant(**values))
        return grants

    async def sign_grants(self, grants: Sequence[Grant]) -> Sequence[bytes]:
        return [sign_body(grant, self.credentials.key, self.pki.anchor) for grant in grants]

    async def record_events(
        self,
        leaf: Leaf,
        first: int,
        events: Sequence[bytes],
        chain: Sequence[bytes] = (),
        makes: int = 0,
    ) -> Recorded:
        self._look()
        if chain:
            self.signers.learn(chain, self.now(), expired_leaf_ok=True)
        indexes, reader = [], EventReader(self.signers)
        for place, signed in enumerate(events):
            event, signer = reader.open(signed, self.now(), name=leaf.identity.name)
            assert (event.number, event.generation) == (first + place, signer.generation)
            key = (event.node, event.generation, event.number)
            if key not in self._known:
                self._known[key] = len(self.leaves)
                record = make_record(len(self.leaves) + 1, signed)
                self.leaves.append(record.leaf())
                self._tree_nodes.update(self._tree.append(record.hash()))
            indexes.append(self._known[key])
        return Recorded(0, first, self.head(), tuple(
            (index, self.leaves[index],
             tuple(Inclusions([index], len(self.leaves)).proofs(self._tree_nodes.__getitem__)[0]))
            for index in indexes
        ))  # fmt: skip

    def head(self) -> bytes:
        return self._sign(TreeHead(len(self.leaves), self._tree.root(), self.now()))

    async def prove_growth(self, sizes: Sequence[int], size: int) -> list[list[bytes]]:
        self._look()
        if size > len(self.leaves):
            raise TrustError(f"the log has {len(self.leaves)} records, not {size}")
        self.questions.append((tuple(sizes), size))
        return [consistency_proof(one, size, self._tree_nodes.__getitem__) for one in sizes]

    def rewrite(self, leaves: Sequence[bytes]) -> None:
        """A controller that lies: from now on this is the log, and always was."""
        self.leaves, self._tree, self._tree_nodes = list(leaves), Frontier(), {}
        for leaf in leaves:
            self._tree_nodes.update(self._tree.append(leaf_hash(leaf)))
        self._known = {key: index for key, index in self._known.items() if index < len(leaves)}

    async def redeem_token(
        self, token: bytes, csr: bytes, proof: bytes, exporter: bytes, peer_public: bytes
    ) -> tuple[bytes, ...]:
        self._look()
        row = self.tokens.get(token)
        if row is None or row.expires < self.now() or row.spent:
            raise TrustError("the token is not valid")
        check_proof(row.key, row.role, exporter, csr, proof)
        if read_csr(csr) != peer_public or row.owner not in {b"", peer_public}:
            raise TrustError("the token is not valid")
        row.owner = peer_public
        self.nodes[row.name].generation = row.generation
        self.publish("presence", "map", "policy")
        return self._issue(peer_public, row.role, row.name, row.generation)

    def _issue(self, public: bytes, role: Role, name: str, generation: int) -> tuple[bytes, ...]:
        now = self.now()
        return self.pki.chain(
            public, role, name, generation=generation, start=now - SECOND, end=now + self.life
        )

    async def renew(self, leaf: Leaf, csr: bytes) -> tuple[bytes, ...]:
        self._look()
        await self.check_leaf(leaf)
        return self._issue(read_csr(csr), leaf.identity.role, leaf.identity.name, leaf.generation)

    async def node_connected(self, leaf: Leaf, version: str, boot: int) -> None:
        self._look()
        node = self.nodes[leaf.identity.name]
        node.connected += 1
        node.boots.append(boot)
        for row in self.tokens.values():
            if (row.name, row.generation) == (leaf.identity.name, leaf.generation):
                row.spent = True

    async def node_disconnected(self, leaf: Leaf, reason: str) -> None:
        self.nodes[leaf.identity.name].connected -= 1

    async def link_fault(self, router: str, code: Code, reason: str) -> None:
        self.faults.append((router, code, reason))

    def node_links(self, name: str, routers: Sequence[str], trips: Sequence[int] = ()) -> None:
        self.nodes[name].links = tuple(routers)

    async def node_live(self, leaf: Leaf, circuits: Sequence[tuple[bytes, int, int]]) -> None:
        self._look()
        self.nodes[leaf.identity.name].live = tuple(circuits)

    def _sign(self, body: Authority | FabricMap | TreeHead) -> bytes:
        one: Credentials = self.credentials
        return sign_body(body, one.key, self.pki.anchor, one.chain)
