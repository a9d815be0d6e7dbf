"""Admission without a network: hosts, paths, transit, refreshed grants (G-01, G-03, F-11 to F-13, C-62, C-64)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.errors import Code, DecodeError, ProtocolError
from overlay.fabric.authority import Authority, Kill, Revocation
from overlay.fabric.paths import Attachments, Topology
from overlay.fabric.state import AuthorityState
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials, sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import Attachment, Open, OpenIntent, Resume, ResumeIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind
from router.admission import (
    CALLS_PER_EDGE,
    CONTROL_RESERVE,
    RESUMES_PER_EDGE,
    Admission,
    Admitted,
    Denied,
    Request,
    Source,
    read_request,
)
from tests.support.pki import NOW, Pki

PKI = Pki()
CONTROLLER, A, B, C = PKI.controller(), PKI.edge("edge-a"), PKI.edge("edge-b"), PKI.edge("edge-c")
R1, R2, R3 = (PKI.router(f"r{n}") for n in (1, 2, 3))
SERVICE = "plc-b.modbus"
MINUTE = 60_000_000


def grant(**changes: Any) -> bytes:
    signer: Credentials = changes.pop("signer", CONTROLLER)
    body: dict[str, Any] = {
        "id": b"g" * 16, "conduit": "c1", "caller_key": A.key.key_id, "who": "hmi-a", "via": "edge-a",
        "service": SERVICE, "asset": "plc-b", "hosts": ("edge-b", "edge-c"), "transport": 0, "integrity": 0,
        "not_before": NOW - MINUTE, "refresh_by": NOW + 10 * MINUTE, "hold_until": NOW + 60 * MINUTE, "end": 0,
        "max_session": 0, "who_zones": (), "asset_zones": (), "epoch": 1, "generation": 1,
    }  # fmt: skip
    return sign_body(Grant(**(body | changes)), signer.key, PKI.anchor, signer.chain)


class Here:
    """The admission of router r1, whose neighbours are r2 and, behind it, r3."""

    def __init__(self) -> None:
        self.signers = PKI.signers()
        self.authority = AuthorityState(self.signers)
        self.attachments = Attachments(self.signers)
        self.topology = Topology("r1")
        self.local: dict[str, Role] = {}
        self.rules = Admission("r1", self.signers, self.authority, self.attachments, self.topology)
        self._counter = 0

    def attach(self, node: Credentials, *routers: str, **changes: Any) -> None:
        assert node.leaf is not None
        self._counter += 1
        cost = changes.pop("cost", 1000)
        body = Attachment(
            node.leaf.identity.name, tuple((r, cost) for r in routers), 1, self._counter, NOW + MINUTE, **changes
        )  # fmt: skip
        self.attachments.offer(sign_body(body, node.key, PKI.anchor, node.chain), NOW)
        self.topology.update({"r2": 1000.0}, self.attachments, NOW)

    def fabric(self) -> None:
        self.attach(R1, "r2")
        self.attach(R2, "r1", "r3")
        self.attach(R3, "r2")

    def void(self, **lists: Any) -> None:
        body = Authority(1, NOW, lists.get("kills", ()), lists.get("revoked", ()), ())
        self.authority.offer(sign_body(body, CONTROLLER.key, PKI.anchor, CONTROLLER.chain), NOW)

    def judge(
        self, request: Request, source: Credentials | None = A, now: int = NOW, calls: int = 0
    ) -> Admitted | Denied:
        leaf = None if source is None else source.leaf
        name = "" if leaf is None else leaf.identity.name
        return self.rules.judge(request, Source(name, leaf, calls), self.local, now, now)


def opening(grant_bytes: bytes = b"", *, path=("edge-a",), route=(), **changes: Any) -> Request:
    intent: dict[str, Any] = {
        "circuit": b"c" * 16, "association": b"a" * 16, "number": 0, "service": SERVICE, "integrity": 0,
        "transport": 0, "random": b"r" * 32, "grant": grant_bytes,
    }  # fmt: skip
    body = Open(encode(OpenIntent(**(intent | changes))), b"", b"", route, path)
    return read_request(Kind.OPEN, memoryview(encode(body)))


def resume(
    grant_bytes: bytes, *, path=("edge-a",), route=(), host="edge-b", service=SERVICE
) -> Request:
    intent = ResumeIntent(b"c" * 16, b"a" * 16, 3, host, service, grant_bytes)
    return read_request(
        Kind.RESUME, memoryview(encode(Resume(encode(intent), b"s" * 40, route, path)))
    )


def route_of(verdict: Admitted | Denied) -> tuple[str, ...]:
    assert isinstance(verdict, Admitted), verdict
    return verdict.route


def code_of(verdict: Admitted | Denied) -> Code:
    assert isinstance(verdict, Denied), verdict
    return verdict.code


def test_the_nearest_host_is_chosen_and_one_that_is_down_comes_last():
    here = Here()
    here.fabric()
    here.attach(B, "r3")
    here.attach(C, "r2")
    assert route_of(here.judge(opening(grant()))) == ("r2", "edge-c")
    here.local = {"edge-b": Role.EDGE}
    assert route_of(here.judge(opening(grant()))) == ("edge-b",)
    here.attach(B, "r3", down=("plc-b",))
    assert route_of(here.judge(opening(grant()))) == ("r2", "edge-c")
    assert route_of(here.judge(opening(grant(), host="edge-b"))) == ("edge-b",)
    assert code_of(here.judge(opening(grant(), host="edge-z"))) is Code.BAD_GRANT


def test_of_two_hosts_the_nearer_one_hosts_wherever_it_is():
    """F-11: the first of the grant's is far, on a link here."""
    here = Here()
    here.fabric()
    here.attach(B, "r1", cost=150_000)
    here.local = dict.fromkeys(("edge-b", "edge-c"), Role.EDGE)
    here.attach(C, "r1")
    assert route_of(here.judge(opening(grant()))) == ("edge-c",)
    here.local = {"edge-b": Role.EDGE}
    here.attach(C, "r2")
    assert route_of(here.judge(opening(grant()))) == ("r2", "edge-c")
    here.attach(B, "r1", cost=2000)
    assert route_of(here.judge(opening(grant()))) == ("edge-b",)


