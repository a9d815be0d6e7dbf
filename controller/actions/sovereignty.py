"""Kill switches and revocation: `ferrule kill`, `restore`, `revoke`."""

from collections.abc import Mapping

from sqlalchemy import Select, delete, func, select

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.checks import find_node
from controller.actions.conduits import check_size
from controller.actions.core import Work
from controller.actions.errors import Conflict, Invalid, NotFound
from controller.actions.records import circuit_view, find_session
from controller.actions.roles import Permission
from controller.actions.views import Views, kill_view
from controller.store.snapshot import fresh_tokens, is_revoked
from controller.store.tables import (
    CertificateRow,
    ConduitRow,
    KillRow,
    RevocationRow,
    TokenRow,
)
from overlay import limits
from overlay.audit.event import EventName
from overlay.policy.model import Plant
from overlay.policy.names import (
    hint,
    listed,
    parse_name,
    parse_service,
    service_name,
    shown,
    with_article,
)
from overlay.policy.times import format_local, parse_duration
from overlay.wire.timestamps import SECOND, format_time


class Sovereignty(Views):
    """What the plant can always take back."""

    async def kill(self, actor: t.Actor, request: r.NewKill) -> t.Kill:
        """Pull a kill switch. It is on disk when this returns; the hub publishes it at once.

        Raises:
            NotFound, Invalid: nothing has this name, or it is not what can be killed at this level.
            TooMany: the authority holds no more.
        """
        about = f"kill {request.level} {request.name}".rstrip()
        async with self.change(actor, Permission.KILL, EventName.KILL, about) as work:
            plant = await self.snapshot(work.session)
            name = target(plant, request.level, request.name)
            until = 0
            if request.for_:
                until = work.now + parse_duration(request.for_) * SECOND
            row = self._kill_row(work, request.level, name, request.reason, until)
            work.note(
                EventName.KILL,
                reason=request.reason,
                service=name if request.level == "service" else "",
                asset=name if name in plant.asset else "",
                via=name if name in plant.edge else "",
                detail={
                    "id": row.id,
                    "level": row.level,
                    "name": name,
                    "until": format_time(until) if until else None,
                },
            )
            await check_size(work, kill=True)
            work.topics.update(("authority", "sessions"))
        return kill_view(row)

    async def kill_session(self, actor: t.Actor, request: r.KillSession) -> t.Session:
        """Cut one circuit; its conduit stays, so the caller may open another.

        Raises:
            NotFound, Invalid: as `find_session`. Conflict: it ended before.
        """
        about = f"kill session {request.id}"
        async with self.change(actor, Permission.KILL, EventName.KILL, about) as work:
            circuit = await find_session(work.session, request.id)
            if circuit.ended:
                when = format_local(circuit.ended, self.time_zone)
                raise Conflict(f"session {circuit.id} ended already, {when}")
            # Nothing holds longer than the grants that there are. Under which one the circuit runs is only what a node
            # says, and who made up this session would name one that holds for a short time.
            longest = await work.session.scalar(select(func.max(ConduitRow.hold)))
            hold = int(limits.DEFAULT_HOLD) if longest is None else longest
            until = work.now + (int(limits.REFRESH_BY) + hold) * SECOND
            row = self._kill_row(work, "circuit", circuit.id, request.reason, until)
            work.note(
                EventName.KILL,
                reason=request.reason,
                circuit=circuit.id,
                via=circuit.via,
                asset=circuit.asset,
                service=circuit.service,
                address=circuit.address,
                conduit=circuit.conduit,
                detail={"id": row.id, "level": "session", "name": circuit.id, "of": circuit.who},
            )
            await check_size(work, kill=True)
            work.topics.update(("authority", "sessions"))
        return circuit_view(circuit)

    async def restore(self, actor: t.Actor, request: r.Restore) -> t.Restored:
        """Lift every kill of exactly this target; `still` are others that cover it.

        Raises:
            NotFound: there is no active kill of it.
        """
        about = f"restore {request.level} {request.name}".rstrip()
        async with self.change(actor, Permission.RESTORE, EventName.RESTORE, about) as work:
            name = canonical(request.level, request.name)
            kills = list((await work.session.execute(active_kills())).scalars())
            lifted = [row for row in kills if (row.level, row.name) == (request.level, name)]
            if not lifted:
                active = listed(f"{row.level} {row.name}".rstrip() for row in kills)
                raise NotFound(
                    f"there is no kill of {request.level} {name}".rstrip()
                    + (f"; active are {active}" if active else ": no kill is active")
                )
            for row in lifted:
                await self._lift(work, row, request.reason)
            plant = await self.snapshot(work.session)
            others = [row for row in kills if row not in lifted]
            still = [row for row in others if covers(plant, row, request.level, name)]
            work.topics.add("authority")
        text = f"{request.level} {name}".rstrip() + " is restored"
        if still:
            names = listed(f"{row.level} {row.name}".rstrip() for row in still)
            text += f", but still under the kill of {names}"
        return t.Restored(
            restored=tuple(row.id for row in lifted),
            still=tuple(row.id for row in still),
            text=text,
        )

    async def lift_kill(self, actor: t.Actor, identifier: str) -> t.Removed:
        """`rm kill ID`: lift one kill by its id.

        Raises:
            NotFound: there is no active kill with this id.
        """
        about = f"restore kill {identifier}"
        async with self.change(actor, Permission.RESTORE, EventName.RESTORE, about) as work:
            row = await work.session.get(KillRow, identifier.strip().lower())
            if row is None or row.ended or row.level == "circuit":
                raise NotFound(f"there is no active kill {shown(identifier)}: see ferrule ls kill")
            await self._lift(work, row, "")
            work.topics.add("authority")
        return t.Removed(kind="kill", name=row.id)

    async def revoke(self, actor: t.Actor, request: r.Revoke) -> t.Revoked:
        """Void all certificates of a router or edge up to its present generation, and its tokens, for ever.

        Raises:
            NotFound: no such node. Conflict: it is revoked. TooMany: the authority holds no more.
        """
        about = f"revoke {request.kind} {request.name}"
        async with self.change(actor, Permission.REVOKE, EventName.NODE_REVOKE, about) as work:
            node = await find_node(
                work.session, request.kind, parse_name(request.name, request.kind)
            )
            held = await work.session.get(RevocationRow, node.name)
            fresh = await fresh_tokens(work.session, work.now)
            if held is not None and is_revoked(node, held, fresh):
                when = format_local(held.since, self.time_zone)
                raise Conflict(f"{request.kind} {node.name} was revoked already, {when}")
            await revoke_up_to(work, node.name, node.generation, request.reason)
            await work.session.execute(delete(TokenRow).where(TokenRow.name == node.name))
            work.note(
                EventName.NODE_REVOKE,
                reason=request.reason,
                via=node.name,
                detail={"kind": node.role, "name": node.name, "generation": node.generation},
            )
            await check_size(work)
            work.topics.update(("authority", "policy", "map", "presence"))
        return t.Revoked(kind=request.kind, name=node.name, generation=node.generation)

    def _kill_row(self, work: Work, level: str, name: str, reason: str, until: int) -> KillRow:
        row = KillRow(
            id=self.world.entropy.bytes(16).hex(),
            level=level,
            name=name,
            reason=reason,
            by=work.actor.name,
            since=work.now,
            until=until,
            ended=0,
        )
        work.session.add(row)
        return row

    async def _lift(self, work: Work, row: KillRow, reason: str) -> None:
        row.ended = work.now
        work.note(
            EventName.RESTORE,
            reason=reason,
            service=row.name if row.level == "service" else "",
            detail={"id": row.id, "level": row.level, "name": row.name},
        )


