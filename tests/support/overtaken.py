"""Segments of TCP that come later than others of their connection; run inside a network namespace, as root.

`python -m tests.support.overtaken INTERFACE` says "ready", and at the end of its input how many segments passed, how many
were overtaken on their way to the interface (by the kernel; also what was sent again), and how many were when they came
from it.
"""

import select
import socket
import struct
import sys

_ALL_PROTOCOLS, _OUTGOING = 3, 4
_TCP = 6


def newest(packet: bytes) -> tuple[bytes, int] | None:
    """Which connection and way, and the sequence number; None: it is not TCP."""
    if packet[0] >> 4 == 4 and packet[9] == _TCP:
        start, addresses = (packet[0] & 15) * 4, packet[12:20]
    elif packet[0] >> 4 == 6 and packet[6] == _TCP:
        start, addresses = 40, packet[8:40]
    else:
        return None
    return addresses + packet[start : start + 4], struct.unpack_from("!I", packet, start + 4)[0]


def main() -> None:
    """Count until the input ends."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sock.bind((sys.argv[1], _ALL_PROTOCOLS))
    print("ready", flush=True)
    seen: dict[bytes, int] = {}
    passed, overtaken = 0, [0, 0]
    while True:
        ready, _, _ = select.select([sock, sys.stdin], (), ())
        if sock not in ready:
            break
        packet, source = sock.recvfrom(1 << 17)
        found = newest(packet)
        if found is None:
            continue
        passed += 1
        way, sequence = found
        behind = (seen.get(way, sequence) - sequence) & 0xFFFFFFFF
        if 0 < behind < 1 << 31:
            overtaken[source[2] != _OUTGOING] += 1
        else:
            seen[way] = sequence
    print(passed, *overtaken)


if __name__ == "__main__":
    main()
