"""Passwords, sessions, lockout."""

import asyncio
import threading

import pytest
from sqlalchemy import select

from controller.actions import accounts
from controller.actions import requests as r
from controller.actions.accounts import FAILURES, LOCKED_FOR, SESSION_IDLE, SESSION_LIFE
from controller.actions.core import HASHES_AT_ONCE
from controller.actions.errors import Invalid, NotAuthenticated, TooMany, Unsupported
from controller.founding import reopen
from controller.store.tables import LoginRow, UserRow
from tests.support.controllers import ADMIN, PASSWORD, Controller
from tests.support.honest import until
from tests.support.pki import SECOND

RIGHT = r.Login(user="Ada", password=PASSWORD)
WRONG = r.Login(user="ada", password="wrong")


async def test_the_right_password_opens_a_session(made: Controller):
    logged = await made.actions.login(RIGHT, "127.0.0.1")
    assert (logged.user, logged.role, logged.plant) == ("ada", "admin", "mill")
    assert logged.root == made.actions.pki.root_pem
    assert await made.actions.session(logged.token) == ADMIN
    other = await made.actions.login(RIGHT, "127.0.0.1")
    assert other.token != logged.token
    (last,) = await made.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.outcome, last.who, last.address) == (
        "user.login", "allowed", "ada", "127.0.0.1",
    )  # fmt: skip


async def test_the_store_holds_neither_password_nor_token(made: Controller):
    logged = await made.actions.login(RIGHT, "127.0.0.1")
    async with made.store.read() as session:
        user = (await session.execute(select(UserRow))).scalar_one()
        row = (await session.execute(select(LoginRow))).scalar_one()
    assert user.password.startswith("$argon2id$")
    assert PASSWORD not in user.password
    assert logged.token.encode() not in row.digest
    await made.store.close()
    files = b"".join(path.read_bytes() for path in made.directory.glob("store.sqlite*"))
    assert PASSWORD.encode() not in files
    assert logged.token.encode() not in files


@pytest.mark.parametrize("user", ["ada", "nobody", "", "under_score", "controller"])
async def test_what_is_wrong_is_not_told(made: Controller, user: str):
    with pytest.raises(NotAuthenticated, match=r"^wrong name or password$"):
        await made.actions.login(r.Login(user=user, password="wrong"), "127.0.0.1")
    (last,) = await made.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.outcome) == ("user.login", "denied")
    assert last.who == ("ada" if user == "ada" else "")


@pytest.mark.parametrize("token", ["", "x", "ferrule-session-" + "0" * 64, "\ud800", "a" * 5000])
async def test_a_token_that_was_never_given_is_nobody(made: Controller, token: str):
    with pytest.raises(NotAuthenticated):
        await made.actions.session(token)


async def test_five_wrong_passwords_lock_the_name_for_a_while(made: Controller):
    for _ in range(FAILURES):
        with pytest.raises(NotAuthenticated):
            await made.actions.login(WRONG, "127.0.0.1")
    with pytest.raises(TooMany, match="locked for 5 minutes"):
        await made.actions.login(RIGHT, "127.0.0.1")
    made.pass_(LOCKED_FOR / SECOND - 1)
    with pytest.raises(TooMany):
        await made.actions.login(RIGHT, "127.0.0.1")
    made.pass_(2)
    await made.actions.login(RIGHT, "127.0.0.1")
    for _ in range(FAILURES - 1):  # a success begins the count anew
        with pytest.raises(NotAuthenticated):
            await made.actions.login(WRONG, "127.0.0.1")
    await made.actions.login(RIGHT, "127.0.0.1")


async def test_a_lock_survives_a_restart(made: Controller):
    for _ in range(FAILURES):
        with pytest.raises(NotAuthenticated):
            await made.actions.login(WRONG, "127.0.0.1")
    again, store = await reopen(made.world, made.directory)
    try:
        with pytest.raises(TooMany):
            await again.login(RIGHT, "127.0.0.1")
    finally:
        await store.close()


