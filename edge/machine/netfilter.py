"""What the kernel's netfilter is asked over netlink: messages, whether a table of nftables is there, and whether
somebody has changed any; needs CAP_NET_ADMIN.

Layouts: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, linux/filter.h.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator

from edge.machine.news import NetlinkNews

REQUEST, ACK = 0x1, 0x4
ERROR = 2
SECONDS = 5.0
"""For an answer of the kernel."""
_NETFILTER = 12
_GET_TABLE, _TABLE_NAME = 0xA01, 1
_NEW_GENERATION = 0xA0F
_NEWS_OF_TABLES = 1 << 6
"""The group of what is changed in nftables, as `bind` takes it."""
_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_16, _JUMP_EQUAL, _RETURN = 0x28, 0x15, 0x06
_FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def open_socket() -> socket.socket:
    """A socket whose calls end after `SECONDS`. Raises: OSError: the kernel has no netfilter."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    try:
        made.bind((0, 0))
        made.settimeout(SECONDS)
    except BaseException:
        made.close()
        raise
    return made


def ask(
    sock: socket.socket, kind: int, flags: int, family: int, resource: int, attributes: bytes
) -> None:
    """Send one message, and take its first answer. Raises: OSError: the kernel's refusal, or none came."""
    body = struct.pack(">BBH", family, 0, resource) + attributes
    sock.send(_HEADER.pack(16 + len(body), kind, REQUEST | flags, 1, 0) + body)
    for answer, data in messages(sock.recv(65_536)):
        if answer == ERROR:
            code = -int(struct.unpack_from("=i", data)[0])
            if code:
                raise OSError(code, os.strerror(code))


def table_exists(family: str, table: str) -> bool:
    """Whether nftables has a table (`family` is inet, ip or ip6). Raises: OSError: the kernel does not say."""
    with open_socket() as sock:
        try:
            name = attribute(_TABLE_NAME, table.encode() + b"\0")
            ask(sock, _GET_TABLE, 0, _FAMILIES[family], 0, name)
        except FileNotFoundError:
            return False
    return True


class Commits(NetlinkNews):
    """Readable when somebody has changed rules of nftables: once for each transaction, however much is in it.

    Raises: OSError: the kernel has no nftables, or does not tell (EPERM: no CAP_NET_ADMIN).
    """

    protocol = _NETFILTER
    groups = _NEWS_OF_TABLES

    def _prepare(self, sock: socket.socket) -> None:
        _let_in(sock, _NEW_GENERATION)  # of ten thousand elements of a set nothing is kept for us


def _let_in(sock: socket.socket, kind: int) -> None:
    """Let the kernel drop all messages but those of one type, which is the third field of their header."""
    as_loaded = int.from_bytes(struct.pack("=H", kind), "big")
    program = b"".join(
        _INSTRUCTION.pack(*one)
        for one in (
            (_LOAD_16, 0, 0, 4),
            (_JUMP_EQUAL, 0, 1, as_loaded),
            (_RETURN, 0, 0, 0xFFFF),
            (_RETURN, 0, 0, 0),
        )
    )
    kept = ctypes.create_string_buffer(program)
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(kept)))


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram: type and what follows the header."""
    at = 0
    while at + 16 <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if not 16 <= length <= len(data) - at:
            return
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)
