"""Everything that passes TCP ports on loopback, as somebody on the wire sees it (a packet socket; needs root)."""

import ctypes
import socket
import struct
import threading
from typing import Self

_ALL_PROTOCOLS = 3
_OUTGOING = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26
_BUFFER = 64 * 1024 * 1024
_ETHERNET, _TCP = 14, 6


def _only(ports: tuple[int, ...]) -> bytes:
    """A filter for the kernel (classic BPF): TCP over IPv4 from or to these ports. Else other work on the machine would
    fill the buffer."""
    load_half, load_byte, load_port, header = 0x28, 0x30, 0x48, 0xB1
    equal, done = 0x15, 0x06
    tests = [(load_half, 12, 0x0800), (load_byte, 23, _TCP)]
    program: list[tuple[int, int, int, int]] = []
    length = 2 * len(tests) + 1 + 2 * (1 + len(ports)) + 2
    for load, place, value in tests:
        program.append((load, 0, 0, place))
        program.append((equal, 0, length - len(program) - 3, value))
    program.append((header, 0, 0, _ETHERNET))
    for place in (_ETHERNET, _ETHERNET + 2):
        program.append((load_port, 0, 0, place))
        for port in ports:
            program.append((equal, length - len(program) - 2, 0, port))
    program += [(done, 0, 0, 0), (done, 0, 0, 1 << 18)]
    return b"".join(struct.pack("=HBBI", *step) for step in program)


class Capture:
    """Use as a context manager; afterwards `seen(port)` is the payload of all packets from and to a port.

    Raises:
        AssertionError: at the end, when the kernel dropped packets: what was missed proves nothing.
    """

    def __init__(self, *ports: int) -> None:
        self._payload = {port: bytearray() for port in ports}
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        program = ctypes.create_string_buffer(_only(ports))
        size = (len(program) - 1) // 8
        self._socket.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("@HP", size, ctypes.addressof(program)),
        )
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        counters = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._socket.close()
        dropped = struct.unpack("II", counters)[1]
        assert dropped == 0, f"{dropped} packets were missed"

    def seen(self, port: int) -> bytes:
        """The payloads of this port's packets, in the order in which they passed."""
        return bytes(self._payload[port])

    def _run(self) -> None:
        while True:
            try:
                frame, source = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                if self._over.is_set():  # and nothing is left
                    return
                continue
            if source[2] == _OUTGOING:  # on loopback each packet passes twice
                self._take(frame[_ETHERNET:])

    def _take(self, packet: bytes) -> None:
        if not packet or packet[0] >> 4 != 4 or packet[9] != _TCP:
            return
        tcp = packet[(packet[0] & 15) * 4 :]
        ports = struct.unpack_from("!HH", tcp)
        for port in self._payload.keys() & set(ports):
            self._payload[port] += tcp[(tcp[12] >> 4) * 4 :]