async def test_sessions_survive_a_restart(made: Controller):
    logged = await made.actions.login(RIGHT, "127.0.0.1")
    again, store = await reopen(made.world, made.directory)
    try:
        assert await again.session(logged.token) == ADMIN
    finally:
        await store.close()


async def test_a_session_ends_without_use_and_lives_with_it(made: Controller):
    logged = await made.actions.login(RIGHT, "127.0.0.1")
    for _ in range(4):
        made.pass_(SESSION_IDLE / SECOND * 0.9)
        await made.actions.session(logged.token)
    made.pass_(SESSION_IDLE / SECOND + 1)
    with pytest.raises(NotAuthenticated):
        await made.actions.session(logged.token)


async def test_a_session_ends_after_its_longest_life(made: Controller):
    logged = await made.actions.login(RIGHT, "127.0.0.1")
    steps = int(SESSION_LIFE / SESSION_IDLE * 2)
    for _ in range(steps - 1):
        made.pass_(SESSION_IDLE / SECOND / 2)
        await made.actions.session(logged.token)
    made.pass_(SESSION_IDLE / SECOND / 2)
    with pytest.raises(NotAuthenticated):
        await made.actions.session(logged.token)


async def test_logout_ends_that_session_at_once_and_no_other(made: Controller):
    one = await made.actions.login(RIGHT, "127.0.0.1")
    two = await made.actions.login(RIGHT, "127.0.0.1")
    await made.actions.logout(ADMIN, one.token)
    await made.actions.logout(ADMIN, one.token)
    with pytest.raises(NotAuthenticated):
        await made.actions.session(one.token)
    await made.actions.session(two.token)
    from controller.actions.types import Actor

    await made.actions.logout(Actor(name="eve", role="admin"), two.token)
    await made.actions.session(two.token)  # not hers to end


async def test_of_too_many_sessions_the_longest_unused_goes(
    made: Controller, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(accounts, "SESSIONS_PER_USER", 3)
    tokens = []
    for _ in range(4):
        tokens.append((await made.actions.login(RIGHT, "127.0.0.1")).token)
        made.pass_(1)
    with pytest.raises(NotAuthenticated):
        await made.actions.session(tokens[0])
    for token in tokens[1:]:
        await made.actions.session(token)


async def test_one_time_codes_are_refused_until_there_are_some(made: Controller):
    with pytest.raises(Unsupported, match="--otp"):
        await made.actions.login(r.Login(user="ada", password=PASSWORD, otp="123456"), "here")


async def test_masses_of_wrong_names_do_not_fill_the_log(
    made: Controller, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(accounts, "verify_password", lambda _given, _stored: False)
    for _ in range(50):
        with pytest.raises(NotAuthenticated):
            await made.actions.login(r.Login(user="nobody", password="x"), "127.0.0.1")
    made.pass_(61)
    with pytest.raises(NotAuthenticated):
        await made.actions.login(r.Login(user="nobody", password="x"), "127.0.0.1")
    records = [one for one in await made.actions.audit_tail(ADMIN) if one.outcome == "denied"]
    assert len(records) == 11
    assert sum(one.count for one in records) == 51


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * 1025])
def test_a_password_has_bounds(password: str):
    with pytest.raises(Invalid, match="12 to 1024"):
        accounts.check_password(password)


async def test_so_many_passwords_are_hashed_at_once(
    made: Controller, monkeypatch: pytest.MonkeyPatch
):
    """Each takes 19 MiB, and anybody may ask for one."""
    go_on, running, most = threading.Event(), [0], [0]

    def hash_slowly(*_: str) -> bool:
        running[0] += 1
        most[0] = max(most[0], running[0])
        go_on.wait(30)
        running[0] -= 1
        return False

    monkeypatch.setattr(accounts, "verify_password", hash_slowly)
    asked = [asyncio.create_task(made.actions.login(WRONG, "127.0.0.1")) for _ in range(5)]
    hashing = made.actions._hashing
    await until(lambda: running[0] + len(hashing._waiters or ()) == len(asked))
    go_on.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in found] == [NotAuthenticated] * len(asked)
    assert most == [HASHES_AT_ONCE]
