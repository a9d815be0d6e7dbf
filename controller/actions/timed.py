"""What the controller does by itself when its time has come: ends, renewals, the clock."""

from sqlalchemy import func, select, update

from controller import pki
from controller.actions.core import Core
from controller.actions.errors import Unavailable
from controller.clock import WRONG_BY
from controller.store.tables import ConduitRow, KillRow, PlantRow, RevocationRow
from overlay.audit.event import EventName, Outcome
from overlay.policy.times import rough_duration
from overlay.wire.timestamps import SECOND

LONGEST = 60 * SECOND
"""It is looked at least this often, whatever it knows to be due."""
RETRY = 2 * SECOND
OVER = "its time is over"


class Timed(Core):
    """Timed work. `tick` does what is due and says when to come again."""

    def _prepare(self) -> None:
        super()._prepare()
        self._clock_said = False

    async def start(self, version: str) -> None:
        """Once, at the program's start: count it and record it."""
        async with self.change(self.itself, None, EventName.NODE_START, self.name) as work:
            await work.session.execute(update(PlantRow).values(boot=PlantRow.boot + 1))
            self.boot = (await work.session.execute(select(PlantRow.boot))).scalar_one()
            self.version, self.started = version, work.now
            work.note(
                EventName.NODE_START, via=self.name, detail={"version": version, "boot": self.boot}
            )

    async def stop(self) -> None:
        """Once, at the program's end; a store that cannot be written then is not worth a word."""
        try:
            async with self.change(self.itself, None, EventName.NODE_STOP, self.name) as work:
                work.note(EventName.NODE_STOP, via=self.name)
        except Unavailable:
            return

    async def tick(self) -> int:
        """Do what is due; microseconds until the next look.

        Raises:
            Unavailable: the store cannot be read or written; try again after `RETRY`.
        """
        await self._check_clock()
        await self._renew()
        due = await self._due()
        if due is not None and due <= self.now():
            await self._end_what_is_over()
            due = await self._due()
        return LONGEST if due is None else min(max(due - self.now(), 0), LONGEST)

    async def _due(self) -> int | None:
        """When the next kill, conduit, withdrawal or revocation is over."""
        queries = (
            select(func.min(KillRow.until)).where(KillRow.ended == 0, KillRow.until > 0),
            select(func.min(ConduitRow.until)).where(ConduitRow.ended == 0, ConduitRow.until > 0),
            select(func.min(ConduitRow.listed)).where(ConduitRow.listed > 0),
            select(func.min(RevocationRow.expires)).where(RevocationRow.expires > 0),
        )
        async with self.reading() as session:
            times = [await session.scalar(query) for query in queries]
        return min((time for time in times if time is not None), default=None)

    async def _end_what_is_over(self) -> None:
        async with self.change(self.itself, None, EventName.CONDUIT_EXPIRE, "expiry") as work:
            session, now = work.session, work.now
            kills = await session.execute(
                select(KillRow).where(KillRow.ended == 0, KillRow.until > 0, KillRow.until <= now)
            )
            for kill in kills.scalars():
                kill.ended = now
                work.topics.add("authority")
                if kill.level != "circuit":
                    work.note(
                        EventName.RESTORE,
                        reason=OVER,
                        service=kill.name if kill.level == "service" else "",
                        detail={"id": kill.id, "level": kill.level, "name": kill.name},
                    )
            conduits = await session.execute(
                select(ConduitRow).where(
                    ConduitRow.ended == 0, ConduitRow.until > 0, ConduitRow.until <= now
                )
            )
            for conduit in conduits.scalars():
                conduit.ended, conduit.end_reason = conduit.until, OVER
                work.topics.add("policy")
                work.note(
                    EventName.CONDUIT_EXPIRE,
                    reason=OVER,
                    conduit=conduit.id,
                    asset=conduit.to,
                    service=f"{conduit.to}.{conduit.protocol}",
                )
            for column in (ConduitRow.listed, RevocationRow.expires):
                forgotten = await session.execute(
                    update(column.class_)
                    .where(column > 0, column <= now)
                    .values({column.key: 0})
                    .returning(column)
                )
                if forgotten.first() is not None:
                    work.topics.add("authority")

    async def _renew(self) -> None:
        """This controller's own leaf; its key stays, so nothing that it signed has to be signed again."""
        if not pki.due(self.pki, self.now()):
            return
        self.pki = await pki.renew(self.world, self.pki, self.now())
        self.signers.learn(self.credentials.chain, self.now())
        async with self.change(self.itself, None, EventName.NODE_RENEW, self.name) as work:
            work.note(EventName.NODE_RENEW, via=self.name)
            work.topics.update(("authority", "map"))

    async def _check_clock(self) -> None:
        """Say once when the machine's clock is behind plant time by more than the stated bound (A-22)."""
        behind = self.clock.behind()
        if behind <= WRONG_BY:
            self._clock_said = False
        elif not self._clock_said:
            self._clock_said = True
            text = f"the machine's clock is {rough_duration(behind)} behind plant time"
            async with self.change(self.itself, None, EventName.SECURITY_CLOCK, "clock") as work:
                work.note(EventName.SECURITY_CLOCK, Outcome.FAILED, via=self.name, reason=text)
