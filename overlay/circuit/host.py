"""Answering OPEN as the hosting side (docs/protocol/circuit.md, C-01 to C-17). The grant was checked before."""

import hashlib
from collections.abc import Callable

from overlay import limits
from overlay.circuit.acceptance import Acceptance
from overlay.circuit.association import HANDSHAKE_NUMBER, HostAssociation
from overlay.circuit.circuit import Circuit
from overlay.circuit.controls import Names
from overlay.circuit.events import Event
from overlay.circuit.frames import CREDIT_SIZE
from overlay.circuit.signatures import Signing, Verifying
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.crypto.circuit_keys import CircuitKeys, association_secret, early_open
from overlay.crypto.handshake import CIRCUIT, ENROL, PeerCertificate, Tls
from overlay.errors import ProtocolError, TamperError, TrustError
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Credentials
from overlay.policy.grant import Grant
from overlay.wire.bodies import ASSOCIATE_SERVICE, DATAGRAMS, STRICT, Accept, Open, OpenIntent
from overlay.wire.codec import encode
from overlay.wire.header import Flag, Header, Kind

HOST_RANDOM = 32
"""Random bytes that one answer takes."""


def digest_of(body: Open) -> bytes:
    """By which an identical OPEN is known again: intent, flight and early data; not route and path (C-15)."""
    hashes = (hashlib.sha256(part).digest() for part in (body.intent, body.flight, body.early))
    return hashlib.sha256(b"".join(hashes)).digest()


def check_caller(grant: Grant | None, leaf: Leaf | None, service: str, *, newcomers: bool) -> None:
    """Is the caller whom the grant names (C-02)? Without a grant (`_control`) every node may call, a newcomer
    where allowed.

    Raises:
        TrustError: it is not.
    """
    if leaf is None:
        if grant is not None or not newcomers:
            raise TrustError("the caller is not enrolled")
        return
    if grant is None:
        return
    identity = leaf.identity
    if identity.role is not Role.EDGE:
        raise TrustError(f"{identity.name} is a {identity.role}, and only an edge may use a grant")
    # Who asks what became of a circuit (C-62) may have renewed since, and that circuit's grants keep its key (E-08).
    same_key = leaf.key_id == grant.caller_key or service == ASSOCIATE_SERVICE
    if not same_key or identity.name != grant.via:
        raise TrustError(f"the grant is not for {identity.name} with this key")
    if leaf.generation != grant.generation:
        raise TrustError(f"the grant is for another enrolment of {identity.name}")


class HostHandshake:
    """The first circuit of an association, until the caller's last flight came (C-13).

    Args:
        credentials: of this node.
        body, intent: the OPEN.
        grant: None for `_control`.
        random: `HOST_RANDOM` fresh random bytes.
        plant_now: plant time in microseconds, for certificates.
        admit: raises a `FerruleError` for a caller that is revoked.
        newcomers: accept callers that are not enrolled, and expired leaves (controllers, for `_control`).

    Raises:
        TrustError, DecodeError: the flight is not the beginning of a handshake that may go on.
    """

    def __init__(
        self,
        credentials: Credentials,
        body: Open,
        intent: OpenIntent,
        grant: Grant | None,
        random: bytes,
        *,
        plant_now: int,
        admit: Callable[[PeerCertificate], None],
        newcomers: bool = False,
    ) -> None:
        if intent.number != HANDSHAKE_NUMBER or body.early:
            raise TrustError(
                "a handshake comes with the first circuit of an association and without early data"
            )
        self.intent = intent
        self.grant = grant
        self.digest = digest_of(body)
        self._credentials = credentials
        self._hash = hashlib.sha256(body.intent).digest()
        self._random = random
        self._admit = admit
        self._newcomers = newcomers
        self.tls = Tls(
            credentials,
            server=True,
            alpn=CIRCUIT,
            now=plant_now,
            admit=self._admit_caller,
            accept_self_signed=newcomers,
            expired_leaf_ok=newcomers,
            alpns=(ENROL,) if newcomers else (),
        )
        self.tls.receive(body.flight)
        self.accept = encode(Accept(random, self.tls.pending()))
        """ACCEPT, the same for every identical OPEN."""

    def complete(
        self, header: Header, payload: memoryview, now: float
    ) -> tuple[Circuit, HostAssociation, list[Event]]:
        """The caller's first CREDIT, with its last flight: from here on the caller is known.

        Raises:
            TrustError, TamperError, ProtocolError, DecodeError: something does not hold; nothing was executed.
        """
        if header.kind is not Kind.CREDIT or not header.flags & Flag.FLIGHT:
            raise ProtocolError(f"{header.kind.name} came before the handshake was done")
        self.tls.receive(payload[CREDIT_SIZE:])
        if not self.tls.done:
            raise TrustError("the caller did not finish the handshake")
        association = HostAssociation(
            self.intent.association,
            association_secret(self.tls),
            self.tls.peer,
            self.tls.peer_public,
            self._credentials,
            self.tls.group,
            now + limits.ASSOCIATION_LIFE,
        )
        circuit = _circuit(association, self.intent, self._hash, self._random)
        events = circuit.open_credit(header, payload, now)
        acceptance = Acceptance(self._random, due=True, payload=self.accept)
        association.remember(HANDSHAKE_NUMBER, self.digest, acceptance)
        return circuit, association, events

    def _admit_caller(self, peer: PeerCertificate) -> None:
        if (peer.leaf is None) is not (peer.alpn == ENROL):
            raise TrustError("only who is not enrolled asks for enrolment")
        check_caller(self.grant, peer.leaf, self.intent.service, newcomers=self._newcomers)
        self._admit(peer)


