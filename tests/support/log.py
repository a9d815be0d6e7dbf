"""A small audit log made by the real code, for tests of what reads one."""

from overlay.audit.event import Event, EventName, Outcome
from overlay.audit.merkle import Frontier, leaf_hash
from overlay.audit.record import make_record
from overlay.identity.certificate import Role
from overlay.identity.trust import sign_body
from overlay.wire.bodies import TreeHead
from tests.support.pki import NOW, SECOND, Pki


class Log:
    """Records of one edge's events, and a controller that signs heads over them."""

    def __init__(self, pki: Pki, size: int, *, node: str = "edge-a") -> None:
        self.pki = pki
        self.controller = pki.key("controller-1")
        self.controller_chain = pki.chain(self.controller.public, Role.CONTROLLER, "controller-1")
        self.edge = pki.key(node)
        self.edge_chain = pki.chain(self.edge.public, Role.EDGE, node)
        self.events = [
            Event(
                node=node,
                number=number,
                time=NOW + number * SECOND,
                event=EventName.CIRCUIT_OPEN,
                outcome=Outcome.DENIED,
                who="hmi-a",
                via=node,
                service="plc-b.modbus",
                reason="no conduit — größer",
                generation=1,
            )
            for number in range(1, size + 1)
        ]
        # the first event brings the certificate by which the later ones are verified
        self.signed = [
            sign_body(event, self.edge, pki.anchor, self.edge_chain if event.number == 1 else ())
            for event in self.events
        ]
        self.records = [
            make_record(seq, signed, asset="plc-b", address="10.0.0.5:502")
            for seq, signed in enumerate(self.signed, start=1)
        ]
        self.leaves = [record.leaf() for record in self.records]

    def head(self, leaves: list[bytes] | None = None, *, time: int = NOW + 60 * SECOND) -> bytes:
        """A signed head over the leaves (all of them unless said otherwise)."""
        tree = Frontier()
        for leaf in self.leaves if leaves is None else leaves:
            tree.append(leaf_hash(leaf))
        body = TreeHead(tree.size, tree.root(), time)
        return sign_body(body, self.controller, self.pki.anchor, self.controller_chain)
