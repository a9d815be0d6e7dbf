"""Lists and texts in bodies: exactly as many as a limit allows are read, and one more is refused."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from msgspec import inspect

from overlay import limits
from overlay.audit import event as events
from overlay.audit.event import MAX_DETAIL, MAX_TEXT, Event, EventName, Outcome
from overlay.audit.merkle import MAX_PROOF
from overlay.control import messages
from overlay.control.messages import (
    Assignments,
    BehindEntry,
    Current,
    Events,
    GrantUpdate,
    HostedEntry,
    InterceptEntry,
    ListenerEntry,
    Live,
    Proofs,
    Recorded,
    ServicePorts,
)
from overlay.errors import DecodeError
from overlay.fabric import authority
from overlay.fabric.authority import Authority, FabricMap, Revocation, RouterEntry, Withdrawal
from overlay.identity.fields import MAX_CERTIFICATE
from overlay.identity.trust import CHAIN_LENGTH
from overlay.policy import grant as grants
from overlay.policy.grant import Grant
from overlay.wire import bodies
from overlay.wire.bodies import Accept, Attach, Attachment, Open, Refusal, Resume
from overlay.wire.codec import Body, Signed, decode, encode
from overlay.wire.header import Header, Kind, decode_header

ID = b"i" * 16


def grant(**changes: Any) -> Grant:
    body: dict[str, Any] = {
        "id": ID, "conduit": "c1", "caller_key": b"k" * 32, "who": "hmi-a", "via": "edge-a",
        "service": "plc-b.modbus", "asset": "plc-b", "hosts": ("edge-b",), "transport": 0,
        "integrity": 0, "not_before": 0, "refresh_by": 1, "hold_until": 1, "end": 0,
        "max_session": 0, "who_zones": (), "asset_zones": (), "epoch": 1,
    }  # fmt: skip
    return Grant(**(body | changes))


def event(**changes: Any) -> Event:
    return Event("edge-a", 1, 1, EventName.LINK_UP, Outcome.DONE, **changes)


FILLED: dict[str, tuple[int, Callable[[int], Any]]] = {
    "Refusal.reason": (limits.MAX_REASON, lambda n: Refusal(1, "r" * n)),
    "Accept.ready": (limits.MAX_SEALED_READY, lambda n: Accept(b"r" * 32, b"", b"s" * n)),
    "Open.intent": (limits.MAX_INTENT, lambda n: Open(b"i" * n, b"", b"")),
    "Resume.intent": (limits.MAX_INTENT, lambda n: Resume(b"i" * n, b"")),
    "Attach": (limits.ATTACHMENTS_PER_FRAME, lambda n: Attach((b"a",) * n)),
    "Attach[]": (limits.MAX_ATTACHMENT, lambda n: Attach((b"a" * n,))),
    "Events[]": (limits.MAX_EVENT, lambda n: Events(1, 1, (b"e" * n,))),
    "Attachment.routers": (
        limits.ROUTERS_PER_NODE,
        lambda n: Attachment("edge-a", (("r", 1),) * n, 1, 1, 1),
    ),
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
    "Grant.ranks": (limits.GRANT_HOSTS, lambda n: grant(ranks=(1,) * n)),
    "Grant.weights": (limits.GRANT_HOSTS, lambda n: grant(weights=(1,) * n)),
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
    "HostedEntry.health": (
        limits.HEALTH_SECONDS,
        lambda n: HostedEntry("plc-b.s7", "plc-b", "a", 1, 1, 0, health=n),
    ),
    "InterceptEntry.addresses": (
        limits.INTERCEPT_ADDRESSES,
        lambda n: InterceptEntry("plc-b", 1, (), "hmi-a", 0, ("192.0.2.0/24",) * n),
    ),
    "InterceptEntry.services": (
        limits.ASSIGNED,
        lambda n: InterceptEntry("plc-b", 1, (ServicePorts("plc-b.s7", 1, 1, 0),) * n, "hmi-a", 0),
    ),
    "Assignments.intercepts": (
        limits.ASSIGNED,
        lambda n: Assignments(1, b"", (), (), (InterceptEntry("plc-b", 1, (), "hmi-a", 0),) * n),
    ),
    "Assignments.behind": (
        limits.ASSIGNED,
        lambda n: Assignments(1, b"", (), (), (), (BehindEntry("hmi-a", "", ""),) * n),
    ),
    "Live.routers": (limits.ROUTERS_PER_NODE, lambda n: Live((), ("r",) * n)),
    "Live.trips": (limits.ROUTERS_PER_NODE, lambda n: Live((), (), (1,) * n)),
    "Assignments.fabric": (limits.MAX_CONTROL, lambda n: Assignments(1, b"f" * n, (), ())),
    "Authority.head": (limits.MAX_HEAD, lambda n: Authority(1, 1, (), (), (), b"h" * n)),
    "Recorded.head": (limits.MAX_HEAD, lambda n: Recorded(1, 1, b"h" * n, ())),
    "Recorded.leaf": (
        limits.MAX_RECORD,
        lambda n: Recorded(1, 1, b"", ((0, b"l" * n, ()),)),
    ),
    "Recorded.proof": (MAX_PROOF, lambda n: Recorded(1, 1, b"", ((0, b"", (b"h" * 32,) * n),))),
    "Current": (limits.MAX_CONTROL, lambda n: Current(b"a" * n)),
    "Proofs[]": (MAX_PROOF, lambda n: Proofs(1, ((b"h" * 32,) * n,))),
    "Event.who": (MAX_TEXT, lambda n: event(who="w" * n)),
    "Event.detail": (MAX_DETAIL, lambda n: event(detail="d" * n)),
    "Live.circuits": (limits.LIVE_CIRCUITS, lambda n: Live(((ID, 1, 1),) * n)),
}


def test_the_largest_open_there_can_be_fits_in_its_frame_and_no_larger_frame_is_read():
    """L-10: everything that it holds at its own limit."""
    nodes = ("n" * 63,) * limits.MAX_ROUTE
    largest = encode(
        Open(
            b"i" * limits.MAX_INTENT,
            b"f" * limits.MAX_FLIGHT,
            b"e" * (limits.MAX_EARLY_DATA + limits.TAG_SIZE),
            nodes,
            nodes,
        )
    )
    assert limits.MAX_OPEN - 2048 < len(largest) <= limits.MAX_OPEN
    assert decode(Open, largest).path == nodes
    full = Header(Kind.OPEN, 0, limits.MAX_OPEN, 1, 0)
    assert decode_header(full.encode()) == full
    with pytest.raises(DecodeError, match="above the limit"):
        decode_header(full._replace(length=limits.MAX_OPEN + 1).encode())


@pytest.mark.parametrize("what", FILLED)
def test_a_limit_is_filled_and_not_passed(what: str):
    most, make = FILLED[what]
    kind = type(make(0))
    assert decode(kind, encode(make(most))) == make(most)
    with pytest.raises(DecodeError):
        decode(kind, encode(make(most + 1)))


def test_an_attachment_that_says_all_it_may_is_not_too_large():
    """F-10: signed, with the largest certificates."""
    names = "n" * 63
    full = Attachment(
        names, ((names, (1 << 32) - 1),) * limits.ROUTERS_PER_NODE, (1 << 63) - 1, (1 << 63) - 1, (1 << 63) - 1,
        (names,) * limits.ASSETS_DOWN,
    )  # fmt: skip
    chain = (bytes(MAX_CERTIFICATE),) * CHAIN_LENGTH
    signed = encode(Signed(Attachment.TYPE, encode(full), bytes(32), bytes(64), chain))
    assert limits.MAX_ATTACHMENT / 2 < len(signed) <= limits.MAX_ATTACHMENT
    assert decode(Attach, encode(Attach((signed,)))).attachments == (signed,)


def unbounded(kind: inspect.Type, path: str) -> Iterator[str]:
    """Texts, bytes and lists in a type that may have any length."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from unbounded(one, path)
    elif isinstance(kind, inspect.TupleType):
        for place, one in enumerate(kind.item_types):
            yield from unbounded(one, f"{path}.{place}")
    elif isinstance(kind, inspect.StrType | inspect.BytesType | inspect.CollectionType):
        pattern = getattr(kind, "pattern", None) or ""  # one of some words
        if kind.max_length is None and not (pattern.startswith("^(") and pattern.endswith(")$")):
            yield path
        if isinstance(kind, inspect.CollectionType):
            yield from unbounded(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.DictType):
        yield path  # no body of the wire has one


def test_no_text_and_no_list_of_a_body_has_any_length():
    """What carries a `Signed` bounds it as a whole."""
    found: list[str] = []
    seen = 0
    for module in (bodies, messages, authority, grants, events):
        for name, kind in vars(module).items():
            if (
                isinstance(kind, type)
                and issubclass(kind, Body)
                and kind.__module__ == module.__name__
            ):
                fields = cast("inspect.StructType", inspect.type_info(kind)).fields
                seen += len(fields)
                for field in fields:
                    found += unbounded(field.type, f"{name}.{field.name}")
    assert found == []
    assert seen > 150


def test_a_list_without_a_bound_is_found():
    class Loose(Body, frozen=True):
        names: tuple[str, ...]
        pairs: tuple[tuple[int, bytes], ...]

    fields = cast("inspect.StructType", inspect.type_info(Loose)).fields
    found = [one for field in fields for one in unbounded(field.type, field.name)]
    assert found == ["names", "names[]", "pairs", "pairs[].1"]
