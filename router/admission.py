"""Which circuits a router lets pass, and which way (L-33, F-11 to F-13, G-01). Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from overlay import limits
from overlay.errors import Code, DecodeError, ProtocolError, TrustError
from overlay.fabric.paths import Places, Topology, choose_route
from overlay.fabric.state import AuthorityState
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Signers
from overlay.policy.grant import Grant
from overlay.policy.grant_check import check_grant, check_refresh
from overlay.policy.verified_grants import VerifiedGrants
from overlay.wire.bodies import (
    CONTROL_SERVICE,
    RIDERS,
    Open,
    OpenIntent,
    Resume,
    ResumeIntent,
)
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind

CALLS_PER_EDGE = limits.CIRCUITS_PER_LINK // 3
"""Circuits that one edge may have open through a router, so that none takes a host's places from all others."""
RESUMES_PER_EDGE = 2 * CALLS_PER_EDGE
"""The same for RESUME: what an edge has open by two routers fits on the one that stays (C-62). Two thirds of a link, so
that no edge alone fills one between two routers."""
CONTROL_RESERVE = 2
"""So many circuits to the controller have a place beyond: an edge whose programs took all others must still hear of a
kill, and have its grants and certificate renewed. The second while the first, lost elsewhere, is not known to be
gone."""


class Source(NamedTuple):
    """Who sent it. `leaf` is None for a newcomer; `calls` are the circuits that it has opened already."""

    name: str
    leaf: Leaf | None
    calls: int = 0

    def may_only_control(self, now: int) -> bool:
        """A newcomer, or a leaf after its end (E-03, I-05)."""
        return self.leaf is None or self.leaf.not_after < now

    @property
    def is_router(self) -> bool:
        """Another router: it may send what others opened."""
        return self.leaf is not None and self.leaf.identity.role is Role.ROUTER


class Request(NamedTuple):
    """An OPEN or RESUME, read."""

    kind: Kind
    body: Open | Resume
    intent: OpenIntent | ResumeIntent

    def counted_as(self, route: tuple[str, ...]) -> str:
        """What it was that passed on this route: a circuit that begins, one that goes on, or its host's question."""
        if self.kind is Kind.OPEN:
            return "admitted"
        return "resumed" if route[-1] == self.intent.host else "asked"

    def passed_on(self, route: tuple[str, ...], path: tuple[str, ...]) -> bytes:
        """The payload for the next hop: only `route` and `path` are the router's to change."""
        body = self.body
        if isinstance(body, Open):
            return encode(Open(body.intent, body.flight, body.early, route, path))
        return encode(Resume(body.intent, body.sealed, route, path))


class Admitted(NamedTuple):
    """The circuit may pass: `route` are the nodes still to visit, the host last; `grant` is None for `_control`."""

    grant: Grant | None
    route: tuple[str, ...]
    path: tuple[str, ...]


class Denied(NamedTuple):
    """It may not. `grant` is what was read before, for the audit; `security`: more than a matter of policy."""

    code: Code
    reason: str
    grant: Grant | None = None
    security: bool = False


def read_request(kind: Kind, payload: memoryview) -> Request:
    """Read an OPEN or RESUME.

    Raises:
        DecodeError: it is none.
    """
    if kind is Kind.OPEN:
        opening = decode(Open, payload)
        return Request(kind, opening, decode(OpenIntent, opening.intent))
    resume = decode(Resume, payload)
    return Request(kind, resume, decode(ResumeIntent, resume.intent))


