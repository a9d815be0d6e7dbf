"""A peer did not notice expired and revoked sessions when it made circuits.

So: a login that has ended is refused by every route at once, on a connection that is already open, too, and before
anything is done; and one person's login says nothing about another's.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from controller.actions import types as t
from controller.api import guard
from controller.api.routes import ROUTES
from tests.support.api import TOKEN, Api, running


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(guard, "STRANGER", guard.Rate(burst=1000, per_second=1))
    async with running(tmp_path) as found:
        yield found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_every_route_refuses_an_ended_login(api: Api):
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=api.tls)) as http:
        async with http.get(f"{api.url}/zones", headers=bearer(TOKEN)) as response:
            assert response.status == 200
        api.actions.people.clear()
        api.actions.calls.clear()
        for route in ROUTES:
            if route.open:
                continue
            url = api.url + route.path.replace("{", "x").replace("}", "")
            body: dict[str, str] | None = None if route.body is None else {}
            async with http.request(
                route.method, url, json=body, headers=bearer(TOKEN)
            ) as response:
                assert response.status == 401, route.name
        assert api.actions.calls == []


async def test_two_people_each_see_their_own_login(api: Api):
    api.actions.people["another-token"] = t.Actor(name="bob", role="auditor")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=api.tls)) as http:
        seen = []
        for token in (TOKEN, "another-token"):
            async with http.get(f"{api.url}/session", headers=bearer(token)) as response:
                seen.append(await response.json())
        assert seen == [{"name": "ada", "role": "admin"}, {"name": "bob", "role": "auditor"}]
        async with http.post(f"{api.url}/logout", headers=bearer(TOKEN)) as response:
            assert response.status == 204
        for token, status in ((TOKEN, 401), ("another-token", 200)):
            async with http.get(f"{api.url}/session", headers=bearer(token)) as response:
                assert response.status == status