def active_kills() -> Select[KillRow]:
    """The query for kills that people may see and lift."""
    return (
        select(KillRow)
        .where(KillRow.ended == 0, KillRow.level != "circuit")
        .order_by(KillRow.since, KillRow.id)
    )


async def revoke_up_to(work: Work, name: str, generation: int, reason: str) -> None:
    """Void the leaves of a name up to a generation, in the tables."""
    newest = await work.session.scalar(
        select(func.max(CertificateRow.not_after)).where(
            CertificateRow.name == name, CertificateRow.generation <= generation
        )
    )
    values = {
        "generation": generation,
        "reason": reason,
        "by": work.actor.name,
        "since": work.now,
        "expires": newest or 0,
    }
    held = await work.session.get(RevocationRow, name)
    if held is None:
        work.session.add(RevocationRow(name=name, **values))
    else:
        for field, value in values.items():
            setattr(held, field, value)
    await work.session.flush()


def canonical(level: str, name: str) -> str:
    """The name of a target in canonical form, whether it exists or not.

    Raises:
        Invalid, InputError: a name where there is none, none where there must be one, or one that cannot be.
    """
    if level == "plant":
        if name:
            raise Invalid(f"kill and restore of the plant take no name: leave out {shown(name)}")
        return ""
    if level == "service":
        return service_name(*parse_service(name))
    return parse_name(name, level)


def target(plant: Plant, level: str, text: str) -> str:
    """The canonical name of what shall be killed.

    Raises:
        NotFound: nothing has this name. Invalid: it is not something of this level.
    """
    name = canonical(level, text)
    if level == "plant":
        return name
    known: Mapping[str, object] = plant.zone
    if level != "zone":
        known = plant.service if level == "service" else plant.principals
    if name in known:
        return name
    kind = plant.kind(name)
    if kind == "router":
        raise Invalid(f"{name} is a router, and a router has no circuits of its own: revoke it")
    if kind:
        raise Invalid(
            f"{name} is {with_article(kind)}, not {with_article(level)}: ferrule kill {_level_of(kind)} {name}"
        )
    near = hint(name, known)
    raise NotFound(f"there is no {level} {shown(name)}{': ' + near if near else ''}")


def _level_of(kind: str) -> str:
    return "zone" if kind == "zone" else "identity"


def covers(plant: Plant, kill: KillRow, level: str, name: str) -> bool:
    """Whether a kill covers a target as well, besides those of exactly that target."""
    if kill.level == "plant":
        return True
    owner = name.partition(".")[0] if level == "service" else name
    principal = plant.principals.get(owner)
    if level == "zone":
        return kill.level == "zone" and kill.name in plant.ancestry(name)[1:]
    if principal is None:
        return False
    if kill.level == "zone":
        return kill.name in principal.zones
    alone = len(principal.edges) == 1 and kill.name == principal.edges[0]
    return kill.level == "identity" and (kill.name == principal.name or alone)
