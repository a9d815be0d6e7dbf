"""People: passwords, log-ins, lockout."""

import asyncio
import hashlib

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from sqlalchemy import delete, func, select

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.core import Core, RecordLimiter, Work
from controller.actions.errors import Invalid, NotAuthenticated, TooMany, Unsupported
from controller.actions.roles import ROLES
from controller.store.tables import LoginRow, UserRow
from overlay.aio.world import World
from overlay.audit.event import EventName, Outcome
from overlay.errors import InputError
from overlay.policy.names import parse_name
from overlay.policy.times import rough_duration
from overlay.wire.timestamps import SECOND, format_time

FAILURES = 5
"""Wrong passwords in a row after which a name is locked."""
LOCKED_FOR = 300 * SECOND
SESSION_IDLE = 12 * 3600 * SECOND
"""A log-in ends after this time without use."""
SESSION_LIFE = 30 * 86_400 * SECOND
"""And after this time in any case."""
TOUCHED_EVERY = 60 * SECOND
SESSIONS_PER_USER = 64
TOKEN_PREFIX = "ferrule-session-"  # noqa: S105 - says what it is where it leaks
MIN_PASSWORD = 12
_MEMORY_KIB, _PASSES, _LANES, _SALT, _LENGTH = 19 * 1024, 2, 1, 16, 32
_WRONG = "wrong name or password"


def check_password(text: str) -> str:
    """A new password that may be used.

    Raises:
        Invalid: too short or too long.
    """
    if not MIN_PASSWORD <= len(text) <= r.MAX_PASSWORD:
        raise Invalid(
            f"a password has {MIN_PASSWORD} to {r.MAX_PASSWORD} characters, not {len(text)}"
        )
    return text


def hash_password(world: World, password: str) -> str:
    """Argon2id in PHC form. Takes about 60 ms of a core: call it in a thread."""
    salt = world.entropy.bytes(_SALT)
    kdf = Argon2id(
        salt=salt, length=_LENGTH, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB
    )
    return kdf.derive_phc_encoded(password.encode())


def verify_password(password: str, stored: str) -> bool:
    """Whether a password is the one that was hashed; compares in constant time."""
    try:
        Argon2id.verify_phc_encoded(password.encode(), stored)
    except InvalidKey:
        return False
    return True


