"""How this machine resolves names is out of reach of tests, and who writes the file that they have instead is told so.

As root, a run of tests has a mount namespace of its own, in which resolv.conf is a copy: whatever a test, a thread or a
program of it writes, this machine's file stays as it is. A namespace of the network has one of its own in `/etc/netns`.
Nor does anybody get at the system's bus, on which systemd-resolved listens, whatever the namespace.
"""

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

RESOLV_CONF = Path("/etc/resolv.conf")
NETNS, NAMES = Path("/etc/netns"), Path("/run/netns")
"""Where ip-netns(8) has files of namespaces, and the namespaces: a run has its own of both, so that one that is killed
leaves nothing there."""
NOBODY = "192.0.2.53"
"""Whom namespaces ask for names: an address that documents use (RFC 5737)."""
_NEW_MOUNTS = 0x20000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
_DETACH = 2


class Secluded:
    """What `resolv.conf` said when the run began; `close` when it ends. A run within a run has a copy of its own."""

    _runs: ClassVar[int] = 0

    def __init__(self) -> None:
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nowhere"
        self._copy: Path | None = None
        self._before = _read()
        if os.geteuid() == 0 and self._before is not None and (Secluded._runs or _apart()):
            self._copy = _copied(self._before)
            Secluded._runs += 1

    def written(self) -> str:
        """What to say of whoever has written the file since it was last asked; it is as before then. Empty: nobody did."""
        now, before = _read(), self._before
        if now == before or before is None:
            return ""
        if os.geteuid() == 0:
            RESOLV_CONF.write_bytes(before)
        else:
            self._before = now
        return (
            f"{RESOLV_CONF} of the machine itself would say now: {now!r}. A test that starts an edge which answers names "
            "gives it a file of its own: a namespace of tests.support, or a path"
        )

    def close(self) -> None:
        """The copy is not needed any more. Whatever outlives the outermost run never sees the machine's own file."""
        if self._copy is not None:
            Secluded._runs -= 1
            if Secluded._runs:
                _call("umount2", os.fsencode(RESOLV_CONF), _DETACH)
            self._copy.unlink()


@contextmanager
def own_resolvers(namespace: str, *addresses: str) -> Iterator[None]:
    """Programs that `ip netns exec` starts meanwhile find these in resolv.conf, and write it (ip-netns(8))."""
    file = NETNS / namespace / RESOLV_CONF.name
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_text() if file.exists() else None
    file.write_text("".join(f"nameserver {one}\n" for one in addresses))
    try:
        yield
    finally:
        if before is not None:
            file.write_text(before)
        else:
            file.unlink(missing_ok=True)
            file.parent.rmdir()


def _read() -> bytes | None:
    try:
        return RESOLV_CONF.read_bytes()
    except OSError:
        return None


def _apart() -> bool:
    """From here on this thread, and all that it starts, has its own mounts; False where this machine does not allow it."""
    try:
        _call("unshare", _NEW_MOUNTS)
    except PermissionError:
        return False
    _call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
    for folder in (NETNS, NAMES):
        folder.mkdir(parents=True, exist_ok=True)
        _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"mode=755")
    return True


def _copied(content: bytes) -> Path:
    """A copy that stands in for the file in this mount namespace."""
    descriptor, name = tempfile.mkstemp(prefix="resolv.conf.", dir=NETNS)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(name, 0o644)
    _call("mount", os.fsencode(name), os.fsencode(RESOLV_CONF.resolve()), None, _BIND, None)
    return Path(name)


def _call(name: str, *arguments: object) -> None:
    """A call of the system. Raises: OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
