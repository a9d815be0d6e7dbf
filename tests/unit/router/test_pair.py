"""What waits for a process that does not read is bounded, and it counts as dead."""

import asyncio
import socket

import pytest

from router import messages, pair
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
