"""Large frames are opened in memory that the pump lends: what the application does not take at once must not change."""

from typing import Any

import pytest

from overlay import limits
from overlay.aio.pump import Pump
from overlay.circuit.receiving import IN_PLACE
from overlay.errors import TamperError
from tests.support.circuit_pair import Pair


class Application:
    """A connection that takes so many bytes and no more until it is told to."""

    def __init__(self) -> None:
        self.takes = 0
        self.got = bytearray()

    def write(self, parts: Any) -> int:
        taken = bytes(parts[0][: self.takes])
        self.got += taken
        self.takes -= len(taken)
        return len(taken)


class Stream:
    def __init__(self) -> None:
        self.consumed_bytes = 0

    def consumed(self, count: int) -> None:
        self.consumed_bytes += count


async def test_what_is_not_taken_at_once_is_kept_when_the_memory_is_used_again():
    application, stream = Application(), Stream()
    pump: Any = Pump(application, stream)  # type: ignore[arg-type]
    memory = pump.lend()
    assert len(memory) == limits.MAX_DATA
    application.takes = 3
    memory[:8] = b"abcdefgh"
    pump.data(memory[:8])
    memory[:8] = b"12345678"
    pump.data(memory[:8])
    memory[:8] = b"********"
    assert bytes(application.got) == b"abc"
    application.takes = 100
    pump.writable()
    assert bytes(application.got) == b"abcdefgh12345678"
    assert stream.consumed_bytes == 16


def test_a_large_frame_is_opened_in_the_room_and_a_small_one_is_not():
    pair = Pair()
    room = memoryview(bytearray(limits.MAX_DATA))
    for size in (IN_PLACE - 1, IN_PLACE):
        data = bytes(range(256)) * (size // 256 + 1)
        assert pair.caller.send(data[:size])
        header, payload = pair.caller.wire.popleft()
        got = pair.host.core.receive_data(header, memoryview(payload), pair.now, room)
        assert bytes(got) == data[:size]
        assert isinstance(got, memoryview) is (size >= IN_PLACE)


def test_a_large_frame_that_does_not_authenticate_delivers_nothing():
    pair = Pair()
    room = memoryview(bytearray(limits.MAX_DATA))
    pair.caller.send(b"x" * IN_PLACE)
    header, payload = pair.caller.wire.popleft()
    forged = bytes((payload[0] ^ 1,)) + payload[1:]
    before = pair.host.core.bytes_received
    with pytest.raises(TamperError):
        pair.host.core.receive_data(header, memoryview(forged), pair.now, room)
    assert pair.host.core.bytes_received == before
