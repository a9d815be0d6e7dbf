"""What tells two states apart, and what tells people about one."""

from typing import Any

from overlay.crypto.checkpoint import CALLER
from overlay.wire.header import Header, Kind
from tests.model.ends import Ends
from tests.model.scenario import WHO, Item
from tests.model.stand_ins import meaning


def facts_of_state(state: Ends) -> tuple[Any, ...]:
    """By which two states are the same: everything on which the future depends.

    Numbers of control keys and generations count by their distance only: what one end uses next, from what the
    other takes next.
    """
    first = [0 if end.core is None else end.core._controls._opener.expected for end in state.ends]
    if not all(end.core is None or end.core.opened for end in state.ends):
        first = [0, 0]
    generation = 0 if state.host.core is None else state.host.core.generation
    ends = tuple(
        (
            end.hop, end.to_write, end.sent, end.got, end.unread, end.heard_end,
            end.core and facts_of(end.core, first[1 - end.role], generation),
        )
        for end in state.ends
    )  # fmt: skip
    hops = tuple(
        hop and (hop.alive, hop.waits, *hop.said, *hop.heard, *(
            tuple(_told(item, first[1 - role], generation) for item in wire)
            for role, wire in enumerate(hop.wires)
        ))
        for hop in state.hops
    )  # fmt: skip
    return (
        ends, hops, tuple(_told(item, first[CALLER], generation) for item in state.questions),
        tuple(state.left.values()), state.said > 1, state.accepted, state.known,
        state.restarted, state.acceptance.payload, state.acceptance.gone, state.first_accept,
    )  # fmt: skip


def told(state: Ends) -> str:
    """A state, for people."""
    lines = []
    for end in state.ends:
        if end.core is None:
            lines.append(f"{WHO[end.role]} dead")
            continue
        half, core = end.core._sending, end.core
        how = "over" if core.over else "suspended" if core.suspended else "running"
        where = "nowhere" if end.hop is None else f"on {end.hop}"
        lines.append(
            f"{WHO[end.role]} {how} {where}: sent {end.sent}, keeps {len(half._kept)}, got {end.got}"
        )
    for hop in state.hops:
        if hop is not None:
            ways = (
                f"{arrow} {' '.join(map(_short, wire)) or '-'}"
                for arrow, wire in zip(("→", "←"), hop.wires, strict=True)
            )
            lines.append(f"path {hop.number}{'' if hop.alive else ' (lost)'}: {'  '.join(ways)}")
    return " | ".join(lines)


COUNTED = frozenset(
    {
        # of the circuit
        "opened", "over", "finished", "suspended", "generation", "_linger", "_resume_until", "_answer_awaited",
        "_credit_at", "_acceptance", "_accepted", "_out", "_answer", "_first_credit", "_first_credit_hash", "_controls", "_sending", "_receiving",
        # of its halves
        "_acknowledged", "_kept", "_running", "_sealer", "_since", "closed", "deadline", "kept_bytes", "limit",
        "_consumed", "_due", "_opener", "_repeats", "_told_ack", "_told_limit", "closing",
    }
)  # fmt: skip
"""Attributes that `facts_of` tells apart."""
LEFT_OUT = frozenset(
    {
        "names", "role", "_signing", "_verifying", "_strict",  # never change
        "datagrams",  # none are sent
        "resumes",
        "resent",
        "_stalled",  # counts for people
        "_pace", "_window", "_memory", "_now",  # time stands still, so they never change
        "last",  # follows from what was sent and received
    }
)  # fmt: skip


def facts_of(core: Any, numbered_from: int, generation: int) -> tuple[Any, ...]:
    """One core."""
    half, other = core._sending, core._receiving
    first = core._first_credit
    return (
        core.opened, core.over and core.over.code, core.finished, core.suspended,
        core.generation - generation, core._linger is None, core._resume_until is None,
        core._answer_awaited, core._credit_at is None, core._answer is None,
        core._acceptance and core._acceptance.due, core._accepted is None, tuple(one.kind for one in core._out), first and (first.sequence, bytes(first.payload)),
        core._first_credit_hash, core._controls._sealer.sequence - numbered_from,
        half._acknowledged, len(half._kept), tuple(_kept_close(core.role, one) for one in half._kept), half._running.size, half._sealer.sequence, half._since,
        half.closed, half.deadline is None, half.limit,
        other._consumed, other._due, other._opener.expected, other._repeats, other._running.size,
        other._since, other._told_ack, other._told_limit, other.closing and other.closing.code,
    )  # fmt: skip


def _told(item: Item, numbered_from: int, generation: int) -> tuple[Any, ...]:
    if item.header is None:
        return (item.what,)
    if item.what == "ACCEPT":
        return (item.what, item.payload)
    if not item.meaning:
        return (item.what, item.header.sequence)
    if item.what == "CLOSE":
        return item.meaning
    what, number, *rest = item.meaning
    if item.what == "RESUME":
        rest[0] -= generation
    return (what, max(number - numbered_from, -1), *rest)


def _kept_close(role: int, frame: Any) -> tuple[Any, ...]:
    """What a kept frame says that its place does not."""
    if frame.kind is not Kind.CLOSE:
        return ()
    header = Header(frame.kind, frame.flags, len(frame.payload), 0, frame.sequence)
    return meaning(role, header, bytes(frame.payload))


def _short(item: Item) -> str:
    if item.header is None:
        return item.what
    said = item.meaning[2:] if item.meaning else (item.header.sequence,)
    return f"{item.what}({','.join(map(str, said))})"
