"""Is a grant good for this circuit, here and now? (docs/protocol/circuit.md, G-01 to G-03).

The signature and the controller's role were checked before (`overlay.identity.trust.open_signed`); a grant of another
plant fails there. Routers, hosting edges and callers use the same rules, each with what it knows.
"""

from typing import Protocol

from overlay.errors import Code
from overlay.policy.grant import NO_END, Grant

Objection = tuple[Code, str]
"""Why not: what the other side is told, and one sentence for people."""


class Authority(Protocol):
    """What is void now (`overlay.fabric.state.AuthorityState`): kills, revocations and withdrawals."""

    def blocks(
        self, grant: Grant, now: int, *, circuit: bytes = b"", host: str | None = None
    ) -> Objection | None:
        """The objection that counts most (A-05, A-06), or None."""
        ...


def check_grant(  # noqa: PLR0913 - each is a rule, and named at every call
    grant: Grant,
    *,
    key_id: bytes | None,
    via: str,
    generation: int | None = None,
    service: str,
    transport: int,
    host: str | None = None,
    integrity: int | None = None,
    circuit: bytes = b"",
    now: int,
    fresh: bool,
    authority: Authority,
) -> Objection | None:
    """None when the grant holds, else the objection that counts most (A-06).

    `key_id` (SHA-256 of the raw public key) is that of the caller's leaf in the association; None on routers, which
    cannot know it, since a circuit may outlive a renewal. `via` and `generation` are those of the caller's leaf.
    `service`, `transport` and `integrity` are what its OPEN asks for, `host` the hosting edge where it is known,
    `circuit` the circuit's id where it has one: a kill may name it (A-05). What is None is not compared. `now` in
    microseconds, plant time. `fresh`: `refresh_by` binds; False on routers, while the authority is not fresh, and for
    `STALE_GRACE` after it is again (G-02).
    """
    objection = _another(
        grant,
        key_id=key_id,
        via=via,
        generation=generation,
        service=service,
        transport=transport,
        host=host,
        integrity=integrity,
    )
    return (
        objection
        or authority.blocks(grant, now, circuit=circuit, host=host)
        or check_time(grant, now, fresh=fresh)
    )


def _another(
    grant: Grant,
    *,
    key_id: bytes | None,
    via: str,
    generation: int | None,
    service: str,
    transport: int,
    host: str | None,
    integrity: int | None,
) -> Objection | None:
    """Whether it was given to somebody else, or for something else."""
    wrong = ""
    if grant.via != via:
        wrong = f"the grant is for {grant.via}, not for {via}"
    elif key_id is not None and grant.caller_key != key_id:
        wrong = f"the grant is for another key than the one of {via}"
    elif generation is not None and grant.generation != generation:
        wrong = f"the grant is for another enrolment of {via}"
    elif grant.service != service:
        wrong = f"the grant is for {grant.service}, not for {service}"
    elif grant.transport != transport:
        wrong = f"the grant for {service} is for another transport"
    elif integrity is not None and grant.integrity != integrity:
        wrong = f"the grant for {service} asks for another integrity"
    elif host is not None and host not in grant.hosts:
        wrong = f"the grant does not permit {host} to host {service}"
    return (Code.BAD_GRANT, wrong) if wrong else None


def check_time(grant: Grant, now: int, *, fresh: bool) -> Objection | None:
    """The time rule alone (G-02): every end is the first moment at which the grant no longer holds."""
    if now < grant.not_before:
        return Code.EXPIRED, f"the grant of {grant.who} for {grant.service} is not valid yet"
    if grant.end != NO_END and now >= grant.end:
        return Code.EXPIRED, f"conduit {grant.conduit} for {grant.service} has ended"
    if fresh and now >= grant.refresh_by:
        return Code.EXPIRED, f"the grant of {grant.who} for {grant.service} was not refreshed"
    if now >= grant.hold_until:
        return (
            Code.STALE,
            f"the controller has been away longer than conduit {grant.conduit} holds",
        )
    return None


def valid_until(grant: Grant, *, fresh: bool) -> int:
    """The first moment (microseconds) at which `check_time` objects, if nothing changes: when to look again."""
    end = min(grant.refresh_by, grant.hold_until) if fresh else grant.hold_until
    return end if grant.end == NO_END else min(end, grant.end)


def check_refresh(old: Grant, new: Grant, key_id: bytes | None = None) -> Objection | None:
    """Whether a circuit of `old` may go on under `new` (G-03), else why not.

    `key_id` is the caller's key in the circuit's association, None where it is not known (routers).
    """
    for field, words in _UNCHANGED.items():
        if getattr(old, field) != getattr(new, field):
            return Code.BAD_GRANT, f"the new grant for {old.service} has {words}"
    if key_id is not None and new.caller_key != key_id:
        return Code.BAD_GRANT, f"the new grant for {old.service} is for another key"
    return None


_UNCHANGED = {
    "who": "another principal",
    "via": "another edge that asserts it",
    "service": "another service",
    "transport": "another transport",
    "integrity": "another integrity",
}
