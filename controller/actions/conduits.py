"""What is allowed: `ferrule allow`, `deny` and `why`."""

from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.core import Work
from controller.actions.errors import Conflict, Invalid, NotFound, TooMany, Unsupported
from controller.actions.roles import Permission
from controller.actions.views import Views
from controller.store.restrictions import load_restrictions
from controller.store.snapshot import conduit_of, fresh_tokens, revocations
from controller.store.tables import CircuitRow, ConduitRow, NodeRow, PlantRow
from overlay import limits
from overlay.audit.event import EventName
from overlay.errors import LimitError
from overlay.policy import evaluate
from overlay.policy.effects import LiveSession, Pair, also_allowing, effects
from overlay.policy.model import Conduit, Plant
from overlay.policy.names import listed, parse_name, parse_principal
from overlay.policy.sentence import check_ends, parse_sentence
from overlay.policy.times import format_local, parse_duration, parse_until
from overlay.wire.timestamps import SECOND

CONDUITS = 50_000
"""How many conduits may be in force."""
GRACE = 5 * 1_000_000
"""How long circuits of a denied conduit may take to move to another that allows the same (microseconds)."""
LISTED_MARGIN = 60 * 1_000_000


class Draft(NamedTuple):
    """A conduit as it was asked for; `until` 0: no end."""

    who: str
    to: str
    protocol: str
    until: int
    max_session: int
    hold: int
    strict: bool
    reason: str


