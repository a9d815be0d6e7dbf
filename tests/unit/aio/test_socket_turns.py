"""Sockets that never fall silent give everything else of the event loop its turn; nothing of what waits is lost."""

import socket
from typing import Any

from overlay.aio import sockets
from overlay.aio.sockets import SocketDatagrams, SocketListener

MORE = 5


async def test_connections_are_accepted_so_many_in_a_turn():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(2 * sockets._ACCEPTS_PER_TURN)
    listening.settimeout(0)
    accepted: list[Any] = []
    listener = SocketListener([listening], accepted.append)
    callers = [socket.socket() for _ in range(sockets._ACCEPTS_PER_TURN + MORE)]
    for caller in callers:
        caller.connect(listening.getsockname())
    for count in (sockets._ACCEPTS_PER_TURN, len(callers), len(callers)):
        listener._accept(listening)
        assert len(accepted) == count
    listener.close()
    for one in accepted:
        one.abort()
    for caller in callers:
        caller.close()


async def test_datagrams_are_read_so_many_in_a_turn_and_in_their_order():
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    one.bind(("127.0.0.1", 0))
    one.settimeout(0)
    got: list[tuple[bytes, bool]] = []
    made = SocketDatagrams(one, lambda data, _, more: got.append((bytes(data), more)), remote=False)
    total = sockets._DATAGRAMS_PER_TURN + MORE
    for number in range(total):
        other.sendto(b"%d" % number, one.getsockname())
    for count in (sockets._DATAGRAMS_PER_TURN, total, total):
        made._readable()
        assert [data for data, _ in got] == [b"%d" % number for number in range(count)]
        assert [more for _, more in got].count(False) == 1 + (count == total), "the last of a turn"
    made.close()
    other.close()
