"""The benchmark's load generator counts what really arrived, and says in one line what went wrong. Judges no speed."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.load import Generator
from deploy.demo.plant import until
from deploy.demo.ports import free_port
from tests.support.needs import need_program

SECONDS = 0.4
LEAD = 0.5


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    need_program("cc", "gcc libc6-dev")
    generator = Generator(tmp_path_factory.mktemp("generator"), 0.1)
    generator.build()
    return generator.program


@pytest.fixture(scope="module")
def port(program: str) -> Iterator[int]:
    found = free_port()
    server = subprocess.Popen([program, "serve", str(found)])
    try:
        until(lambda: is_open(found), 10, "the generator's server")
        yield found
    finally:
        server.kill()
        server.wait()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def run(program: str, port: int, kind: str, *arguments: str) -> Any:
    begin = time.monotonic_ns() + int(LEAD * 1e9)
    end = begin + int(SECONDS * 1e9)
    done = subprocess.run(
        [program, kind, "127.0.0.1", str(port), str(begin), str(end), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=40,
        stdin=subprocess.DEVNULL,
    )
    return json.loads(done.stdout)


class Swallow:
    """A server that takes bulk and lies about how much: it says 4711."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.taken = 0
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection, self.listener:
            while data := connection.recv(1 << 20):
                self.taken += len(data)
            connection.sendall((4711).to_bytes(8, "little"))


def test_it_is_the_server_that_counts(program: str):
    server = Swallow()
    found = run(program, server.port, "bulk", "1", "u", "65536", "0")
    server.thread.join(10)
    assert found["up"] == [4711]
    assert server.taken > 65536


@pytest.mark.parametrize("write", ["1024", "262144"])
def test_a_stream_with_a_limit_keeps_it(program: str, port: int, write: str):
    rate = 80_000_000
    found = run(program, port, "bulk", "1", "u", write, str(rate))
    assert 0 < found["up"][0] <= rate / 8 * (LEAD + SECONDS) + int(write)


def test_each_direction_is_counted_for_itself(program: str, port: int):
    up = run(program, port, "bulk", "2", "u", "65536", "0")
    down = run(program, port, "bulk", "2", "d", "65536", "0")
    both = run(program, port, "bulk", "2", "b", "65536", "0")
    assert all(up["up"])
    assert up["down"] == [0, 0]
    assert all(down["down"])
    assert down["up"] == [0, 0]
    assert all(both["up"])
    assert all(both["down"])


def test_polls_at_a_rate_are_all_there_however_late(program: str, port: int):
    found = run(program, port, "poll", "4", "100")
    assert found["count"] == pytest.approx(4 * 100 * SECONDS, abs=4)
    ranks = list(found["ranks"].values())
    assert ranks == sorted(ranks)
    assert found["late_p99_us"] >= 0


def test_connections_are_counted_when_the_answer_came(program: str, port: int):
    found = run(program, port, "connect", "5")
    assert found["count"] > 0
    assert found["failed"] == 0


def test_no_more_datagrams_arrive_than_were_sent(program: str, port: int):
    found = run(program, port, "datagrams", "1000", "200")
    # A last turn that comes late sends what is due by then.
    assert 0 < found["received"] <= found["sent"] <= 1000 * SECONDS + 40


def test_datagrams_that_are_dropped_are_missing(program: str, port: int):
    """Every third datagram is lost on the way, by a relay that asks and answers pass."""
    relay, server = socket.socket(type=socket.SOCK_DGRAM), ("127.0.0.1", port)
    relay.bind(("127.0.0.1", 0))
    relay.settimeout(5)
    number = 0

    def pass_on() -> None:
        nonlocal number
        client: Any = None
        while True:
            try:
                data, sender = relay.recvfrom(65536)
            except OSError:
                return
            if sender == server:
                relay.sendto(data, client)
                return
            client = sender
            number += 1
            if number % 3 or data[:1] == b"a":
                relay.sendto(data, server)

    thread = threading.Thread(target=pass_on)
    thread.start()
    found = run(program, relay.getsockname()[1], "datagrams", "500", "200")
    thread.join(10)
    relay.close()
    assert found["received"] <= found["sent"] * 0.7


def test_held_connections_are_open_until_told(program: str, port: int):
    holder = subprocess.Popen(
        [program, "hold", "127.0.0.1", str(port), "0", "0", "20"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert json.loads(holder.stdout.readline()) == {"open": 20}
    sockets = [
        name for name in os.listdir(f"/proc/{holder.pid}/fd")
        if "socket:" in os.readlink(f"/proc/{holder.pid}/fd/{name}")
    ]  # fmt: skip
    assert len(sockets) == 20
    holder.communicate(timeout=10)
    assert holder.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("bulk", "127.0.0.1", "1", "0", "0", "1", "u", "1024", "0"),
        ("poll", "nowhere", "1", "0", "0", "1", "0"),
        ("poll", "127.0.0.1"),
        ("dance",),
        ("datagrams", "127.0.0.1", "1", "0", "0", "10", "3"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(program: str, arguments: tuple[str, ...]):
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_machine_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="apt-get install gcc libc6-dev"):
        Generator(tmp_path, 0.1).build()
