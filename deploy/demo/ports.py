"""Ports that no other process on this machine is given, so that plants can be built side by side."""

import atexit
import contextlib
import random
import socket

_marks = contextlib.ExitStack()
"""One socket for each port that this process has given out; the kernel keeps their names unique on the machine."""
atexit.register(_marks.close)


def free_port() -> int:
    """A port on loopback that is free for TCP and UDP, below those that the kernel gives to outgoing connections.

    No other process gets it from this function while this one lives.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0ferrule-port-{port}")
            with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _marks.enter_context(mark)
        return port
