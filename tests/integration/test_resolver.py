"""The resolver on real sockets: what it passes on, and what it refuses when there is too much at once."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import dns.message
import dns.rcode
import pytest

from deploy.demo.plant import free_port
from edge.names import server
from edge.names.answers import Zone
from edge.names.server import CONNECTIONS, FORWARDS, Resolver
from overlay.aio.system import System
from tests.support.honest import until
from tests.support.resolved_box import POOLS, Directory

LOCAL = "127.0.0.1"


class Elsewhere(asyncio.DatagramProtocol):
    """Another resolver, which answers nobody until it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Any]] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked.append((data, addr))

    def answer(self, count: int) -> None:
        asked, self.asked = self.asked[:count], self.asked[count:]
        for data, addr in asked:
            reply = dns.message.make_response(dns.message.from_wire(data))
            self.transport.sendto(reply.to_wire(), addr)


class Client(asyncio.DatagramProtocol):
    """Counts answers by their code."""

    def __init__(self) -> None:
        self.codes: list[dns.rcode.Rcode] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.codes.append(dns.message.from_wire(data).rcode())


@pytest.fixture
async def other() -> AsyncIterator[Elsewhere]:
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Elsewhere, (LOCAL, free_port()))
    yield made
    transport.close()
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def resolver(other: Elsewhere) -> AsyncIterator[tuple[Resolver, int]]:
    zone = Zone("mill.internal", POOLS, Directory())
    elsewhere = other.transport.get_extra_info("sockname")
    made = Resolver(System(), zone, lambda _: True, [elsewhere])
    _, port = await made.start(LOCAL, free_port())  # the kernel knows none for TCP and UDP
    try:
        yield made, port
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[Any, Client]]:
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Client, remote_addr=(LOCAL, port))
    try:
        yield transport, made
    finally:
        transport.close()


def has(other: Elsewhere, count: int) -> bool:
    return len(other.asked) == count


def heard(client: Client, count: int) -> bool:
    return len(client.codes) == count


def query(name: str) -> bytes:
    return dns.message.make_query(name, "A").to_wire()


async def test_more_queries_for_others_than_may_wait_are_refused_and_own_names_answered(
    other: Elsewhere, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "FORWARD_SECONDS", 60.0)
    async with resolver(other) as (made, port), client(port) as (transport, found):
        for number in range(FORWARDS):
            transport.sendto(query(f"n{number}.example.com"))
            if number % 32 == 31:  # sockets have room for so many
                await until(partial(has, other, number + 1))
        transport.sendto(query("one-more.example.com"))
        await until(lambda: found.codes == [dns.rcode.REFUSED])
        transport.sendto(query("plc-b.mill.internal"))
        await until(lambda: found.codes[1:] == [dns.rcode.NOERROR])
        assert made.counts == {"answered": 1, "forwarded": FORWARDS, "refused": 1}
        while other.asked:
            before = len(found.codes)
            other.answer(32)
            await until(partial(heard, found, before + 32))
        transport.sendto(query("again.example.com"))
        await until(lambda: len(other.asked) == 1)
        assert made.counts["forwarded"] == FORWARDS + 1


async def test_a_resolver_that_is_silent_costs_its_time_and_no_more(
    other: Elsewhere, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "FORWARD_SECONDS", 0.05)
    async with resolver(other) as (_, port), client(port) as (transport, found):
        transport.sendto(query("www.example.com"))
        await until(lambda: found.codes == [dns.rcode.SERVFAIL])


async def test_more_connections_than_there_may_be_are_cut_and_a_place_comes_free(other: Elsewhere):
    async with resolver(other) as (_, port):
        kept = [await connected(port) for _ in range(CONNECTIONS)]
        try:
            for one in kept:
                assert await asked(one)
            assert not await served(port)
            kept.pop().close()
            async with asyncio.timeout(20):
                while not await served(port):
                    pass  # until the resolver has seen the end of the other
        finally:
            for one in kept:
                one.close()


async def test_who_asks_and_says_no_more_still_gets_the_answer(other: Elsewhere):
    loop, text = asyncio.get_running_loop(), query("www.example.com")
    over = asyncio.Event()
    elsewhere = await asyncio.start_server(
        partial(answered, text, over), LOCAL, other.transport.get_extra_info("sockname")[1]
    )
    async with resolver(other) as (_, port), elsewhere:
        with await connected(port) as one:
            await loop.sock_sendall(one, len(text).to_bytes(2, "big") + text)
            one.shutdown(socket.SHUT_WR)
            assert (await loop.sock_recv(one, 4096))[2:] == text
            assert await loop.sock_recv(one, 1) == b"", "and then the end"
        await over.wait()


async def answered(
    text: bytes, over: asyncio.Event, _: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(len(text).to_bytes(2, "big") + text)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    over.set()


async def test_an_idle_connection_is_closed(other: Elsewhere, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 0.05)
    async with resolver(other) as (_, port):
        with await connected(port) as idle:
            assert await asyncio.get_running_loop().sock_recv(idle, 1) == b""


async def connected(port: int) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, (LOCAL, port))
    except BaseException:
        made.close()
        raise
    return made


async def asked(connection: socket.socket) -> bool:
    """Whether a query over this connection is answered; False: it is cut."""
    loop, text = asyncio.get_running_loop(), query("plc-b.mill.internal")
    try:
        await loop.sock_sendall(connection, len(text).to_bytes(2, "big") + text)
        answer = await loop.sock_recv(connection, 4096)
    except OSError:
        return False
    return bool(answer) and dns.message.from_wire(answer[2:]).rcode() == dns.rcode.NOERROR


async def served(port: int) -> bool:
    """Whether a connection of its own is answered; it may be cut before it is one."""
    try:
        with await connected(port) as made:
            return await asked(made)
    except ConnectionError:
        return False
