"""A plant's certificates in a few lines, for tests of everything that signs and verifies."""

import hashlib

from overlay.identity.certificate import (
    Identity,
    Role,
    issue_leaf,
    make_issuing,
    make_root,
)
from overlay.identity.keys import SigningKey, new_ca_key
from overlay.identity.trust import Anchor, Credentials, Signers

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOW = 1_800_000_000 * SECOND
"""The plant time at which most tests begin."""


class Pki:
    """Root and issuing CA of one plant; makes credentials for nodes. Keys of nodes follow from their names."""

    def __init__(
        self, plant: str = "mill", *, start: int = NOW - DAY, life: int = 365 * DAY
    ) -> None:
        self.plant = plant
        self._root_key = new_ca_key()
        self._issuing_key = new_ca_key()
        self.root = make_root(plant, self._root_key, start, start + 10 * life)
        self.issuing = make_issuing(
            self.root, self._root_key, self._issuing_key, start, start + 5 * life
        )
        self.anchor = Anchor.of(self.root)
        self._serial = 0

    def key(self, name: str, number: int = 0) -> SigningKey:
        """The `number`th key of a node."""
        return SigningKey.generate(
            hashlib.sha256(f"{self.plant} {name} {number}".encode()).digest()
        )

    def chain(
        self,
        public: bytes,
        role: Role,
        name: str,
        *,
        generation: int = 1,
        start: int = NOW - DAY,
        end: int = NOW + 30 * DAY,
    ) -> tuple[bytes, bytes]:
        """A new certificate for a raw key, and its issuer's."""
        self._serial += 1
        leaf = issue_leaf(
            self.issuing, self._issuing_key, public, Identity(self.plant, role, name), generation,
            start, end, self._serial,
        )  # fmt: skip
        return leaf, self.issuing

    def node(
        self,
        role: Role,
        name: str,
        *,
        generation: int = 1,
        number: int = 0,
        start: int = NOW - DAY,
        end: int = NOW + 30 * DAY,
    ) -> Credentials:
        """Credentials of an enrolled node."""
        key = self.key(name, number)
        chain = self.chain(key.public, role, name, generation=generation, start=start, end=end)
        return Credentials.enrolled(self.anchor, key, chain)

    def controller(self, name: str = "controller") -> Credentials:
        """Credentials of a controller."""
        return self.node(Role.CONTROLLER, name)

    def router(self, name: str = "router-1") -> Credentials:
        """Credentials of a router."""
        return self.node(Role.ROUTER, name)

    def edge(self, name: str = "edge-a") -> Credentials:
        """Credentials of an edge."""
        return self.node(Role.EDGE, name)

    def signers(self, *known: Credentials, now: int = NOW) -> Signers:
        """A verifier of this plant that already knows some nodes."""
        signers = Signers(self.anchor)
        for one in known:
            signers.learn(one.chain, now)
        return signers
