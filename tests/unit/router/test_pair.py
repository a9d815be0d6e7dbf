"""What waits for a process that does not read is bounded, and it counts as dead."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlay import limits
from overlay.wire.bodies import Attachment
from router import briefing, messages, pair
from router.pair import Pair, make_pair
from tests.support.honest import until

LIMIT = 200_000
"""Bytes; well below what is tried, whatever the system's own buffers hold."""


async def test_a_process_that_does_not_read_is_dead_once_the_limit_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(pair, "WAITING_BYTES", LIMIT)
    ours, theirs = make_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * messages.PART)
    lost: list[bool] = []
    one = Pair(ours, lambda *_: None, lambda: lost.append(True))
    message = messages.Restrictions(bytes(messages.PART // 2), 1)
    size = 0
    while one._size <= LIMIT - messages.PART:
        one.send(message)
        size += messages.PART // 2
        assert size < 100 * LIMIT
    await asyncio.sleep(0)
    assert lost == [], "as much may wait"
    carried = socket.socket()
    one.send(message, carried)
    while ours.fileno() >= 0:
        one.send(message)
        assert one._size <= LIMIT
    await until(lambda: lost == [True])
    assert carried.fileno() < 0, "what was to go along is closed"
    assert (one._size, len(one._waiting)) == (0, 0)
    one.send(message)
    assert one._size == 0, "nothing follows"
    theirs.close()


def test_a_batch_of_the_largest_attachments_fits_into_one_message():
    """Else edges that say much would end every worker that is told of them."""
    name = "n" * 63
    full = Attachment(
        name, ((name, 1 << 31),) * limits.ROUTERS_PER_NODE, 1 << 62, 1 << 62, 1 << 62,
        (name,) * limits.ASSETS_DOWN,
    )  # fmt: skip
    told = briefing.Briefing.__new__(briefing.Briefing)
    told._agent = cast("Any", SimpleNamespace(plant_now=lambda: 0))
    held = SimpleNamespace(bodies=lambda _now: [full] * (2 * briefing._BATCH + 1))
    told._fabric = cast("Any", lambda: SimpleNamespace(attachments=held))
    places = list(told.places())
    assert list(map(len, places)) == [briefing._BATCH, briefing._BATCH, 1]
    said = messages.Places(places[0])
    assembler = messages.Assembler()
    got = [assembler.feed(packet) for packet in messages.packets(said)]
    assert got[:-1] == [None] * (len(got) - 1)
    assert got[-1] == said


async def test_a_process_that_never_falls_silent_gives_others_their_turn():
    ours, theirs = make_pair()
    heard: list[messages.Message] = []
    one = Pair(ours, lambda message, _: heard.append(message), lambda: None)
    said = [messages.Restrictions(b"", number) for number in range(pair._PACKETS_PER_TURN + 3)]
    for message in said:
        for packet in messages.packets(message):
            theirs.send(packet)
    one._readable()
    assert heard == said[: pair._PACKETS_PER_TURN]
    one._readable()
    assert heard == said
    one.close()
    theirs.close()
