"""The API on a real socket with TLS: what strangers can spend, who gets in, and how refusals look."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controller.actions import types as t
from controller.api import follow, guard
from overlay.limits import MAX_API_BODY
from tests.support.api import TOKEN, Api, eventually, record, running, session

AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as found:
        yield found


@pytest.fixture
async def http(api: Api) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=api.tls, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as found:
        yield found


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} /api/v1{path} HTTP/1.1", "Host: c", *lines, "", ""]).encode()


def parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in top
    return int(top.split()[1]), json.loads(body)


async def problem(response: aiohttp.ClientResponse, status: int, code: str) -> str:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    found = await response.json(content_type=None)
    assert set(found) == {"type", "title", "status", "code", "detail"}
    assert (found["status"], found["code"]) == (status, code)
    assert found["type"] == f"urn:ferrule:problem:{code}"
    assert "\n" not in found["detail"]
    return str(found["detail"])


async def test_a_known_login_is_answered(api: Api, http: aiohttp.ClientSession):
    async with http.get(f"{api.url}/zones", headers=AUTH) as response:
        assert (response.status, await response.json()) == (200, [])
        assert response.headers["Cache-Control"] == "no-store"
    async with http.post(f"{api.url}/zones", headers=AUTH, json={"name": "cell-3"}) as response:
        assert await response.json() == {
            "name": "cell-3",
            "level": None,
            "sl": None,
            "parent": None,
        }
    async with http.get(f"{api.url}/session", headers=AUTH) as response:
        assert await response.json() == {"name": "ada", "role": "admin"}


async def test_login_and_logout(api: Api, http: aiohttp.ClientSession):
    body = {"user": "ada", "password": "right"}
    async with http.post(f"{api.url}/login", json=body) as response:
        assert (await response.json())["token"] == TOKEN
    assert api.actions.calls == ["login from 127.0.0.1"]
    async with http.post(f"{api.url}/logout", headers=AUTH) as response:
        assert response.status == 204
    async with http.get(f"{api.url}/session", headers=AUTH) as response:
        await problem(response, 401, "not-logged-in")
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_refused_login_says_so_and_a_locked_one_how_long(
    api: Api, http: aiohttp.ClientSession
):
    async with http.post(f"{api.url}/login", json={"user": "ada", "password": "x"}) as response:
        assert await problem(response, 401, "login-refused") == "wrong name or password"
    async with http.post(f"{api.url}/login", json={"user": "locked", "password": "x"}) as response:
        assert "60 s" in await problem(response, 429, "login-locked")


async def test_refusals_of_actions_are_problems(api: Api, http: aiohttp.ClientSession):
    async with http.post(f"{api.url}/zones", headers=AUTH, json={"name": "taken"}) as response:
        assert await problem(response, 409, "conflict") == "taken is in use"
    async with http.get(f"{api.url}/zones/none", headers=AUTH) as response:
        await problem(response, 404, "not-found")
    async with http.post(f"{api.url}/zones", headers=AUTH, json={"name": "broken"}) as response:
        assert "business" not in await problem(response, 500, "internal")


async def test_malformed_requests_are_problems(api: Api, http: aiohttp.ClientSession):
    zones = f"{api.url}/zones"
    async with http.post(zones, headers=AUTH, json={"name": 7}) as response:
        assert "name" in await problem(response, 400, "bad-request")
    async with http.post(zones, headers=AUTH, json={"name": "a", "colour": "red"}) as response:
        assert "colour" in await problem(response, 400, "bad-request")
    async with http.post(zones, headers=AUTH, data=b"name=a") as response:
        await problem(response, 415, "not-json")
    packed = {**AUTH, "Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with http.post(zones, headers=packed, data=b"x") as response:
        await problem(response, 415, "not-json")
    async with http.get(f"{zones}?colour=red", headers=AUTH) as response:
        await problem(response, 400, "bad-request")
    async with http.get(zones, headers=AUTH, data=b"body") as response:
        await problem(response, 400, "bad-request")
    async with http.put(zones, headers=AUTH) as response:
        await problem(response, 405, "method-not-allowed")
    async with http.get(f"{api.url}/zoo", headers=AUTH) as response:
        await problem(response, 404, "no-route")
    assert api.actions.calls == []


async def test_a_body_over_the_limit_is_refused_by_its_head(api: Api):
    raw = head(
        "POST", "/zones", f"Authorization: Bearer {TOKEN}", "Content-Type: application/json",
        f"Content-Length: {MAX_API_BODY + 1}",
    )  # fmt: skip
    status, found = parsed(await api.raw(raw))
    assert (status, found["code"]) == (413, "too-large")
    assert api.actions.calls == []


async def test_a_body_without_length_is_cut_at_the_limit(api: Api):
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    raw = head(
        "POST", "/zones", f"Authorization: Bearer {TOKEN}", "Content-Type: application/json",
        "Transfer-Encoding: chunked",
    )  # fmt: skip
    status, found = parsed(await api.raw(raw + chunk * (MAX_API_BODY // 0x10000 + 1)))
    assert (status, found["code"]) == (413, "too-large")


async def test_a_body_that_does_not_come_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    raw = head(
        "POST", "/zones", f"Authorization: Bearer {TOKEN}", "Content-Type: application/json",
        "Content-Length: 10",
    )  # fmt: skip
    status, found = parsed(await api.raw(raw + b"{"))
    assert (status, found["code"]) == (408, "too-slow")


async def test_what_is_not_http_is_answered_once_and_closed(api: Api):
    for raw in (
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        head("GET", "/zones", "a b"),
    ):
        status, found = parsed(await api.raw(raw))
        assert (status, found["code"]) == (400, "bad-request")


async def test_a_head_that_is_too_long_is_refused(api: Api):
    raw = head("GET", "/zones", f"X-Long: {'a' * (guard.MAX_HEAD_LINE + 1)}")
    assert parsed(await api.raw(raw))[0] == 400
    assert parsed(await api.raw(head("GET", f"/{'a' * guard.MAX_HEAD_LINE}")))[0] == 400
    many = head("GET", "/zones", *[f"X-{n}: a" for n in range(guard.MAX_HEADERS + 1)])
    assert parsed(await api.raw(many))[0] == 400


async def test_a_connection_that_asks_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "REQUEST_SECONDS", 0.2)
    async with running(tmp_path) as api:
        assert await api.raw(b"") == b""
        assert await api.raw(b"GET /api/v1/zo") == b""


async def test_a_caller_who_does_not_speak_tls_is_dropped(
    api: Api, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "TLS_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    assert await reader.read() == b""
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert len(await reader.read()) < 64
    writer.close()
    await eventually(lambda: not api.service.connections.used)


async def test_one_address_holds_so_many_connections_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "CONNECTIONS_PER_SOURCE", 3)
    async with running(tmp_path) as api:
        held = [await api.connect() for _ in range(3)]
        with pytest.raises(OSError):
            await api.connect()
        held.pop()[1].close()
        await eventually(lambda: api.service.connections.used < 3)
        again = await api.connect()
        for _, writer in (*held, again):
            writer.close()


async def test_login_attempts_of_one_address_are_limited(api: Api, http: aiohttp.ClientSession):
    body = {"user": "ada", "password": "wrong"}
    for _ in range(int(guard.LOGIN.burst)):
        async with http.post(f"{api.url}/login", json=body) as response:
            await problem(response, 401, "login-refused")
    async with http.post(f"{api.url}/login", json=body) as response:
        await problem(response, 429, "too-many-requests")
        assert int(response.headers["Retry-After"]) >= 1
    assert api.actions.logins == guard.LOGIN.burst


async def test_strangers_use_up_their_own_share_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "STRANGER", guard.Rate(burst=3, per_second=0.01))
    async with running(tmp_path) as api:
        asked = head("GET", "/zones", f"Authorization: Bearer {TOKEN}", "Connection: close")
        assert b" 200 " in await api.raw(asked)
        for token in ("x", "y", "z"):
            wrong = head("GET", "/zones", f"Authorization: Bearer {token}", "Connection: close")
            assert parsed(await api.raw(wrong))[0] == 401
        assert parsed(await api.raw(head("GET", "/zones")))[0] == 429
        assert b" 200 " in await api.raw(asked)


async def test_one_login_cannot_ask_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "KNOWN", guard.Rate(burst=2, per_second=0.01))
    async with running(tmp_path) as api:
        asked = head("GET", "/zones", f"Authorization: Bearer {TOKEN}", "Connection: close")
        answers = [await api.raw(asked) for _ in range(3)]
        assert [b" 200 " in answer for answer in answers] == [True, True, False]


async def test_an_action_that_hangs_is_given_up(api: Api, http: aiohttp.ClientSession):
    route = next(route for route in api.service.routes if route.name == "add_zone")
    object.__setattr__(route, "seconds", 0.1)
    try:
        async with http.post(f"{api.url}/zones", headers=AUTH, json={"name": "slow"}) as response:
            await problem(response, 503, "unavailable")
    finally:
        object.__setattr__(route, "seconds", guard.ANSWER_SECONDS)


async def test_status_waits_until_all_are_connected(api: Api, http: aiohttp.ClientSession):
    async with http.get(f"{api.url}/status", headers=AUTH) as response:
        assert (await response.json())["edges"][0]["state"] == "waiting"
    async with http.get(f"{api.url}/status?wait=0.05", headers=AUTH) as response:
        assert (await response.json())["edges"][0]["state"] == "waiting"

    async def connect() -> None:
        await asyncio.sleep(0.1)
        api.actions.connected = True
        api.actions.changes.publish(["presence"])

    waiting = asyncio.create_task(connect())
    async with http.get(f"{api.url}/status?wait=20", headers=AUTH) as response:
        assert (await response.json())["edges"][0]["state"] == "connected"
    await waiting


async def test_the_audit_is_followed_without_gap(
    api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(follow, "HEARTBEAT", 0.05)
    async with http.get(f"{api.url}/audit/follow", headers=AUTH) as response:
        assert response.content_type == "application/x-ndjson"
        seen = []
        async for line in response.content:
            if not line.strip():
                api.actions.records.append(record(len(api.actions.records) + 1))
                api.actions.changes.publish(["audit"])
                continue
            seen.append(json.loads(line)["seq"])
            if len(seen) == 5:
                break
    assert seen == [1, 2, 3, 4, 5]


async def test_a_stream_ends_with_its_login(
    api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(follow, "HEARTBEAT", 0.05)
    with pytest.raises(aiohttp.ClientError):
        async with http.get(f"{api.url}/audit/follow", headers=AUTH) as response:
            async for line in response.content:
                if not line.strip():
                    api.actions.people.clear()


async def test_sessions_are_followed(
    api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(follow, "FOLLOW_PAUSE", 0.01)
    api.actions.live = [session("1")]
    moved = session("1", path=("r2",))
    steps: list[tuple[list[t.Session], list[t.Session]]] = [
        ([session("1"), session("2")], []),
        ([moved, session("2")], []),
    ]
    steps.append(([moved], [session("2", ended="now")]))
    seen = []
    async with http.get(f"{api.url}/sessions/follow", headers=AUTH) as response:
        async for line in response.content:
            found = json.loads(line)
            seen.append((found["id"], found["path"], found["ended"]))
            if not steps:
                break
            api.actions.live, api.actions.past = steps.pop(0)
            api.actions.changes.publish(["sessions"])
    assert seen == [
        ("1", ["r1"], None),
        ("2", ["r1"], None),
        ("1", ["r2"], None),
        ("2", ["r1"], "now"),
    ]


async def test_streams_of_one_login_are_limited_and_given_back(
    tmp_path: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guard, "STREAMS_PER_LOGIN", 1)
    monkeypatch.setattr(follow, "HEARTBEAT", 0.05)
    async with running(tmp_path / "other") as api:
        url = f"{api.url}/audit/follow"
        async with http.get(url, headers=AUTH, ssl=api.tls) as first:
            assert first.status == 200
            async with http.get(url, headers=AUTH, ssl=api.tls) as second:
                await problem(second, 429, "too-many-requests")
        async with asyncio.timeout(30):
            while True:
                async with http.get(url, headers=AUTH, ssl=api.tls) as third:
                    if third.status == 200:
                        break
                await asyncio.sleep(0.02)


async def test_an_export_that_fails_halfway_is_no_export(api: Api, http: aiohttp.ClientSession):
    async with http.get(f"{api.url}/audit/export", headers=AUTH) as response:
        assert (await response.text()).splitlines() == ['{"seq":1}', '{"head":{}}']
    api.actions.calls = ["fail"]
    with pytest.raises(aiohttp.ClientError):
        async with http.get(f"{api.url}/audit/export", headers=AUTH) as response:
            await response.read()


async def test_closing_ends_streams_in_bounded_time(tmp_path: Path):
    async with asyncio.timeout(30):
        async with running(tmp_path) as api:
            reader, writer = await api.connect()
            writer.write(head("GET", "/audit/follow", f"Authorization: Bearer {TOKEN}"))
            await reader.readuntil(b"record 2")
        writer.close()
