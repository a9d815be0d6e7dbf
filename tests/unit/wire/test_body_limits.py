"""Lists and texts in bodies: exactly as many as a limit allows are read, and one more is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from overlay import limits
from overlay.control.messages import Assignments, GrantUpdate, HostedEntry, ListenerEntry, Live
from overlay.errors import DecodeError
from overlay.fabric.authority import Authority, FabricMap, Revocation, RouterEntry, Withdrawal
from overlay.policy.grant import Grant
from overlay.wire.bodies import Attach, Attachment, Open, Refusal, Resume
from overlay.wire.codec import decode, encode

ID = b"i" * 16


def grant(**changes: Any) -> Grant:
    body: dict[str, Any] = {
        "id": ID, "conduit": "c1", "caller_key": b"k" * 32, "who": "hmi-a", "via": "edge-a",
        "service": "plc-b.modbus", "asset": "plc-b", "hosts": ("edge-b",), "transport": 0,
        "integrity": 0, "not_before": 0, "refresh_by": 1, "hold_until": 1, "end": 0,
        "max_session": 0, "who_zones": (), "asset_zones": (), "epoch": 1,
    }  # fmt: skip
    return Grant(**(body | changes))


FILLED: dict[str, tuple[int, Callable[[int], Any]]] = {
    "Refusal.reason": (limits.MAX_REASON, lambda n: Refusal(1, "r" * n)),
    "Open.intent": (limits.MAX_INTENT, lambda n: Open(b"i" * n, b"", b"")),
    "Resume.intent": (limits.MAX_INTENT, lambda n: Resume(b"i" * n, b"")),
    "Attach": (limits.ATTACHMENTS_PER_FRAME, lambda n: Attach((b"a",) * n)),
    "Attachment.down": (
        limits.ASSETS_DOWN,
        lambda n: Attachment("edge-a", (), 1, 1, 1, ("plc-b",) * n),
    ),
    "FabricMap": (limits.MAP_ROUTERS, lambda n: FabricMap(1, (RouterEntry("r", "r:1"),) * n)),
    "RouterEntry.dials": (limits.ROUTER_DIALS, lambda n: RouterEntry("r", "r:1", ("s",) * n)),
    "Authority.revoked": (
        limits.REVOCATIONS,
        lambda n: Authority(1, 1, (), (Revocation("edge-a", 1),) * n, ()),
    ),
    "Authority.withdrawn": (
        limits.REVOCATIONS,
        lambda n: Authority(1, 1, (), (), (Withdrawal("c1", 1),) * n),
    ),
    "Grant.hosts": (limits.GRANT_HOSTS, lambda n: grant(hosts=("edge-b",) * n)),
    "Grant.who_zones": (limits.GRANT_ZONES, lambda n: grant(who_zones=("cell",) * n)),
    "Grant.asset_zones": (limits.GRANT_ZONES, lambda n: grant(asset_zones=("cell",) * n)),
    "Assignments.listeners": (
        limits.ASSIGNED,
        lambda n: Assignments(1, b"", (ListenerEntry("plc-b.modbus", "a:1", "hmi-a", 0),) * n, ()),
    ),
    "Assignments.hosted": (
        limits.ASSIGNED,
        lambda n: Assignments(1, b"", (), (HostedEntry("plc-b.s7", "plc-b", "a", 1, 1, 0),) * n),
    ),
    "GrantUpdate.put": (limits.GRANTS_PER_UPDATE, lambda n: GrantUpdate(True, (b"g",) * n)),
    "GrantUpdate.drop": (limits.GRANTS_PER_UPDATE, lambda n: GrantUpdate(True, (), (ID,) * n)),
    "Live.circuits": (limits.LIVE_CIRCUITS, lambda n: Live(((ID, 1, 1),) * n)),
}


@pytest.mark.parametrize("what", FILLED)
def test_a_limit_is_filled_and_not_passed(what: str):
    most, make = FILLED[what]
    kind = type(make(0))
    assert decode(kind, encode(make(most))) == make(most)
    with pytest.raises(DecodeError):
        decode(kind, encode(make(most + 1)))