def test_killed_hosts_are_passed_over_until_none_is_left():
    here = Here()
    here.local = dict.fromkeys(("edge-b", "edge-c"), Role.EDGE)
    here.void(kills=(Kill(b"k" * 16, "identity", "edge-b", "", 0, 0),))
    assert route_of(here.judge(opening(grant()))) == ("edge-c",)
    assert code_of(here.judge(opening(grant(), host="edge-b"))) is Code.KILLED
    assert code_of(here.judge(opening(grant(hosts=("edge-b",))))) is Code.KILLED


def test_grants_of_a_revoked_controller_and_to_a_revoked_caller_are_void():
    here = Here()
    here.local = {"edge-b": Role.EDGE}
    other = PKI.controller("other")
    bytes_of_other = grant(signer=other)
    assert route_of(here.judge(opening(bytes_of_other))) == ("edge-b",)
    here.void(revoked=(Revocation("other", 1), Revocation("edge-c", 1)))
    assert code_of(here.judge(opening(bytes_of_other))) is Code.BAD_GRANT
    verdict = here.judge(opening(grant(via="edge-c"), path=("edge-c",)), C)
    assert code_of(verdict) is Code.REVOKED


def test_an_association_needs_a_grant_but_for_no_certain_service():
    here = Here()
    here.local = {"edge-b": Role.EDGE}
    assert route_of(here.judge(opening(grant(), service="_associate"))) == ("edge-b",)
    assert code_of(here.judge(opening(service="_associate"))) is Code.NO_GRANT
    assert code_of(here.judge(opening(grant(via="edge-c"), service="_associate"))) is Code.BAD_GRANT


def test_a_resume_goes_to_its_host_and_a_host_may_ask_its_caller():
    here = Here()
    here.local = dict.fromkeys(("edge-a", "edge-b", "edge-c"), Role.EDGE)
    assert route_of(here.judge(resume(grant()))) == ("edge-b",)
    assert route_of(here.judge(resume(grant(), path=("edge-b",)), B)) == ("edge-a",)
    assert resume(grant()).counted_as(("edge-b",)) == "resumed"
    assert resume(grant(), path=("edge-b",)).counted_as(("edge-a",)) == "asked"
    assert opening(grant()).counted_as(("edge-b",)) == "admitted"
    assert code_of(here.judge(resume(grant(), path=("edge-c",)), C)) is Code.BAD_GRANT
    assert (
        code_of(here.judge(opening(grant(), path=("edge-b",), host="edge-b"), B)) is Code.BAD_GRANT
    )


def test_circuits_that_come_from_a_lost_router_count_against_a_limit_of_their_own():
    """C-62: an edge with as many calls as it may have by each of two routers loses none when one dies."""
    here = Here()
    here.local = {"edge-b": Role.EDGE}
    full = CALLS_PER_EDGE
    assert route_of(here.judge(opening(grant()), calls=full - 1)) == ("edge-b",)
    assert code_of(here.judge(opening(grant()), calls=full)) is Code.BUSY
    assert route_of(here.judge(resume(grant()), calls=full)) == ("edge-b",)
    assert route_of(here.judge(resume(grant()), calls=2 * full - 1)) == ("edge-b",)
    assert code_of(here.judge(resume(grant()), calls=RESUMES_PER_EDGE)) is Code.BUSY
    assert RESUMES_PER_EDGE < limits.CIRCUITS_PER_LINK, "one edge alone fills no link"


def test_whatever_an_edge_has_open_it_reaches_its_controller():
    """A kill, a grant, a certificate must not wait until programs hang up."""
    here = Here()
    here.local = {"controller": Role.CONTROLLER}
    control = opening(service="_control")
    assert route_of(here.judge(control, calls=CALLS_PER_EDGE)) == ("controller",)
    assert route_of(here.judge(control, calls=CALLS_PER_EDGE + CONTROL_RESERVE - 1)) == (
        "controller",
    )
    assert code_of(here.judge(control, calls=CALLS_PER_EDGE + CONTROL_RESERVE)) is Code.BUSY


