"""A program in whose process an edge runs, and a peer that does not read what it says: it is told to wait."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from edge import circuit_transport
from edge.circuit_transport import HIGH_WATER, CircuitTransport
from overlay.errors import Code


class Stream:
    """A circuit whose peer takes as much as the test says."""

    def __init__(self) -> None:
        self.closed: Any = asyncio.get_running_loop().create_future()
        self.service, self.circuit_id = "plc-b.modbus", b"1" * 16
        self.window = 0
        self.sent = 0
        self.user: Any = None
        self.aborted: list[Code] = []

    def start(self, user: Any) -> None:
        self.user = user

    def room(self) -> int:
        return self.window

    def send(self, data: Any) -> None:
        self.window -= len(data)
        self.sent += len(data)

    def end(self) -> None:
        pass

    def abort(self, code: Code, _: str) -> None:
        self.aborted.append(code)


class Program(asyncio.Protocol):
    """Writes until it is told to pause."""

    def __init__(self) -> None:
        self.paused = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False


@pytest.fixture
async def joined():
    stream, program = Stream(), Program()
    given: Any = stream
    transport = CircuitTransport(given, program, "hmi-a")
    transport.start()
    return SimpleNamespace(stream=stream, program=program, transport=transport)


@pytest.mark.parametrize("high", [None, 1000])
async def test_a_program_is_told_to_wait_for_a_peer_that_does_not_read(joined: Any, high: int):
    stream, program, transport = joined.stream, joined.program, joined.transport
    most = HIGH_WATER
    if high is not None:
        transport.set_write_buffer_limits(high)
        most = high
    for _ in range(2 * most // 100):
        if not program.paused:
            transport.write(bytes(100))
    assert most < transport.get_write_buffer_size() <= most + 100
    stream.window = most // 2
    stream.user.room()
    assert program.paused, "it would run into the limit at once again"
    stream.window = most
    stream.user.room()
    assert not program.paused
    assert (transport.get_write_buffer_size(), stream.sent) == (0, (most // 100 + 1) * 100)


async def test_limits_of_the_buffer_are_those_of_asyncio(joined: Any):
    transport = joined.transport
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)
    transport.set_write_buffer_limits(low=10)
    assert transport.get_write_buffer_limits() == (10, 40)
    with pytest.raises(ValueError, match="from 0 to high"):
        transport.set_write_buffer_limits(high=9, low=10)


async def test_a_peer_that_does_not_end_is_cut(joined: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(circuit_transport, "CLOSE_SECONDS", 0.0)
    joined.transport.write(b"never read")
    joined.transport.close()
    assert not joined.stream.aborted
    await asyncio.sleep(0.001)
    assert joined.stream.aborted == [Code.NORMAL]
    joined.transport.write(b"too late")
    assert joined.transport.get_write_buffer_size() == len(b"never read")
