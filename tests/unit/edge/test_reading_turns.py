"""Sockets of the kernel's that never fall silent give everything else of the event loop its turn."""

import asyncio
import socket
from typing import Any

import pytest

from edge.host import ping_socket
from edge.machine import netfilter_log

MORE = 5


class Endless:
    """A socket of the kernel's on which more than one turn's worth waits."""

    family, type = socket.AF_INET, socket.SOCK_DGRAM

    def __init__(self, count: int, data: bytes) -> None:
        self.waiting = [data] * count
        self.real = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def fileno(self) -> int:
        return self.real.fileno()

    def settimeout(self, _: float) -> None:
        pass

    def recv(self, _: int) -> bytes:
        if not self.waiting:
            raise BlockingIOError
        return self.waiting.pop()

    def close(self) -> None:
        self.real.close()


async def test_answers_of_an_asset_to_pings_are_read_so_many_in_a_turn():
    got: list[int] = []
    endless: Any = Endless(ping_socket._PER_TURN + MORE, b"\0\0\0\0\0\0\0\7pong")
    made = ping_socket.PingSocket(endless, 7, lambda sequence, _: got.append(sequence))
    for count in (ping_socket._PER_TURN, ping_socket._PER_TURN + MORE):
        made._readable()
        assert got == [7] * count
    made.close()


async def test_refused_packets_are_heard_of_so_many_in_a_turn(monkeypatch: pytest.MonkeyPatch):
    packet = bytes((8, 0, netfilter_log._PAYLOAD, 0)) + b"junk"
    body = bytes(4) + packet
    message = (16 + len(body)).to_bytes(4, "little") + bytes((0, 4)) + bytes(10) + body
    endless = Endless(netfilter_log.PER_TURN + MORE, message)
    monkeypatch.setattr(netfilter_log, "open_socket", lambda: endless)
    monkeypatch.setattr(netfilter_log, "ask", lambda *_: None)
    got: list[bytes] = []
    made = netfilter_log.PacketLog(1, lambda data: got.append(bytes(data)))
    for count in (netfilter_log.PER_TURN, netfilter_log.PER_TURN + MORE):
        made._readable()
        assert got == [b"junk"] * count
    made.close()
    await asyncio.sleep(0)
