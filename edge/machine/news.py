"""A socket of netlink that only hears what has changed on this host."""

import errno
import os
import socket
from typing import ClassVar

AT_ONCE = 1024
"""Messages that are taken in one turn of the event loop."""


class NetlinkNews:
    """Readable when there are news of these `groups` of this `protocol`, both as the kernel numbers them.

    Raises: OSError: this system does not tell.
    """

    protocol: ClassVar[int]
    groups: ClassVar[int]

    def __init__(self) -> None:
        if not hasattr(socket, "AF_NETLINK"):
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self.protocol)
        try:
            self._prepare(self._socket)
            self._socket.bind((0, self.groups))
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(0)

    def _prepare(self, sock: socket.socket) -> None:
        """Before it hears anything."""

    def fileno(self) -> int:
        """What to wait at."""
        return self._socket.fileno()

    def skip(self) -> None:
        """Take what there is, unread; at most `AT_ONCE`."""
        for _ in range(AT_ONCE):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError:
                continue  # more than there was room for

    def close(self) -> None:
        """Give it back."""
        self._socket.close()