class Admission:
    """The rules of one router."""

    def __init__(
        self,
        me: str,
        signers: Signers,
        authority: AuthorityState,
        attachments: Places,
        topology: Topology,
    ) -> None:
        self._me = me
        self._authority = authority
        self._attachments = attachments
        self._topology = topology
        self._verified = VerifiedGrants(signers, self._admit_signer)

    def judge(
        self, request: Request, source: Source, local: Mapping[str, Role], now: int, trust_now: int
    ) -> Admitted | Denied:
        """Whether and where a circuit goes.

        Args:
            request: what `read_request` gave.
            source: who sent it over which link.
            local: the nodes with a living link here, by name.
            now: plant time, microseconds.
            trust_now: the time for certificates (A-20).

        Raises:
            ProtocolError: the sender may not send this at all (L-33): its link ends.
        """
        body = request.body
        transit = source.is_router and body.path != (source.name,)
        self._check_sender(request, source, transit=transit)
        most = RESUMES_PER_EDGE if request.kind is Kind.RESUME else CALLS_PER_EDGE
        if request.intent.service == CONTROL_SERVICE:
            most += CONTROL_RESERVE
        if not source.is_router and source.calls >= most:
            return Denied(Code.BUSY, f"{source.name} has as many circuits open here as it may")
        path = (*(body.path if source.leaf is not None else ()), self._me)
        if len(path) > limits.MAX_ROUTE or self._me in body.path:
            return Denied(Code.NO_ROUTE, "the path is too long or comes back to a router")
        if request.intent.service == CONTROL_SERVICE:
            return self._judge_control(request, path, local, now, transit=transit)
        if not transit and source.may_only_control(trust_now):
            return Denied(
                Code.NOT_TRUSTED, "without a valid certificate only the controller is reached",
                security=True,
            )  # fmt: skip
        try:
            grant = self.verify(request.intent.grant, trust_now)
        except (DecodeError, TrustError) as error:
            if not request.intent.grant:
                return Denied(Code.NO_GRANT, f"there is no grant for {request.intent.service}")
            return Denied(Code.BAD_GRANT, str(error), security=True)
        return self._judge_granted(request, grant, source, path, local, now, transit=transit)

    def refresh(
        self, old: Grant, data: bytes, host: str, now: int, trust_now: int
    ) -> Grant | Denied:
        """Judge a refreshed grant that passes in CREDIT (G-03)."""
        try:
            new = self.verify(data, trust_now)
        except (DecodeError, TrustError) as error:
            return Denied(Code.BAD_GRANT, str(error), old, security=True)
        objection = check_refresh(old, new) or self._objection(new, new.via, None, host, now)
        return new if objection is None else Denied(*objection, new)

    def verify(self, data: bytes, now: int) -> Grant:
        """The grant in signed bytes.

        Raises:
            DecodeError, TrustError: it is none that an unrevoked controller of this plant signed.
        """
        return self._verified.open(data, now)

    def _admit_signer(self, leaf: Leaf) -> None:
        if self._authority.revoked(leaf):
            raise TrustError(f"the grant is signed by {leaf.identity.name}, which is revoked")

    def _check_sender(self, request: Request, source: Source, *, transit: bool) -> None:
        body = request.body
        if transit:
            if not body.route or body.route[0] != self._me:
                raise ProtocolError(f"{request.kind.name} is not on its way through this router")
            if not body.path or body.path[-1] != source.name:
                raise ProtocolError(
                    f"{request.kind.name} does not say that it passed {source.name}"
                )
        elif source.leaf is not None and body.path != (source.name,):
            raise ProtocolError(f"{request.kind.name} names another path than {source.name}")

    def _judge_control(
        self,
        request: Request,
        path: tuple[str, ...],
        local: Mapping[str, Role],
        now: int,
        *,
        transit: bool,
    ) -> Admitted | Denied:
        """`_control` needs no grant and goes to any controller (F-13)."""
        if transit:
            return self._onward(request, None, path)
        controllers = {name for name, role in local.items() if role is Role.CONTROLLER}
        controllers.update(self._attachments.controllers(now))
        wanted = request.intent.host
        if wanted and wanted not in controllers:
            return Denied(Code.NO_ROUTE, f"there is no controller {wanted} attached anywhere")
        hosts = (wanted,) if wanted else tuple(sorted(controllers))
        route = choose_route(hosts, "", self._attachments, self._topology, local, now)
        if route is None:
            return Denied(Code.NO_ROUTE, "no controller is attached anywhere")
        return Admitted(None, route, path)

    def _judge_granted(
        self,
        request: Request,
        grant: Grant,
        source: Source,
        path: tuple[str, ...],
        local: Mapping[str, Role],
        now: int,
        *,
        transit: bool,
    ) -> Admitted | Denied:
        intent = request.intent
        # The host of a circuit that lost its path asks the caller for a new one (C-64).
        asks = request.kind is Kind.RESUME and path[0] == intent.host and path[0] != grant.via
        host = intent.host or (request.body.route[-1] if transit and not asks else None)
        leaf = None if transit or asks or source.leaf is None else source.leaf
        via = grant.via if leaf is None else source.name
        objection = self._objection(
            grant, via, None if leaf is None else leaf.generation, host, now, intent
        )
        if objection is not None:
            return Denied(*objection, grant, security=objection[0] is Code.BAD_GRANT)
        if transit:
            return self._onward(request, grant, path)
        hosts: tuple[str, ...]
        ranks: tuple[int, ...] = ()
        weights: tuple[int, ...] = ()
        if asks:
            hosts = (grant.via,)
        elif intent.host:
            hosts = (intent.host,)
        else:
            hosts = self._authority.usable_hosts(grant, now)
            known = dict(zip(grant.hosts, grant.ranks, strict=False))
            ranks = tuple(known.get(one, 0) for one in hosts)
            known = dict(zip(grant.hosts, grant.weights, strict=False))
            weights = tuple(known.get(one, 0) for one in hosts)
        route = choose_route(
            hosts, grant.asset, self._attachments, self._topology, local, now, ranks, weights,
            _draw(intent.circuit),
        )  # fmt: skip
        if route is None:
            names = ", ".join(hosts)
            return Denied(
                Code.NO_ROUTE, f"no edge that hosts {grant.asset} is attached ({names})", grant
            )
        return Admitted(grant, route, path)

    def _objection(
        self,
        grant: Grant,
        via: str,
        generation: int | None,
        host: str | None,
        now: int,
        intent: OpenIntent | ResumeIntent | None = None,
    ) -> tuple[Code, str] | None:
        service, transport, integrity = grant.service, grant.transport, None
        if intent is not None and intent.service not in RIDERS:
            service = intent.service
            if isinstance(intent, OpenIntent):
                transport, integrity = intent.transport, intent.integrity
        return check_grant(
            grant,
            key_id=None,
            via=via,
            generation=generation,
            service=service,
            transport=transport,
            integrity=integrity,
            host=host,
            circuit=b"" if intent is None else intent.circuit,
            now=now,
            fresh=False,
            authority=self._authority,
        )

    def _onward(
        self, request: Request, grant: Grant | None, path: tuple[str, ...]
    ) -> Admitted | Denied:
        """Somebody else chose the route; this router takes itself off it."""
        route = request.body.route[1:]
        if not route:
            return Denied(Code.NO_ROUTE, "the route ends at a router", grant, security=True)
        return Admitted(grant, route, path)


def _draw(circuit: bytes) -> float:
    """A random number in [0, 1) that is the same for an OPEN that is repeated, at whichever router."""
    return int.from_bytes(circuit[8:14], "big") / (1 << 48)
