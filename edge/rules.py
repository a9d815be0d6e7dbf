"""What this edge allows right now: the grant's own rules, the authority in force, and the local switch (A-06)."""

from collections.abc import Callable
from typing import Protocol

from edge.kill import LocalSwitch
from overlay.aio.circuit_driver import CircuitDriver
from overlay.errors import Code
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant
from overlay.policy.grant_check import Objection, check_grant, check_time, valid_until


class Authority(Protocol):
    """`overlay.fabric.state.AuthorityState`, as far as it is asked here."""

    def blocks(
        self,
        grant: Grant,
        now: int,
        *,
        circuit: bytes = b"",
        host: str | None = None,
        leaves: tuple[Leaf, ...] = (),
    ) -> Objection | None:
        """Why this grant may not be used now."""
        ...

    def next_withdrawal(self, now: int) -> int | None:
        """When the next listed conduit ends."""
        ...

    def next_restoring(self, now: int) -> int | None:
        """When the next kill is over."""
        ...


class Rules:
    """Implements `GrantCheck` for the endpoint, and judges circuits that run.

    Args:
        switch: the local kill switch; it comes before everything else.
        authority: the authority in force; asked only once the edge is enrolled.
        now: plant time in microseconds.
        refresh_binds: the authority is fresh and the grace of G-02 is over.
    """

    def __init__(
        self,
        switch: LocalSwitch,
        authority: Callable[[], Authority],
        now: Callable[[], int],
        refresh_binds: Callable[[], bool],
    ) -> None:
        self.switch = switch
        self.now = now
        self.refresh_binds = refresh_binds
        self.authority = authority

    def __call__(
        self,
        grant: Grant,
        *,
        key_id: bytes,
        via: str,
        service: str,
        transport: int,
        integrity: int,
        circuit: bytes,
        host: str | None,
    ) -> Objection | None:
        """GrantCheck."""
        return self.switch.objection() or check_grant(
            grant,
            key_id=key_id,
            via=via,
            service=service,
            transport=transport,
            integrity=integrity,
            circuit=circuit,
            host=host,
            now=self.now(),
            fresh=self.refresh_binds(),
            authority=self.authority(),
        )

    def judge(self, grant: Grant, stream: CircuitDriver) -> Objection | None:
        """May this circuit go on under this grant? All but what was settled when it was opened."""
        now = self.now()
        core = stream.core
        leaves = () if stream.peer is None else (stream.peer,)
        host = None if core is None else core.names.host
        objection = (
            self.switch.objection()
            or self.authority().blocks(
                grant, now, circuit=stream.circuit_id, host=host, leaves=leaves
            )
            or check_time(grant, now, fresh=self.refresh_binds())
        )
        if objection is None and now >= self._longest(grant, stream):
            objection = Code.MAX_SESSION, f"the longest session of conduit {grant.conduit} is over"
        return objection

    def doomed(self, grant: Grant) -> Objection | None:
        """The next withdrawal that is announced will void this grant: a caller moves before that (G-05)."""
        moment = self.authority().next_withdrawal(self.now())
        return None if moment is None else self.authority().blocks(grant, moment)

    def until(self, grant: Grant, stream: CircuitDriver) -> float:
        """When to judge again if nothing else happens; microseconds, plant time."""
        moment = min(valid_until(grant, fresh=self.refresh_binds()), self._longest(grant, stream))
        withdrawal = self.authority().next_withdrawal(self.now())
        return moment if withdrawal is None else min(moment, withdrawal)

    def next_change(self) -> float:
        """When time changes what stands against grants in general: a withdrawal comes, a kill is over; microseconds."""
        authority, now = self.authority(), self.now()
        moments = authority.next_withdrawal(now), authority.next_restoring(now)
        return min((one for one in moments if one is not None), default=float("inf"))

    def turns(self, grant: Grant) -> float:
        """When time next changes whether this grant holds by itself; microseconds, plant time."""
        now = self.now()
        moments = grant.not_before, valid_until(grant, fresh=self.refresh_binds())
        return min((one for one in moments if one > now), default=float("inf"))

    @staticmethod
    def _longest(grant: Grant, stream: CircuitDriver) -> float:
        """The end of the longest session (G-04)."""
        if not grant.max_session or not stream.started:
            return float("inf")
        return stream.started + grant.max_session * 1_000_000
