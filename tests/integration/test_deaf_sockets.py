"""A socket that had an error goes on to hear, on both event loops: an asset that was restarted while somebody polled it, a
device that said "too big", a kernel that had more to tell than there was room for.
"""

import asyncio
import socket
from collections.abc import Callable

import pytest

from edge.host.ping_socket import PingSocket
from edge.machine import netfilter_log
from overlay.aio.system import System

REPLY = b"\0\0\0\0\0\0\0\7pong"
"""Of ICMP: an echo reply with the number 7."""


class Peer:
    """What a connected socket talks to; away, the kernel answers "port unreachable" for it."""

    def __init__(self) -> None:
        self._sock = self._bound(("127.0.0.1", 0))
        self.address = self._sock.getsockname()

    def go(self) -> None:
        self._sock.close()

    def back(self) -> None:
        self._sock = self._bound(self.address)

    def say(self, data: bytes, to: tuple[str, int]) -> None:
        self._sock.sendto(data, to)

    def _bound(self, address: tuple[str, int]) -> socket.socket:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        return sock


async def heard(got: list[bytes], say: Callable[[], None]) -> bool:
    """More than one: the first may have been there before."""
    for _ in range(3):
        before = len(got)
        say()
        for _ in range(100):
            if len(got) > before:
                break
            await asyncio.sleep(0.01)
        else:
            return False
    return True


@pytest.mark.parametrize("sends", [1, 2])
async def test_an_asset_that_was_away_is_heard_again(sends: int):
    """The error of the first datagram is met by reading; of two in a row, by the second one."""
    peer, got = Peer(), list[bytes]()
    made = await System().net.datagrams(
        lambda data, *_: got.append(bytes(data)), remote=peer.address
    )
    peer.go()
    for _ in range(3):
        for _ in range(sends):
            made.send(b"poll")
        await asyncio.sleep(0.02)
    peer.back()
    assert await heard(got, lambda: peer.say(b"answer", made.local))
    peer.go()
    made.close()


async def test_a_ping_that_somebody_refused_does_not_silence_the_others():
    peer, got = Peer(), list[bytes]()
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.settimeout(0)
    sock.connect(peer.address)
    made = PingSocket(sock, 7, lambda _, payload: got.append(payload))
    peer.go()
    for number in range(3):
        made.send(number, b"ping")
        await asyncio.sleep(0.02)
    peer.back()
    assert await heard(got, lambda: peer.say(REPLY, sock.getsockname()))
    peer.go()
    made.close()


async def test_refused_packets_are_heard_of_after_an_overflow(monkeypatch: pytest.MonkeyPatch):
    peer, got = Peer(), list[bytes]()
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(peer.address)
    monkeypatch.setattr(netfilter_log, "open_socket", lambda: sock)
    monkeypatch.setattr(netfilter_log, "ask", lambda *_: None)
    made = netfilter_log.PacketLog(1, lambda data: got.append(bytes(data)))
    peer.go()
    sock.send(b"x")
    await asyncio.sleep(0.02)
    body = bytes(4) + bytes((8, 0, netfilter_log._PAYLOAD, 0)) + b"junk"
    message = (16 + len(body)).to_bytes(4, "little") + bytes((0, 4)) + bytes(10) + body
    peer.back()
    assert await heard(got, lambda: peer.say(message, sock.getsockname()))
    peer.go()
    made.close()