def token_digest(token: str) -> bytes:
    """What the store keeps of a session's token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Accounts(Core):
    """Log-ins. They survive a restart of the controller; the store holds only hashes of their tokens."""

    def _prepare(self) -> None:
        super()._prepare()
        self._wrong = RecordLimiter()

    async def login(self, request: r.Login, source: str) -> t.LoggedIn:
        """Check name and password, and open a session. Attempts are recorded, merged where they come in masses.

        `FAILURES` wrong passwords in a row lock the name for `LOCKED_FOR`; an unknown name costs as much time.

        Raises:
            NotAuthenticated: wrong name or password, with one text. TooMany: the name is locked.
            Unsupported: a one-time code was given.
        """
        if request.otp is not None:
            raise Unsupported("this build has no one-time codes yet: log in without --otp")
        user, dummy = await self._user(request.user)
        if user is not None and user.locked > self.now():
            wait = rough_duration(user.locked - self.now() + SECOND)
            await self._refused(user.name, source, "locked", failed=False)
            raise TooMany(f"too many wrong passwords: log-in is locked for {wait}")
        stored = user.password if user is not None else dummy
        async with self._hashing:
            right = await asyncio.to_thread(verify_password, request.password, stored)
        if user is None or not right:
            name = user.name if user is not None else ""
            await self._refused(name, source, _WRONG, failed=True)
            raise NotAuthenticated(_WRONG)
        return await self._open(user.name, source)

    async def session(self, token: str) -> t.Actor:
        """The actor of a session; using it keeps it alive.

        Raises:
            NotAuthenticated: there is no such session, or it has ended.
        """
        now = self.now()
        async with self.reading() as session:
            row = await session.get(LoginRow, token_digest(token))
            user = await session.get(UserRow, row.user) if row is not None else None
        if row is None or user is None or ended(row, now):
            raise NotAuthenticated("not logged in, or no longer: ferrule login URL --user NAME")
        actor = t.Actor(name=user.name, role=_role(user.role))
        if now - row.used >= TOUCHED_EVERY:
            async with self.change(actor, None, EventName.LOGIN, "session") as work:
                held = await work.session.get(LoginRow, row.digest)
                if held is not None:
                    held.used = work.now
        return actor

    async def logout(self, actor: t.Actor, token: str) -> None:
        """End a session at once; nothing when there is none."""
        async with self.change(actor, None, EventName.LOGIN, "logout") as work:
            await work.session.execute(
                delete(LoginRow).where(
                    LoginRow.digest == token_digest(token), LoginRow.user == actor.name
                )
            )
            work.note(EventName.LOGIN, reason="logged out")

    async def _user(self, text: str) -> tuple[UserRow | None, str]:
        """The user of this name, and a hash to check against when there is none."""
        try:
            name = parse_name(text, "user")
        except InputError:
            name = ""
        async with self.reading() as session:
            user = await session.get(UserRow, name)
            dummy = (await session.execute(select(UserRow.password).limit(1))).scalar_one()
        return user, dummy

    async def _refused(self, name: str, source: str, why: str, *, failed: bool) -> None:
        """Record a refused attempt; count it against the name."""
        async with self.change(self.itself, None, EventName.LOGIN, "login") as work:
            user = await work.session.get(UserRow, name)
            if user is not None and failed:
                user.failures += 1
                if user.failures >= FAILURES:
                    user.failures, user.locked = 0, work.now + LOCKED_FOR
                    why = f"{why}; locked after {FAILURES} attempts"
            if count := self._wrong.take(work.now):
                fields = {"who": name, "address": source[:255], "count": count}
                work.note(EventName.LOGIN, Outcome.DENIED, reason=why, **fields)

    async def _open(self, name: str, source: str) -> t.LoggedIn:
        token = TOKEN_PREFIX + self.world.entropy.bytes(32).hex()
        async with self.change(self.itself, None, EventName.LOGIN, "login") as work:
            user = await work.session.get(UserRow, name)
            if user is None:
                raise NotAuthenticated(_WRONG)
            user.failures, user.locked = 0, 0
            await self._make_room(work, name)
            row = LoginRow(
                digest=token_digest(token),
                user=name,
                created=work.now,
                used=work.now,
                expires=work.now + SESSION_LIFE,
            )
            work.session.add(row)
            work.note(EventName.LOGIN, Outcome.ALLOWED, who=name, address=source[:255])
        return t.LoggedIn(
            token=token,
            user=name,
            role=_role(user.role),
            plant=self.plant,
            expires=format_time(row.used + SESSION_IDLE),
            root=self.pki.root_pem,
        )

    async def _make_room(self, work: Work, name: str) -> None:
        """Ended sessions go; of too many living ones the longest unused."""
        await work.session.execute(
            delete(LoginRow).where(
                (LoginRow.expires <= work.now) | (LoginRow.used <= work.now - SESSION_IDLE)
            )
        )
        count = select(func.count()).select_from(LoginRow).where(LoginRow.user == name)
        surplus = (await work.session.scalar(count) or 0) - SESSIONS_PER_USER + 1
        if surplus > 0:
            oldest = (
                select(LoginRow.digest)
                .where(LoginRow.user == name)
                .order_by(LoginRow.used)
                .limit(surplus)
            )
            await work.session.execute(delete(LoginRow).where(LoginRow.digest.in_(oldest)))


def ended(row: LoginRow, now: int) -> bool:
    """Whether a session is over, by its age or because it was not used."""
    return now >= row.expires or now >= row.used + SESSION_IDLE


def _role(text: str) -> t.RoleName:
    """A role from the store; one that this version does not know may nothing more than the least."""
    return text if text in ROLES else "auditor"  # type: ignore[return-value]
