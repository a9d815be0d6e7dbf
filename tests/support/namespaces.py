"""Three network namespaces in a row, for programs that change the network: `[ hmi ]--[ box ]--[ server ]`.

The box forwards; the HMI's gateway is the box, and the HMI that of a device `narrow_way` puts behind it. Names carry the
process's number, so that runs do not meet.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from tests.support.docs import ROOT
from tests.support.secluded import NOBODY, own_resolvers

HMI, BOX, SERVER, FAR = "h", "a", "s", "f"
SERVER_ADDRESS = "10.9.0.2"
HMI_ADDRESSES = ("192.168.77.20", "fd77::20")
FAR_ADDRESSES = ("192.168.78.20", "fd78::20")


class Namespaces:
    """Made and removed by `namespaces`."""

    def __init__(self) -> None:
        self._names = {side: f"ftun{os.getpid()}{side}" for side in (HMI, BOX, SERVER, FAR)}

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
        for side in (HMI, BOX, SERVER):
            self._add(side)
        self._cable(
            "fh", HMI, BOX, (("192.168.77.20/24", "192.168.77.1/24"), ("fd77::20/64", "fd77::1/64"))
        )
        self._cable("fs", SERVER, BOX, (("10.9.0.2/24", "10.9.0.1/24"),))
        self._lead(HMI, BOX, "192.168.77.1", "fd77::1")

    def make_far(self, mtu: int) -> None:
        """A device behind the HMI, which forwards to it what takes `mtu` bytes and no more."""
        self._add(FAR)
        self._cable(
            "ff", FAR, HMI, (("192.168.78.20/24", "192.168.78.1/24"), ("fd78::20/64", "fd78::1/64"))
        )
        self._lead(FAR, HMI, "192.168.78.1", "fd78::1")
        for far, hmi in zip(FAR_ADDRESSES, HMI_ADDRESSES, strict=True):
            limit = ("mtu", "lock", str(mtu))
            _ip("-n", self._names[HMI], "route", "add", far, "dev", "ff", *limit)
            _ip("-n", self._names[BOX], "route", "add", far, "via", hmi)

    def remove_far(self) -> None:
        for far in FAR_ADDRESSES:
            self.run(BOX, "ip", "-6" if ":" in far else "-4", "route", "del", far)
        self._remove(FAR)

    def _add(self, side: str) -> None:
        name = self._names[side]
        _ip("netns", "add", name)
        # Without a search for doubles, which takes the first IPv6 packets a second; and with as many ICMP errors as are
        # due: a kernel says one a second to each host after the first six, and tests ask for more.
        quick = (
            "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
            "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0",
        )  # fmt: skip
        _ip("netns", "exec", name, "sysctl", "-qw", *quick)
        _ip("-n", name, "link", "set", "lo", "up")

    def _lead(self, side: str, router: str, *gateways: str) -> None:
        """Everything that leaves a side goes by this one, which forwards."""
        for gateway in gateways:
            _ip("-n", self._names[side], "route", "add", "default", "via", gateway)
        forward = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.run(router, "sysctl", "-qw", *forward, check=True)

    def _cable(self, name: str, side: str, to: str, addresses: tuple[tuple[str, str], ...]) -> None:
        there, here = self._names[side], self._names[to]
        _ip("link", "add", name, "netns", there, "type", "veth", "peer", name, "netns", here)
        for far, near in addresses:
            quick = ["nodad"] if ":" in far else []
            _ip("-n", there, "address", "add", far, "dev", name, *quick)
            _ip("-n", here, "address", "add", near, "dev", name, *quick)
        for place in (there, here):
            _ip("-n", place, "link", "set", name, "up")

    def remove(self) -> None:
        for side in self._names:
            self._remove(side)

    def _remove(self, side: str) -> None:
        command = ["ip", "netns", "del", self._names[side]]
        subprocess.run(command, check=False, capture_output=True)


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
def narrow_way(net: Namespaces, mtu: int) -> Iterator[None]:
    """A device at `FAR`, the way to which takes packets of `mtu` bytes: only the HMI, which forwards, knows that."""
    with net.resolvers(FAR, NOBODY):
        try:
            net.make_far(mtu)
            yield
        finally:
            net.remove_far()


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
