"""Why there must not be a circuit, told with words of its own: nothing here asks the code that it checks."""

from typing import TYPE_CHECKING, NamedTuple

from overlay.fabric.authority import Kill
from overlay.policy.grant import Grant

if TYPE_CHECKING:
    from tests.simulation.policy import Actions

CLOCK = 1_500_000
"""By how much a node's time may differ from the controller's: a slow answer of the controller (µs)."""
NEVER = 1 << 62


class _Judged(NamedTuple):
    """What was found for one circuit at one node, and for which facts. `why` holds at once, `later` from `due`; after
    `expires` it must be asked anew. Times in µs.
    """

    grant: Grant
    facts: tuple[int, bool, bool]
    why: str
    due: int
    later: str
    expires: int


class Void:
    """What nothing may be open under, by what arrived at a node and by the true time. It is asked after every step, so
    what was found is kept as long as nothing changes.
    """

    def __init__(self, actions: "Actions") -> None:
        self._actions = actions
        self._judged: dict[tuple[str, bytes], _Judged] = {}

    def why(
        self,
        node: str,
        circuit: bytes,
        grant: Grant,
        version: int,
        *,
        host: str,
        pulled: bool,
        now: int,
    ) -> str:
        """Why `grant` carries nothing at `node`, which knows this version of the authority; "" when nothing is wrong.

        Args:
            host: the edge at its end, once it has answered: before that nothing is open there. A caller that was without
                its controller may ask with a clock that is behind; who has the right time says no.
            pulled: somebody pulled the switch of this edge.
            now: the controller's time, µs.
        """
        one = self._judged.get((node, circuit))
        facts = (version, pulled, bool(host))
        if one is None or one.grant is not grant or one.facts != facts or now > one.expires:
            one = self._judged[node, circuit] = self._judge(node, circuit, grant, facts, host, now)
        return one.why or (one.later if host and now > one.due else "")

    def _judge(
        self,
        node: str,
        circuit: bytes,
        grant: Grant,
        facts: tuple[int, bool, bool],
        host: str,
        now: int,
    ) -> _Judged:
        version, pulled, _ = facts
        actions = self._actions
        whys, expires = ["the local switch is pulled"] if pulled else [], NEVER
        for kill in actions.kills_at.get(version, ()):
            ends = kill.until - CLOCK if kill.until else NEVER
            if now <= ends and _meant(kill, grant, circuit, host):
                whys.append(f"kill of {kill.level} {kill.name}")
                expires = min(expires, ends)
        revoked = actions.revoked_at.get(version, ())
        whys += [f"{name} is revoked" for name in revoked if name in {grant.via, node, host}]
        dues = [(grant.hold_until + CLOCK, "it is past hold-until")]
        if grant.end:
            dues.append((grant.end + CLOCK, "its conduit has ended"))
        for gone in actions.withdrawn_at.get(version, ()):
            if gone.conduit == grant.conduit:
                dues.append((gone.at + CLOCK, f"conduit {grant.conduit} was withdrawn"))
        due, later = min(dues)
        return _Judged(grant, facts, whys[0] if whys else "", due, later, expires)


def _meant(kill: Kill, grant: Grant, circuit: bytes, host: str) -> bool:
    return kill.name in {
        "plant": {kill.name},
        "zone": {*grant.who_zones, *grant.asset_zones},
        "service": {grant.service},
        "identity": {grant.who, grant.via, grant.asset, *(grant.hosts if host else ())},
        "circuit": {circuit.hex()},
    }[kill.level]  # fmt: skip
