"""Where links lead, by name and number: what was known counts as long as nobody says otherwise."""

import asyncio
import ipaddress
from typing import Any

import pytest

from edge import peers
from edge.peers import Peers


async def test_names_are_resolved_and_what_was_known_outlives_links_and_resolver(
    monkeypatch: pytest.MonkeyPatch,
):
    hosts, linked = ["r1.example.com", "192.0.2.1", "fd00::1"], ["198.51.100.7"]
    answers: dict[str, Any] = {"r1.example.com": ["10.0.0.5", "fe80::1%eth0"]}

    async def resolve(host: str, port: int, kind: Any) -> list[Any]:
        if isinstance(answers[host], Exception):
            raise answers[host]
        return [(0, (one, port)) for one in answers[host]]

    monkeypatch.setattr(peers, "resolve", resolve)
    made = Peers(lambda: hosts, lambda: linked)

    async def known() -> set[str]:
        return {str(one) for one in await made.addresses()}

    numbers = {"192.0.2.1", "fd00::1"}
    assert await known() == {*numbers, "198.51.100.7", "10.0.0.5", "fe80::1"}
    linked.clear()
    for error in (OSError("no resolver"), UnicodeError("label too long")):
        answers["r1.example.com"] = error
        assert await known() == {*numbers, "10.0.0.5", "fe80::1"}
    answers["r1.example.com"] = ["10.0.0.6"]
    assert await known() == {*numbers, "10.0.0.6"}
    hosts.pop(0)
    assert await known() == numbers


async def test_a_resolver_that_is_silent_is_asked_once_and_waited_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
):
    asked, answer = [], asyncio.get_running_loop().create_future()

    async def resolve(host: str, *_: Any) -> list[Any]:
        asked.append(host)
        return [(0, (await asyncio.shield(answer), 0))]

    monkeypatch.setattr(peers, "resolve", resolve)
    monkeypatch.setattr(peers, "ANSWER", 0.01)
    made = Peers(lambda: ["r1.example.com"], list)
    assert await made.addresses() == await made.addresses() == []
    assert asked == ["r1.example.com"]
    answer.set_result("10.0.0.5")
    monkeypatch.setattr(peers, "ANSWER", 10.0)
    assert await made.addresses() == [ipaddress.ip_address("10.0.0.5")]
    await made.close()