def open_from(
    association: HostAssociation, body: Open, intent: OpenIntent, random: bytes
) -> tuple[Circuit, bytes]:
    """A later circuit of a living association, which says ACCEPT, and the early data (C-12).

    The caller's identity against the grant (C-02) and the number (C-15) are checked by who calls this, before.

    Raises:
        TamperError: the early data does not authenticate. ProtocolError: what a later circuit must not have.
    """
    digest = hashlib.sha256(body.intent).digest()
    early = _early(association, body, intent, digest)
    if early and intent.integrity == STRICT:
        raise ProtocolError("early data in strict integrity")
    if early and intent.transport == DATAGRAMS:
        raise ProtocolError("early data in a circuit for datagrams")
    circuit = _circuit(association, intent, digest, random)
    if early:
        circuit.early_received(early, body.early)
    acceptance = Acceptance(random, due=not early)
    circuit.accept(acceptance)
    association.remember(intent.number, digest_of(body), acceptance)
    return circuit, early


def check_late(association: HostAssociation, body: Open, intent: OpenIntent) -> None:
    """An OPEN that is older than the window (C-15): did the caller make it? Then it lost its way for a while, and the
    caller has given it up. That of the handshake has no seal, and nothing comes of it.

    Raises:
        TamperError, ProtocolError: somebody else made it.
    """
    if intent.number != HANDSHAKE_NUMBER or not body.flight:
        _early(association, body, intent, hashlib.sha256(body.intent).digest())


def _early(association: HostAssociation, body: Open, intent: OpenIntent, digest: bytes) -> bytes:
    """What is sealed in a later OPEN."""
    if body.flight:
        raise ProtocolError("a handshake in a circuit of a living association")
    if len(body.early) < limits.TAG_SIZE:
        raise TamperError("the OPEN is not sealed")
    return early_open(association.secret, intent.random, digest, body.early)


def _circuit(
    association: HostAssociation, intent: OpenIntent, digest: bytes, random: bytes
) -> Circuit:
    datagrams = intent.transport == DATAGRAMS
    keys = CircuitKeys.derive(
        association.secret, intent.random, random, digest, caller=False, datagrams=datagrams
    )
    own = association.own
    plant = own.anchor.digest
    names = Names(
        intent.circuit,
        association.id,
        intent.number,
        "" if own.leaf is None else own.leaf.identity.name,
        intent.service,
        intent.integrity,
        intent.transport,
    )
    return Circuit(
        names,
        HOST,
        keys,
        Signing(own.key, plant, intent.circuit, HOST),
        Verifying(association.caller_public, plant, intent.circuit, CALLER),
    )
