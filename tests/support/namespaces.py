"""Three network namespaces in a row, for programs that change the network: `[ hmi ]--[ box ]--[ server ]`.

The box forwards; the HMI's gateway is the box. Names carry the process's number, so that runs do not meet.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from tests.support.docs import ROOT
from tests.support.secluded import NOBODY, own_resolvers

HMI, BOX, SERVER = "h", "a", "s"
SERVER_ADDRESS = "10.9.0.2"
HMI_ADDRESSES = ("192.168.77.20", "fd77::20")


class Namespaces:
    """Made and removed by `namespaces`."""

    def __init__(self) -> None:
        self._names = {side: f"ftun{os.getpid()}{side}" for side in (HMI, BOX, SERVER)}

    def inside(self, side: str) -> list[str]:
        """What stands before a command that runs there."""
        return ["ip", "netns", "exec", self._names[side]]

    def run(
        self, side: str, *command: str, check: bool = False, seconds: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        return subprocess.run(
            [*self.inside(side), *command],
            capture_output=True, text=True, timeout=seconds, check=check,
        )  # fmt: skip

    def resolvers(self, side: str, *addresses: str) -> contextlib.AbstractContextManager[None]:
        """Programs that start there meanwhile find these in resolv.conf; else each side has a file of its own."""
        return own_resolvers(self._names[side], *addresses)

    def make(self) -> None:
        for name in self._names.values():
            _ip("netns", "add", name)
            # Without a search for doubles, which takes the first IPv6 packets a second.
            quick = ("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
            _ip("netns", "exec", name, "sysctl", "-qw", *quick)
            _ip("-n", name, "link", "set", "lo", "up")
        self._cable(
            "fh", HMI, (("192.168.77.20/24", "192.168.77.1/24"), ("fd77::20/64", "fd77::1/64"))
        )
        self._cable("fs", SERVER, (("10.9.0.2/24", "10.9.0.1/24"),))
        for gateway in ("192.168.77.1", "fd77::1"):
            _ip("-n", self._names[HMI], "route", "add", "default", "via", gateway)
        self.run(
            BOX,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            check=True,
        )

    def _cable(self, name: str, side: str, addresses: tuple[tuple[str, str], ...]) -> None:
        there, box = self._names[side], self._names[BOX]
        _ip("link", "add", name, "netns", there, "type", "veth", "peer", name, "netns", box)
        for far, near in addresses:
            quick = ["nodad"] if ":" in far else []
            _ip("-n", there, "address", "add", far, "dev", name, *quick)
            _ip("-n", box, "address", "add", near, "dev", name, *quick)
        for place in (there, box):
            _ip("-n", place, "link", "set", name, "up")

    def remove(self) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Make them, and remove them whatever happens."""
    made = Namespaces()
    made.remove()
    with contextlib.ExitStack() as stack:
        stack.callback(made.remove)
        for side in (HMI, BOX, SERVER):
            stack.enter_context(made.resolvers(side, NOBODY))
        made.make()
        yield made


@contextlib.contextmanager
def echoing(net: Namespaces) -> Iterator[None]:
    """The asset: a server of `tests.support.tun_client` where the server is."""
    server = subprocess.Popen(
        [*net.inside(SERVER), sys.executable, "-m", "tests.support.tun_client", "serve"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving\n"
        yield
    finally:
        server.kill()
        server.communicate()
