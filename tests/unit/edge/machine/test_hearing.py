"""The edge hears that its host's network changes; how often it then acts is bounded (L-39)."""

import asyncio
import errno
import socket

import pytest

from edge.machine import hearing
from edge.machine.hearing import PACE, Hearing
from edge.machine.netlink import News


class FakeNews:
    """News that the test makes."""

    def __init__(self) -> None:
        self.kernel, self._socket = socket.socketpair()
        self._socket.settimeout(0)

    def fileno(self) -> int:
        return self._socket.fileno()

    def skip(self) -> None:
        self._socket.recv(1 << 16)

    def close(self) -> None:
        self._socket.close()
        self.kernel.close()


@pytest.fixture
def news() -> FakeNews:
    return FakeNews()


async def test_every_change_is_acted_on_once_and_many_together(news: FakeNews):
    acted: list[float] = []
    loop = asyncio.get_running_loop()
    underlay = Hearing("underlay", lambda: news, lambda: acted.append(loop.time()))
    underlay.start()
    await asyncio.sleep(0.05)
    assert acted == []
    news.kernel.send(b"x")
    await asyncio.sleep(0.05)
    assert len(acted) == 1
    for _ in range(100):
        news.kernel.send(b"x")
    await asyncio.sleep(2 * PACE)
    assert len(acted) == 2, "all that came meanwhile is one change"
    assert acted[1] - acted[0] >= PACE - 0.01
    await asyncio.sleep(2 * PACE)
    assert len(acted) == 2
    underlay.close()


@pytest.mark.parametrize("busy", [False, True])
async def test_who_is_closed_hears_nothing_more(news: FakeNews, busy: bool):
    acted: list[None] = []
    underlay = Hearing("underlay", lambda: news, lambda: acted.append(None))
    underlay.start()
    if busy:
        news.kernel.send(b"x")
        await asyncio.sleep(0.05)
    underlay.close()
    underlay.close()
    await asyncio.sleep(2 * PACE)
    assert len(acted) == busy


async def test_a_system_that_does_not_tell_is_said_once_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
):
    class Log:
        said: list[tuple[str, str]] = []  # noqa: RUF012

        def warning(self, event: str, *, reason: str) -> None:
            self.said.append((event, reason))

    def refused() -> News:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(hearing, "_log", Log())
    underlay = Hearing("underlay", refused, lambda: None)
    underlay.start()
    underlay.close()
    assert Log.said == [("underlay.deaf", "Operation not permitted")]


def test_without_netlink_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(socket, "AF_NETLINK")
    with pytest.raises(OSError, match="family not supported"):
        News()


def test_the_kernels_news_need_no_privilege_and_are_taken_at_once():
    news = News()
    news.skip()
    assert news.fileno() >= 0
    news.close()