class Conduits(Views):
    """Conduits and what follows from them."""

    async def allow(self, actor: t.Actor, request: r.Allow) -> t.Conduit:
        """Make a conduit; it is in force at once.

        Raises:
            Invalid, InputError: a name, sentence, duration or time that cannot be.
            Unsupported: what this build does not do (schedules, filters, approvals, people as WHO).
        """
        about = self._about(request)
        async with self.change(actor, Permission.POLICY, EventName.CONDUIT_ALLOW, about) as work:
            draft = self._draft(request, work.now)
            check_draft(await self.snapshot(work.session), draft)
            count = select(func.count()).select_from(ConduitRow).where(ConduitRow.ended == 0)
            if (await work.session.scalar(count) or 0) >= CONDUITS:
                raise TooMany(f"a plant has at most {CONDUITS} conduits in force")
            row = await _new_row(work, draft)
            made: t.Conduit = await self.view(work.session, "conduit", row)
            work.note(
                EventName.CONDUIT_ALLOW,
                reason=draft.reason,
                conduit=row.id,
                service=f"{row.to}.{row.protocol}",
                asset=row.to,
                detail={"text": made.text, "until": made.until, "away": made.away},
            )
            work.topics.add("policy")
        return made

    async def allow_dry_run(self, actor: t.Actor, request: r.Allow) -> t.Effect:
        """What `allow` would do; changes nothing.

        Raises:
            as `allow`; NotAllowed where `allow` would be.
        """
        async with self.reading(actor, Permission.POLICY) as session:
            now = self.now()
            draft = self._draft(request, now)
            plant = await self.snapshot(session)
            check_draft(plant, draft)
            row = _row(draft, "new", actor.name, now)
            conduits = (*plant.conduits, conduit_of(row))
            found = effects(plant, conduits, now, await live_sessions(session))
        return t.Effect(
            opens=tuple(_reach(plant, pair) for pair in found.opens),
            closes=tuple(_reach(plant, pair) for pair in found.closes),
            cuts=tuple(one.id for one in found.cuts),
        )

    async def deny(self, actor: t.Actor, request: r.Deny) -> t.Denied:
        """End one conduit, or those that were written for exactly these.

        `still` names others in force that allow (part of) the same. Where they allow all of it, with equal limits for
        every live session, circuits get `GRACE` to move; else they are cut now.

        Raises:
            NotFound: no such conduit, or none written for exactly these. Conflict: it ended before.
        """
        about = f"conduit {request.conduit}" if request.conduit else self._about(request)
        async with self.change(actor, Permission.POLICY, EventName.CONDUIT_DENY, about) as work:
            plant = await self.snapshot(work.session)
            rows = await self._to_end(work.session, plant, request, work.now)
            after = ending(plant, {row.id for row in rows}, work.now)
            change = effects(plant, after.conduits, work.now, await live_sessions(work.session))
            grace = 0 if change.closes or change.cuts else GRACE
            still: dict[str, Conduit] = {}
            for row in rows:
                await _end(work, row, request.reason or "", grace)
                still |= {one.id: one for one in also_allowing(after, conduit_of(row), work.now)}
                work.note(
                    EventName.CONDUIT_DENY,
                    reason=request.reason or "",
                    conduit=row.id,
                    service=f"{row.to}.{row.protocol}",
                    asset=row.to,
                    detail={"cuts": [one.id for one in change.cuts[:50]]},
                )
            await check_size(work)
            work.topics.update(("authority", "policy"))
        ended = tuple(row.id for row in rows)
        text = f"conduit {listed(ended)} ended"
        if still:
            others = listed(f"{one.id} ({one.sentence})" for one in still.values())
            text += f"; still allowed, at least in part, by {others}"
        return t.Denied(ended=ended, still=tuple(still), text=text)

    async def why(self, actor: t.Actor, who: str, to: str, protocol: str) -> t.Why:
        """Whether `who` may reach `protocol` at `to`, with every check.

        Raises:
            InputError: a name that cannot be one, a zone or a tag.
        """
        names = parse_principal(who), parse_principal(to), parse_name(protocol, "protocol")
        async with self.reading(actor) as session:
            plant = await self._with_presence(session, await self.snapshot(session))
        found = evaluate.why(plant, *names, self.now())
        return t.Why(
            allowed=found.allowed,
            conduit=found.conduit,
            checks=tuple(
                t.Check(check=one.check, ok=one.ok, text=one.text) for one in found.checks
            ),
        )

    # --- reading requests -------------------------------------------------------------------------

    def _about(self, request: r.Allow | r.Deny) -> str:
        return request.sentence or f"{request.who} > {request.to}.{request.protocol}"

    def _draft(self, request: r.Allow, now: int) -> Draft:
        refuse_later(request)
        who, to, protocol, duration, until = written(request)
        if request.for_ and request.until:
            raise Invalid("say either for how long or until when, not both")
        if (request.for_ or request.until) and (duration or until):
            raise Invalid("the sentence says already how long; leave out --for and --until")
        until = request.until or until
        if request.for_:
            duration = parse_duration(request.for_)
        end = 0
        if duration:
            end = now + duration * SECOND
        elif until:
            end = parse_until(until, now, self.time_zone)
        return Draft(
            who=who,
            to=to,
            protocol=protocol,
            until=end,
            max_session=parse_duration(request.max_session) if request.max_session else 0,
            hold=parse_away(request.away),
            strict=request.strict,
            reason=request.reason or "",
        )

    async def _to_end(
        self, session: AsyncSession, plant: Plant, request: r.Deny, now: int
    ) -> list[ConduitRow]:
        if request.conduit:
            if request.who or request.to or request.protocol or request.sentence:
                raise Invalid("name either a conduit or WHO TO PROTOCOL, not both")
            row: ConduitRow = await self.row(session, "conduit", request.conduit)
            if row.ended:
                when = format_local(row.ended, self.time_zone)
                raise Conflict(f"conduit {row.id} ended already, {when}")
            return [row]
        who, to, protocol, duration, until = written(request)
        if duration or until:
            raise Invalid("a deny has no duration: it ends the conduit now")
        rows = await session.execute(
            select(ConduitRow)
            .where(
                ConduitRow.ended == 0,
                ConduitRow.who == who,
                ConduitRow.to == to,
                ConduitRow.protocol == protocol,
            )
            .order_by(ConduitRow.created, ConduitRow.id)
        )
        found = list(rows.scalars())
        if not found:
            draft = Draft(
                who, to, protocol, until=0, max_session=0, hold=0, strict=False, reason=""
            )
            wanted = conduit_of(_row(draft, "", "", now))
            others = also_allowing(plant, wanted, now)
            hint = (
                f"; allowed, at least in part, by {listed(f'{o.id} ({o.sentence})' for o in others)}"
                if others
                else ": see ferrule ls conduit"
            )
            raise NotFound(
                f"no conduit was written for exactly {who} to {to} over {protocol}{hint}"
            )
        return found

    async def _with_presence(self, session: AsyncSession, plant: Plant) -> Plant:
        """The plant with the states of its edges as they are now."""
        nodes = (await session.execute(select(NodeRow).where(NodeRow.role == "edge"))).scalars()
        by_name = await revocations(session)
        fresh = await fresh_tokens(session, self.now())
        facts = {
            node.name: self.presence.facts(node, by_name.get(node.name), fresh) for node in nodes
        }
        edges = tuple(
            replace(edge, state=facts[edge.name][0], since=facts[edge.name][1])
            if edge.name in facts
            else edge
            for edge in plant.edges
        )
        return replace(plant, edges=edges)


