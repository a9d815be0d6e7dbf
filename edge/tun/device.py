"""A TUN device of our own (Linux: `Documentation/networking/tuntap.rst`), with virtio-net headers; see ADR 0006.

The device is gone when it is closed, so nothing of it survives a crash. Packets have the header of
`edge.packets.virtio` in front of them, and TCP comes and goes in super-packets of up to 64 KiB.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import NamedTuple

from edge.intercept.base import Failed
from edge.packets import virtio
from edge.packets.ip import MAX_PACKET

PATH = "/dev/net/tun"
MTU = 1500
QUEUES = 32
"""The kernel sorts flows into so many queues, each with its own end from which it drops: a busy flow costs only those
that share its queue.
"""
QUEUE = 1000
"""Packets that the kernel keeps for us in each; more are dropped, and TCP slows down."""
READ_SIZE = MAX_PACKET + virtio.SIZE

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUNSETVNETHDRSZ, TUNSETVNETLE = 0x400454D8, 0x400454DC
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
IFF_MULTI_QUEUE, IFF_TUN_EXCL = 0x0100, 0x8000
F_CSUM, F_TSO4, F_TSO6, F_ECN, F_USO4, F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFMTU, SIOCSIFTXQLEN = 0x8913, 0x8914, 0x8922, 0x8943
IFF_UP = 0x1

_NAME = struct.Struct("16sH22x")
_NUMBER = struct.Struct("16si20x")
_INT = struct.Struct("i")
_TCP = F_CSUM | F_TSO4 | F_TSO6 | F_ECN


class TunError(Failed):
    """There is no TUN device; the text says what is missing."""


class Offloads(NamedTuple):
    """What the kernel agreed to."""

    tcp: bool
    udp: bool


class TunDevice:
    """An open device, up and without addresses. Raises TunError when it cannot be made.

    Args:
        name: of the interface, at most 15 characters.
        mtu: as programs and devices see it.
    """

    def __init__(self, name: str, mtu: int = MTU) -> None:
        self.name = name
        self.mtu = mtu
        self.queues: tuple[int, ...] = ()
        """Descriptors; each is read and written like a device of its own."""
        try:
            alone = IFF_TUN_EXCL  # a queue more of somebody else's interface is not what is wanted
            for _ in range(QUEUES):
                self.queues += (_open(),)
                flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | alone
                fcntl.ioctl(self.queues[-1], TUNSETIFF, _NAME.pack(name.encode(), flags))
                alone = 0
            self.offloads = self._agree()
            self._set_up()
        except OSError as error:
            self.close()
            raise TunError(_why(name, error)) from None
        except BaseException:
            self.close()
            raise

    def _agree(self) -> Offloads:
        fd = self.queues[0]  # what follows is the same for all
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, _INT.pack(virtio.SIZE))
        fcntl.ioctl(fd, TUNSETVNETLE, _INT.pack(1))  # little-endian on every machine
        # By value, not by pointer. Super-packets of UDP came with Linux 6.2; both versions at once.
        for wanted, offloads in (
            (_TCP | F_USO4 | F_USO6, Offloads(tcp=True, udp=True)),
            (_TCP, Offloads(tcp=True, udp=False)),
        ):
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, TUNSETOFFLOAD, wanted)
                return offloads
        return Offloads(tcp=False, udp=False)

    def _set_up(self) -> None:
        name = self.name.encode()
        _interface(SIOCSIFMTU, _NUMBER.pack(name, self.mtu))
        _interface(SIOCSIFTXQLEN, _NUMBER.pack(name, QUEUE))
        self.bring_up()

    def bring_up(self) -> None:
        """Up, without touching addresses. Raises: OSError."""
        _interface(SIOCSIFFLAGS, _NAME.pack(self.name.encode(), IFF_UP))

    def write(self, packet: bytes | memoryview, queue: int) -> bool:
        """Give one packet to the kernel; False when it does not take it (malformed, no memory, device down).

        The kernel learns from it in which queue it is to put what comes back.
        """
        if queue not in self.queues:  # closed meanwhile: the number may be another file's by now
            return False
        try:
            os.write(queue, packet)
        except OSError:
            return False
        return True

    def exists(self) -> bool:
        """Whether there still is an interface of this name."""
        return self._flags() is not None

    def is_up(self) -> bool:
        """Whether it is up."""
        return bool((self._flags() or 0) & IFF_UP)

    def _flags(self) -> int | None:
        try:
            found = _interface(SIOCGIFFLAGS, _NAME.pack(self.name.encode(), 0))
        except OSError:
            return None
        return int(_NAME.unpack(found)[1])

    def close(self) -> None:
        """The interface is gone, and with it its addresses and routes."""
        for queue in self.queues:
            os.close(queue)
        self.queues = ()


def _interface(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return fcntl.ioctl(any_socket.fileno(), request, argument)


def _open() -> int:
    try:
        return os.open(PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TunError(
            f"There is no {PATH}: load the kernel module tun, or give the container that device."
        ) from None
    except PermissionError:
        raise TunError(
            f"{PATH} cannot be opened: give this program's user read and write access to it."
        ) from None
    except OSError as error:
        raise TunError(f"{PATH} cannot be opened: {error.strerror}.") from None


def _why(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "A TUN device needs the capability CAP_NET_ADMIN: give it to this program"
            " (systemd: AmbientCapabilities)."
        )
    if error.errno == errno.EBUSY and os.path.exists(f"/sys/class/net/{name}/tun_flags"):
        return (
            f"The interface {name} is in use by another program: where another edge runs on this host, give this one "
            "another name with --tun, and another pool."
        )
    if error.errno in (errno.EBUSY, errno.EINVAL, errno.EEXIST):
        return (
            f"The interface {name} cannot be a TUN device: another interface has that name,"
            " or the name is not valid; --tun gives another one."
        )
    return f"The interface {name} cannot be made: {error.strerror}."
