"""The tools of the system tests find what they are there to find."""

import asyncio
import os
import random
import socket
import subprocess
import sys

import pytest

from tests.support import census, edges, words
from tests.support.docs import ROOT
from tests.support.proxy import Proxy
from tests.support.records import assert_whole, tally
from tests.support.simulated_network import WINDOW
from tests.support.traffic import Caller, Echo, assert_refused_at_once, reachable


def test_an_echo_answers_callers_and_keeps_what_came():
    with Echo() as server:
        with Caller(server.port) as one, Caller(server.port) as two:
            one.echo(b"one")
            two.echo(b"2" * 1_000_000)
            assert one.works()
        assert server.connections == 2
        assert server.received.startswith(b"one")
        assert reachable(server.port)


def test_a_half_close_still_gets_its_answer():
    with Echo() as server, Caller(server.port) as caller:
        caller.socket.sendall(b"last")
        caller.socket.shutdown(socket.SHUT_WR)
        assert caller.read(4) == b"last"
        assert caller.closed_within(2) < 2


def test_the_simulated_echo_keeps_what_a_full_connection_does_not_take():
    async def test(plant: edges.Plant) -> None:
        client = edges.Client()
        client.connection = await plant.hmi.world.net.connect(edges.ASSET, edges.PORT)
        sent = random.Random(1).randbytes(4 * WINDOW)
        left = memoryview(sent)
        for _ in range(8):  # nothing is read before the echo has no room any more
            left = left[client.connection.write((left,)) :]
            await asyncio.sleep(0.01)
        assert len(left) > WINDOW
        client.connection.start(client)
        while left:
            left = left[client.connection.write((left,)) :]
            await asyncio.sleep(0.01)
        client.connection.end()
        await client.expect(sent)

    edges.story(test)


def test_ports_that_a_program_was_given_are_let_go_without_a_warning():
    code = "from deploy.demo.ports import free_port; free_port(), free_port()"
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_an_answer_is_no_refusal_and_silence_neither():
    with Echo() as server, pytest.raises(AssertionError, match="answered"):
        assert_refused_at_once(server.port)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(AssertionError, match="neither refused"),
    ):
        assert_refused_at_once(silent.getsockname()[1], 0.2)


def test_a_closed_port_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert assert_refused_at_once(port) < 1
    assert not reachable(port)


def test_an_open_connection_is_not_taken_for_a_closed_one():
    with (
        Echo() as server,
        Caller(server.port) as caller,
        pytest.raises(AssertionError, match="still open"),
    ):
        caller.closed_within(0.1)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(
    ("kind", "name"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")]
)
def test_the_census_finds_sockets_on_every_address(
    family: socket.AddressFamily, kind: socket.SocketKind, name: str
):
    host = "0.0.0.0" if family == socket.AF_INET else "::"
    try:
        found = socket.socket(family, kind)
        found.bind((host, 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with found:
        port = found.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            assert census.Socket(name, host, port) not in census.listening(os.getpid()), (
                "bound only"
            )
            found.listen()
        wanted = census.Socket(name, host, port)
        assert wanted in census.listening(os.getpid())
        assert not wanted.loopback
    assert wanted not in census.listening(os.getpid())


def test_the_census_knows_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = census.Socket("tcp", "127.0.0.1", server.getsockname()[1])
        assert found in census.listening(os.getpid())
        assert found.loopback


def test_a_proxy_passes_refuses_and_mangles():
    with Echo() as server, Proxy() as proxy:
        target = f"127.0.0.1:{server.port}"

        def connect() -> Caller:
            caller = Caller(proxy.port)
            caller.socket.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            return caller

        with connect() as caller:
            assert b" 200 " in caller.socket.recv(1000)
            caller.echo(b"honest")
            proxy.mangle = lambda data, up: data.upper() if up else data
            caller.socket.sendall(b"word")
            assert caller.read(4) == b"WORD"
        proxy.mangle = None
        proxy.refuse = True
        with connect() as caller:
            assert b" 403 " in caller.socket.recv(1000)
        assert proxy.asked == [target, target]


@pytest.mark.parametrize(
    "stderr",
    [
        "",
        "no.\n",
        "Traceback (most recent call last):\n  File x\nValueError: some words here\n",
        "one sentence here\nand another one\n",
        f"ferrule: {'word ' * 100}\n",
    ],
)
def test_what_is_not_one_sentence_is_found(stderr: str):
    with pytest.raises(AssertionError):
        words.sentence(stderr)


def test_a_sentence_is_found_below_usage_and_a_log():
    usage = "Usage: ferrule add\nTry 'ferrule add --help' for help.\n\nError: no such option: --x\n"
    assert words.sentence(usage) == "no such option: --x"
    log = "12:00 warning: link down\nferrule-edge: the folder is in use\n"
    assert words.last_sentence(log) == "the folder is in use"


def record(seq: int, node: str, number: int, count: int = 1) -> dict[str, object]:
    return {"seq": seq, "node": node, "number": number, "count": count}


def test_missing_and_repeated_events_are_found():
    good = [record(1, "a", 1), record(2, "b", 1), record(3, "a", 2, count=4)]
    assert assert_whole(good) == {"a": 2, "b": 1}
    assert tally(good) == 6
    replaced = [record(1, "a", 1), record(2, "a", 2), record(3, "a", 1), record(4, "a", 2)]
    assert assert_whole(replaced, {"a": 2}) == {"a": 4}
    for bad in (
        [record(1, "a", 1), record(2, "a", 3)],
        [record(1, "a", 1), record(2, "a", 1)],
        [record(1, "a", 2)],
        [record(1, "a", 1), record(3, "a", 2)],
        [record(1, "a", 1), record(2, "a", 2), record(3, "a", 1)],
        [record(1, "a", 1), record(2, "a", 2), record(3, "a", 2)],
    ):
        with pytest.raises(AssertionError):
            assert_whole(bad)