def test_transit_follows_the_route_and_checks_the_grant_again():
    here = Here()
    request = opening(grant(), path=("edge-a", "r2"), route=("r1", "edge-b"))
    verdict = here.judge(request, R2)
    assert isinstance(verdict, Admitted)
    assert (verdict.route, verdict.path) == (("edge-b",), ("edge-a", "r2", "r1"))
    sent = decode(Open, request.passed_on(verdict.route, verdict.path))
    assert (sent.intent, sent.route, sent.path) == (
        request.body.intent,
        verdict.route,
        verdict.path,
    )
    expired = opening(grant(end=NOW), path=("edge-a", "r2"), route=("r1", "edge-b"))
    assert code_of(here.judge(expired, R2)) is Code.EXPIRED
    here.void(kills=(Kill(b"k" * 16, "identity", "edge-b", "", 0, 0),))
    assert code_of(here.judge(request, R2)) is Code.KILLED
    ending = opening(grant(), path=("edge-a", "r2"), route=("r1",))
    assert code_of(here.judge(ending, R2)) is Code.BAD_GRANT  # a router hosts nothing


@pytest.mark.parametrize(
    ("source", "path", "route"),
    [
        (A, (), ()), (A, ("edge-b",), ()), (A, ("edge-a", "edge-a"), ()), (A, ("edge-b", "edge-a"), ("r1", "edge-b")),
        (R2, ("edge-a", "r2"), ()), (R2, ("edge-a", "r2"), ("r3", "edge-b")), (R2, ("edge-a", "r3"), ("r1", "edge-b")),
        (R2, ("edge-a",), ("r1", "edge-b")), (R2, (), ("r1", "edge-b")),
    ],
)  # fmt: skip
def test_senders_that_lie_about_the_path_lose_their_link(source, path, route):
    with pytest.raises(ProtocolError):
        Here().judge(opening(grant(), path=path, route=route), source)


def test_paths_are_short_and_have_no_loops():
    here = Here()
    long = ("edge-a", *(f"x{n}" for n in range(limits.MAX_ROUTE - 1)), "r2")[-limits.MAX_ROUTE :]
    assert (
        code_of(here.judge(opening(grant(), path=long, route=("r1", "edge-b")), R2))
        is Code.NO_ROUTE
    )
    loop = ("edge-a", "r1", "r2")
    assert (
        code_of(here.judge(opening(grant(), path=loop, route=("r1", "edge-b")), R2))
        is Code.NO_ROUTE
    )


def test_control_reaches_any_controller_also_of_a_router_and_nobody_else():
    here = Here()
    ask = opening(service="_control")
    assert code_of(here.judge(ask)) is Code.NO_ROUTE
    here.fabric()
    here.attach(CONTROLLER, "r3")
    assert route_of(here.judge(ask)) == ("r2", "r3", "controller")
    assert route_of(here.judge(ask, None)) == ("r2", "r3", "controller")
    assert route_of(here.judge(opening(service="_control", path=("r2",)), R2))[-1] == "controller"
    here.local = {"edge-b": Role.EDGE}
    assert code_of(here.judge(opening(service="_control", host="edge-z"))) is Code.NO_ROUTE
    assert code_of(here.judge(opening(service="_control", host="edge-b"))) is Code.NO_ROUTE
    here.local = {"controller-2": Role.CONTROLLER}
    assert route_of(here.judge(ask)) == ("controller-2",)


def test_a_refreshed_grant_may_change_times_only():
    here = Here()
    old = here.rules.verify(grant(), NOW)
    later = here.rules.refresh(old, grant(hold_until=NOW + 90 * MINUTE), "edge-b", NOW, NOW)
    assert isinstance(later, Grant)
    for change in ({"who": "x"}, {"via": "edge-c"}, {"service": "y"}, {"transport": 1}, {"integrity": 1}, {"hosts": ("edge-c",)},
                   {"end": NOW}, {"signer": A}):  # fmt: skip
        assert isinstance(here.rules.refresh(old, grant(**change), "edge-b", NOW, NOW), Denied)
    assert isinstance(here.rules.refresh(old, b"\xc1", "edge-b", NOW, NOW), Denied)


@given(st.binary(max_size=300), st.sampled_from([Kind.OPEN, Kind.RESUME]))
def test_noise_is_a_decode_error(noise: bytes, kind: Kind):
    with pytest.raises(DecodeError):
        read_request(kind, memoryview(noise))


@given(st.data())
def test_mutated_requests_are_refused_or_admitted_but_never_crash(data):
    kind = data.draw(st.sampled_from([Kind.OPEN, Kind.RESUME]))
    request = opening(grant()) if kind is Kind.OPEN else resume(grant())
    raw = bytearray(encode(request.body))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    here = Here()
    here.local = {"edge-b": Role.EDGE}
    try:
        here.judge(read_request(kind, memoryview(raw)))
    except (DecodeError, ProtocolError):
        return
