"""Flows that must not notice what changes around them; run inside a network namespace.

`python -m tests.support.steady_flows HOST tcp|all`: a poll by TCP, one by UDP (`all`) and a stream of bulk through one
box. Prints a JSON document for each line on its standard input, and ends with that: for each the longest time without
an answer since the line before in seconds, how many answers came, and what went wrong. `machine` is how late a thread
was that only slept.
"""

import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable

PAUSE = 0.005
PIECE = 32 * 1024
PATIENCE = 60.0


class Watch:
    """One flow: what it saw since it was last asked."""

    def __init__(self) -> None:
        self.longest, self.count, self.failure = 0.0, 0, ""
        self._since = time.monotonic()

    def answered(self) -> None:
        """Something came back."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self._since)
        self._since = now
        self.count += 1

    def told(self) -> dict[str, object]:
        """What it saw, an answer that is still awaited included; begins anew."""
        waiting = time.monotonic() - self._since
        found = {
            "longest": max(self.longest, waiting), "count": self.count, "failure": self.failure
        }  # fmt: skip
        self.longest = 0.0
        return found


def poll(host: str, over: threading.Event, watch: Watch) -> None:
    """Twelve bytes and back, again and again."""
    with socket.create_connection((host, 5000), PATIENCE) as connection:
        while not over.wait(PAUSE):
            sent = b"%012d" % watch.count
            connection.sendall(sent)
            if connection.recv(len(sent), socket.MSG_WAITALL) != sent:
                raise ValueError(f"another answer after {watch.count}")
            watch.answered()


def datagrams(host: str, over: threading.Event, watch: Watch) -> None:
    """The same by UDP."""
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect((host, 7000))
        while not over.wait(PAUSE):
            sent = b"%012d" % watch.count
            client.send(sent)
            if client.recv(100) != sent:
                raise ValueError(f"another answer after {watch.count}")
            watch.answered()


def bulk(host: str, over: threading.Event, watch: Watch) -> None:
    """A stream: all that is sent comes back, in order."""
    data = hashlib.shake_128(b"steady").digest(PIECE)
    with socket.create_connection((host, 5000), PATIENCE) as connection:

        def send() -> None:
            while not over.wait(PAUSE):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        at = 0
        while piece := connection.recv(PIECE):
            if piece != (data + data)[at : at + len(piece)]:
                raise ValueError(f"another byte in piece {watch.count}")
            at = (at + len(piece)) % PIECE
            watch.answered()
        sender.join()
        if at:
            raise ValueError(f"{PIECE - at} bytes are missing")


def sleep(_: str, over: threading.Event, watch: Watch) -> None:
    """What the machine does to a program, whatever the box does."""
    while not over.wait(PAUSE):
        watch.answered()


WORK: dict[str, Callable[[str, threading.Event, Watch], None]] = {
    "poll": poll, "bulk": bulk, "machine": sleep, "datagrams": datagrams
}  # fmt: skip


def main(host: str, which: str) -> None:
    """All flows, until end of input."""
    over = threading.Event()
    watches = {name: Watch() for name in WORK if which == "all" or name != "datagrams"}

    def run(name: str, watch: Watch) -> None:
        try:
            WORK[name](host, over, watch)
        except (OSError, ValueError) as error:
            watch.failure = repr(error)

    threads = [threading.Thread(target=run, args=pair) for pair in watches.items()]
    for thread in threads:
        thread.start()
    for _ in sys.stdin:
        print(json.dumps({name: watch.told() for name, watch in watches.items()}), flush=True)
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({name: watch.told() for name, watch in watches.items()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
