"""Opening a circuit as its caller: with a handshake, or from a living association (docs/protocol/circuit.md,
C-01 to C-17).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from overlay import limits
from overlay.circuit.association import HANDSHAKE_NUMBER, CallerAssociation
from overlay.circuit.circuit import Circuit
from overlay.circuit.controls import Names
from overlay.circuit.events import Event
from overlay.circuit.signatures import Signing, Verifying
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.crypto.circuit_keys import CircuitKeys, association_secret, early_seal
from overlay.crypto.handshake import CIRCUIT, ENROL, PeerCertificate, Tls
from overlay.errors import Code, ProtocolError, TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.wire.bodies import DATAGRAMS, STRICT, Accept, Open, OpenIntent
from overlay.wire.codec import decode, encode

RANDOM_SIZE = 16 + 16 + 32
"""Random bytes that one opening takes: circuit, association, key exchange."""
REST = 15.0
"""So many seconds before an association may be over at its host a caller opens nothing with it any more: longer than an
OPEN is on its way, with all that repeats it, and clocks differ. Early data would else be lost to the program (C-16)."""

BELIEVED = frozenset(
    {
        Code.BUSY, Code.NO_GRANT, Code.BAD_GRANT, Code.EXPIRED, Code.KILLED, Code.REVOKED, Code.WITHDRAWN,
        Code.NO_ROUTE, Code.NOT_TRUSTED, Code.UNKNOWN_ASSOCIATION, Code.STALE, Code.LOCAL_KILL, Code.GOING_AWAY,
    }
)  # fmt: skip
"""Codes of a refusal in clear that mean what they say (C-14); any other one is no more than a failure to open."""


@dataclass(frozen=True)
class Wish:
    """What a caller wants. `hosts` are the names that may host it (empty: any controller, for `_control`)."""

    service: str
    grant: bytes
    hosts: tuple[str, ...]
    integrity: int
    transport: int
    port: int = 0
    enrol: bool = False
    address: bytes = b""


class CallerOpening:
    """One attempt; it may be said on several paths, always with the same intent, flight and early data (C-17).

    Args:
        wish: what is wanted.
        credentials: who asks.
        random: `RANDOM_SIZE` fresh random bytes.
        plant_now: plant time in microseconds, for certificates.
        admit: raises a `FerruleError` for a host that is revoked.
        association: a living one to use; None makes a new one with a handshake.
        early: early data; must be empty with a handshake, in strict integrity and for datagrams (C-12, C-44).
    """

    def __init__(
        self,
        wish: Wish,
        credentials: Credentials,
        random: bytes,
        *,
        plant_now: int,
        admit: Callable[[PeerCertificate], None],
        association: CallerAssociation | None = None,
        early: bytes = b"",
    ) -> None:
        if early and (
            association is None or wish.integrity == STRICT or wish.transport == DATAGRAMS
        ):
            raise ValueError("early data needs an association, normal integrity and a stream")
        self.wish = wish
        self.credentials = credentials
        self.association = association
        self.early = early
        self.circuit_id = random[:16]
        self.key_exchange = "" if association is None else association.key_exchange
        self.tls: Tls | None = None
        self._admit = admit
        self._random = random[32:]
        self._number = HANDSHAKE_NUMBER
        self._accept: bytes | None = None
        self._flight = b""
        self._sealed = b""
        self._said = 0
        name = random[16:32]
        host = ""
        if association is None:
            self.tls = Tls(
                credentials,
                server=False,
                alpn=ENROL if wish.enrol else CIRCUIT,
                now=plant_now,
                admit=self._admit_host,
            )
            self._flight = self.tls.pending()
        else:
            name, host = association.id, association.peer.identity.name
            self._number = association.take_number()
        self._association_id = name
        self._intent = encode(
            OpenIntent(
                self.circuit_id, name, self._number, wish.service, wish.integrity, wish.transport,
                self._random, wish.grant, host, wish.port, wish.address,
            )
        )  # fmt: skip
        self._hash = hashlib.sha256(self._intent).digest()
        if association is not None:
            self._sealed = early_seal(association.secret, self._random, self._hash, early)

    @property
    def number(self) -> int:
        """The circuit's number in its association."""
        return self._number

    @property
    def accepted(self) -> bool:
        """An ACCEPT was taken: keys exist."""
        return self._accept is not None

    def payload(self, route: tuple[str, ...], path: tuple[str, ...]) -> bytes:
        """OPEN for one path."""
        self._said += 1
        return encode(Open(self._intent, self._flight, self._sealed, route, path))

    def accept(self, payload: bytes, now: float) -> tuple[Circuit, CallerAssociation, list[Event]]:
        """Take ACCEPT: the circuit, its first frames ready, its association (usable for others after READY, C-04), and
        what came along (C-14).

        Raises:
            DecodeError, TrustError, TamperError, ProtocolError, LimitError: the host is not who it must be, or the
            ACCEPT is not one.
        """
        body = decode(Accept, payload)
        association, flight = self.association, b""
        if body.data and not body.ready:
            raise ProtocolError("data in an ACCEPT without READY")
        if association is None:
            if body.ready:
                raise ProtocolError("the host is ready before it knows who calls")
            association, flight = self._finish(body, now)
        elif body.flight:
            raise TrustError("the host answered with a handshake that nobody began")
        leaf = association.peer
        keys = CircuitKeys.derive(
            association.secret,
            self._random,
            body.random,
            self._hash,
            caller=True,
            datagrams=self.wish.transport == DATAGRAMS,
        )
        plant, me = self.credentials.anchor.digest, self.credentials.key
        circuit = Circuit(
            Names(
                self.circuit_id, self._association_id, self._number, leaf.identity.name,
                self.wish.service, self.wish.integrity, self.wish.transport,
            ),
            CALLER,
            keys,
            Signing(me, plant, self.circuit_id, CALLER),
            Verifying(leaf.public, plant, self.circuit_id, HOST),
        )  # fmt: skip
        if self.early:
            circuit.early_sent(self._sealed, now)
        events = circuit.accepted(body.ready, body.data, now) if body.ready else []
        if flight or self._said > 1:  # the host may have taken it on another path before (C-15)
            circuit.announce(flight)
        self._accept = payload
        self.association = association
        return circuit, association, events

    def answered(self) -> None:
        """READY came, so OPEN is never said again (C-17): what it carried takes no memory any more."""
        self.early = self._sealed = self._flight = b""

    def same(self, payload: bytes) -> bool:
        """Whether a repeated OPEN got the ACCEPT that it got before (C-15); if not, the host has begun anew,
        or is another.
        """
        return payload == self._accept

    def _finish(self, body: Accept, now: float) -> tuple[CallerAssociation, bytes]:
        tls = self.tls
        if tls is None:
            raise TrustError("there is no handshake to finish")
        tls.receive(body.flight)
        if not tls.done or tls.peer is None:
            raise TrustError("the host did not finish the handshake")
        self.key_exchange = tls.group
        own = self.credentials.leaf
        life = limits.ASSOCIATION_LIFE - REST
        association = CallerAssociation(
            self._association_id,
            association_secret(tls),
            tls.peer,
            own,
            tls.group,
            now + life,
        )
        return association, tls.pending()

    def _admit_host(self, peer: PeerCertificate) -> None:
        """C-02, as the caller."""
        check_host(self.wish, peer)
        self._admit(peer)


def check_host(wish: Wish, peer: PeerCertificate) -> None:
    """Is this the role and one of the names that may host it (C-02)?

    Raises:
        TrustError: it is not.
    """
    if peer.leaf is None:
        raise TrustError("the host is not enrolled")
    identity = peer.leaf.identity
    if not wish.hosts:
        if identity.role is not Role.CONTROLLER:
            raise TrustError(
                f"{identity.name} is a {identity.role}, and only a controller may answer"
            )
    elif identity.role is not Role.EDGE or identity.name not in wish.hosts:
        raise TrustError(f"the grant does not permit {identity.name} to host {wish.service}")


def believed(code: Code) -> Code:
    """What a refusal in clear before keys exist means (C-14)."""
    return code if code in BELIEVED else Code.NO_ROUTE
