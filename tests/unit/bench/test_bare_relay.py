"""The bare relay of `python` passes on all bytes of both ways and both ends, and nothing else."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from bench.candidates.bare import PROGRAM
from deploy.demo.ports import free_port


@pytest.fixture
def relayed() -> Iterator[tuple[int, socket.socket]]:
    """The relay's port, and the listener to which it leads."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        words = ["127.0.0.1", str(port), "127.0.0.1", str(server.getsockname()[1])]
        with subprocess.Popen([sys.executable, str(PROGRAM), *words]) as process:
            try:
                yield port, server
            finally:
                process.kill()


def dial(port: int) -> socket.socket:
    """As soon as it listens."""
    for _ in range(400):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise TimeoutError("the relay does not listen")


def say(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def test_all_bytes_both_ways_and_both_ends(relayed: tuple[int, socket.socket]):
    port, server = relayed
    with dial(port) as client:
        other, _ = server.accept()
        with other:
            said = bytes(range(251)) * 40_000  # more than all buffers on the way hold
            sender = threading.Thread(target=say, args=(client, said))
            sender.start()
            time.sleep(0.1)  # the relay has to wait for room
            got = bytearray()
            while data := other.recv(65_536):
                got += data
            sender.join(10)
            assert got == said
            other.sendall(b"answer")
            assert client.recv(100) == b"answer"
            other.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""


def test_a_connection_that_breaks_is_closed_on_the_other_side(relayed: tuple[int, socket.socket]):
    port, server = relayed
    client = dial(port)
    other, _ = server.accept()
    with other:
        client.close()
        assert other.recv(100) == b""
