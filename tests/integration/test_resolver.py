"""The resolver on real sockets: what it passes on, and what it refuses when there is too much at once."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import dns.message
import dns.rcode
import pytest

from deploy.demo.ports import free_port
from edge.names import server
from edge.names.answers import MAX_QUERY, Zone
from edge.names.server import (
    CONNECTIONS,
    CONNECTIONS_OF_DEVICES,
    CONNECTIONS_PER_DEVICE,
    DEVICES,
    FORWARDS,
    PER_DEVICE,
    Resolver,
)
from overlay.aio.system import System
from tests.support.honest import until
from tests.support.resolved_box import POOLS, Directory

LOCAL, LOCAL_6 = "127.0.0.1", "::1"


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


def _near(source: str) -> str:
    """Where the resolver is for who asks from there."""
    return LOCAL_6 if ":" in source else LOCAL


@pytest.fixture
async def other() -> AsyncIterator[Elsewhere]:
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Elsewhere, (LOCAL, free_port()))
    yield made
    transport.close()
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def resolver(
    other: Elsewhere, *before: tuple[str, int], own: bool = True
) -> AsyncIterator[tuple[Resolver, int]]:
    """`before`: others that are asked first; `own`: who asks is the host itself."""
    zone = Zone("mill.internal", POOLS, Directory())
    elsewhere = other.transport.get_extra_info("sockname")
    made = Resolver(System(), zone, lambda source: own or source[-1] == 9, [*before, elsewhere])
    port = free_port()  # the kernel knows none for TCP and UDP
    await made.start(LOCAL, LOCAL_6, port=port)
    try:
        yield made, port
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def client(port: int, source: str = LOCAL) -> AsyncIterator[tuple[Any, Client]]:
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(
        Client, remote_addr=(_near(source), port), local_addr=(source, 0)
    )
    try:
        yield transport, made
    finally:
        transport.close()


def has(other: Elsewhere, count: int) -> bool:
    return len(other.asked) == count


def seen(made: Resolver, count: int) -> bool:
    return made.counts["forwarded"] + made.counts["refused"] == count


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


async def test_a_device_that_asks_much_takes_no_place_of_others(
    other: Elsewhere, monkeypatch: pytest.MonkeyPatch
):
    """Every address of loopback is a device here but 127.0.0.9, which is the host."""
    monkeypatch.setattr(server, "FORWARD_SECONDS", 60.0)
    async with resolver(other, own=False) as (made, port), contextlib.AsyncExitStack() as stack:
        waiting = sent = 0
        for number in range(10, 10 + DEVICES // PER_DEVICE + 1):
            greedy, _ = await stack.enter_async_context(client(port, f"127.0.0.{number}"))
            for turn in range(PER_DEVICE + 1):
                greedy.sendto(query(f"n{turn}.example.com"))
                sent += 1
                await until(partial(seen, made, sent))
            waiting = min(waiting + PER_DEVICE, DEVICES)
            assert made.counts["forwarded"] == waiting
        host, found = await stack.enter_async_context(client(port, "127.0.0.9"))
        host.sendto(query("www.example.com"))
        await until(partial(has, other, waiting + 1))
        other.answer(waiting + 1)
        await until(lambda: found.codes == [dns.rcode.NOERROR])


async def test_connections_of_a_device_take_no_place_of_others(other: Elsewhere):
    async with resolver(other, own=False) as (_, port), contextlib.AsyncExitStack() as stack:
        for number in range(10, 10 + CONNECTIONS_OF_DEVICES // CONNECTIONS_PER_DEVICE):
            for _ in range(CONNECTIONS_PER_DEVICE):
                one = stack.enter_context(await connected(port, f"127.0.0.{number}"))
                assert await asked(one)
            assert not await served(port, f"127.0.0.{number}")
        assert not await served(port, "127.0.0.99"), "all devices together"
        assert await served(port, "127.0.0.9"), "the host itself"


async def test_who_asks_by_ipv6_is_answered_at_that_address(other: Elsewhere):
    """Own names and those of others, by UDP and by TCP, and never more connections at both than at one."""
    async with resolver(other) as (made, port), client(port, LOCAL_6) as (transport, found):
        transport.sendto(query("plc-b.mill.internal"))
        await until(lambda: found.codes == [dns.rcode.NOERROR])
        transport.sendto(query("www.example.com"))
        await until(partial(has, other, 1))
        other.answer(1)
        await until(partial(heard, found, 2))
        with contextlib.ExitStack() as stack:
            for at in range(CONNECTIONS):
                one = stack.enter_context(await connected(port, (LOCAL, LOCAL_6)[at % 2]))
                assert await asked(one)
            assert not await served(port)
        assert made.counts["answered"] == 1 + CONNECTIONS


async def test_a_resolver_that_is_not_there_costs_no_time(
    other: Elsewhere, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "FORWARD_SECONDS", 60.0)
    nobody, nowhere = (LOCAL, free_port()), ("255.255.255.255", 53)
    async with resolver(other, nobody, nowhere) as (_, port), client(port) as (transport, found):
        transport.sendto(query("www.example.com"))
        await until(partial(has, other, 1))
        other.answer(1)
        await until(lambda: found.codes == [dns.rcode.NOERROR])


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


async def connected(port: int, source: str = LOCAL) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    made.setblocking(False)
    try:
        made.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(made, (_near(source), port))
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


async def served(port: int, source: str = LOCAL) -> bool:
    """Whether a connection of its own is answered; it may be cut before it is one."""
    try:
        with await connected(port, source) as made:
            return await asked(made)
    except ConnectionError:
        return False


async def test_a_longer_query_than_there_may_be_is_cut_off(
    other: Elsewhere, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 60.0)
    loop, text = asyncio.get_running_loop(), query("www.example.com")
    async with resolver(other) as (_, port), client(port) as (transport, _):
        transport.sendto(text + bytes(2 * MAX_QUERY))
        await until(partial(has, other, 1))
        assert other.asked[0][0] == (text + bytes(MAX_QUERY))[:MAX_QUERY]
        with await connected(port) as one:
            assert await asked(one)
            await loop.sock_sendall(one, (MAX_QUERY + 1).to_bytes(2, "big") + text)
            async with asyncio.timeout(20):  # it waits for nothing of it
                with contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(one, 1) == b""


async def test_queries_that_come_all_at_once_are_not_kept_all(other: Elsewhere):
    async with resolver(other) as (made, _):
        one: Any = SimpleNamespace(source=None, answer=lambda _: None)
        for _ in range(2 * FORWARDS + 5):
            made.heard(query("www.example.com"), one)
        assert len(made._tasks) == 2 * FORWARDS
        await asyncio.sleep(0)
        assert made.counts["forwarded"] == FORWARDS