def refuse_later(request: r.Allow) -> None:
    """What later builds do is refused, never ignored.

    Raises:
        Unsupported: such an option was given.
    """
    later = {
        "--read-only": request.read_only,
        "--approvals": request.approvals is not None,
        "--schedule": request.schedule is not None,
    }
    for option, given in later.items():
        if given:
            raise Unsupported(
                f"this build does not do {option} yet: allow without it, or not at all"
            )


def written(request: r.Allow | r.Deny) -> tuple[str, str, str, int, str]:
    """WHO, TO, PROTOCOL in canonical form, and the duration (seconds) or TIME that a sentence says.

    Raises:
        Invalid, InputError: a part is missing, given twice or not well-formed.
    """
    parts = (request.who, request.to, request.protocol)
    if request.sentence is not None:
        if any(part is not None for part in parts):
            raise Invalid("give either a sentence or WHO TO PROTOCOL, not both")
        said = parse_sentence([request.sentence])
        return said.who, said.to, said.protocol, said.duration, said.until
    who, to, protocol = (part or "" for part in parts)
    if not who or not to or not protocol:
        raise Invalid("say WHO may reach WHAT over which PROTOCOL: hmi-a to plc-b over modbus")
    return parse_principal(who), parse_principal(to), parse_name(protocol, "protocol"), 0, ""


def parse_away(text: str | None) -> int:
    """What happens while the controller is away: seconds of hold, 0 for `close`.

    Raises:
        Invalid, InputError: neither `close` nor `hold:DUR`.
    """
    if text is None:
        return int(limits.DEFAULT_HOLD)
    word, colon, duration = text.strip().lower().partition(":")
    if word == "close" and not colon:
        return 0
    if word == "hold" and colon:
        return parse_duration(duration)
    raise Invalid(f"--away {text}: write close, or hold:8h")


def check_draft(plant: Plant, draft: Draft) -> None:
    """Do both ends exist, and can they be ends?

    Raises:
        InputError: they do not. Unsupported: a person as WHO.
    """
    check_ends(plant, draft.who, draft.to, draft.protocol)
    if plant.kind(draft.who) == "user":
        raise Unsupported(
            f"{draft.who} is a person, and this build opens circuits for assets and edges only: "
            "name the asset or edge that they work at"
        )


def ending(plant: Plant, ids: set[str], now: int) -> Plant:
    """The plant as it is when these conduits end now."""
    return plant.with_conduits(
        replace(one, ended=now, ended_by="-") if one.id in ids else one for one in plant.conduits
    )


async def live_sessions(session: AsyncSession) -> list[LiveSession]:
    """All circuits that are open."""
    rows = await session.execute(
        select(CircuitRow.id, CircuitRow.who, CircuitRow.service, CircuitRow.conduit)
        .where(CircuitRow.ended == 0)
        .order_by(CircuitRow.started, CircuitRow.id)
    )
    return [LiveSession(*row) for row in rows]


async def check_size(work: Work, *, kill: bool = False) -> None:
    """Does the next authority still hold all that is void?

    Raises:
        TooMany: it does not; the change must not happen.
    """
    await work.session.flush()
    try:
        (await load_restrictions(work.session)).check(kill=kill)
    except LimitError as error:
        raise TooMany(str(error)) from None


def _row(draft: Draft, identifier: str, by: str, now: int) -> ConduitRow:
    return ConduitRow(
        id=identifier,
        by=by,
        created=now,
        ended=0,
        ended_by="",
        end_reason="",
        withdrawn=0,
        listed=0,
        **draft._asdict(),
    )


async def _new_row(work: Work, draft: Draft) -> ConduitRow:
    await work.session.execute(update(PlantRow).values(conduits=PlantRow.conduits + 1))
    number = (await work.session.execute(select(PlantRow.conduits))).scalar_one()
    row = _row(draft, f"c{number}", work.actor.name, work.now)
    work.session.add(row)
    await work.session.flush()
    return row


async def _end(work: Work, row: ConduitRow, reason: str, grace: int) -> None:
    """End a conduit by decision. It stays listed until no grant of it can hold any more (A-07)."""
    row.ended, row.ended_by, row.end_reason = work.now, work.actor.name, reason
    row.withdrawn = work.now + grace
    held = work.now + int(limits.REFRESH_BY) * SECOND + row.hold * SECOND
    row.listed = (min(held, row.until) if row.until else held) + LISTED_MARGIN
    await work.session.flush()


def _reach(plant: Plant, pair: Pair) -> t.Reach:
    principal = plant.principals.get(pair.who)
    service = plant.service.get(pair.service)
    return t.Reach(
        who=pair.who,
        via=principal.edges[0] if principal and principal.edges else "",
        service=pair.service,
        asset=service.asset if service else "",
    )
