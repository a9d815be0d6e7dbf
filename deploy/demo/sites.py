"""Two plants with the same addresses in network namespaces, and a plant of Ferrule across them. Needs root.

Each site is a LAN 192.168.1.0/24 (and fd01::/64) with one box at .1, a PLC at .10 and an HMI at .50. A box has a line
to the DMZ, where router and controller are; nothing is forwarded there, so the sites cannot reach each other but
through Ferrule. Only the boxes run any of it.
"""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Self

from deploy.demo.plant import CommandFailed, Plant

SITES = ("north", "south")
DEVICES = {"plc": 10, "hmi": 50}
DMZ = "dmz"
ROUTER = "172.31.0.1"
BOX, PLC, HMI = ("192.168.1.1", "192.168.1.10", "192.168.1.50")
BOX6, PLC6, HMI6 = ("fd01::1", "fd01::10", "fd01::50")
RESOLVER = "100.64.0.1"


class Namespaces:
    """The machines: `dmz`, and `north-box`, `north-plc`, `north-hmi` and the same for `south`."""

    def __init__(self) -> None:
        machines = (f"{site}-{what}" for site in SITES for what in ("box", *DEVICES))
        self._names = {one: f"frp{os.getpid()}-{one}" for one in (DMZ, *machines)}

    def inside(self, machine: str) -> list[str]:
        """What stands before a command that runs on a machine."""
        return ["ip", "netns", "exec", self._names[machine]]

    def make(self) -> None:
        """Make all of them and their cables.

        Raises:
            CommandFailed: one cannot be made; what was made is still there.
        """
        for name in self._names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        self.ip(DMZ, "addr", "add", f"{ROUTER}/32", "dev", "lo")
        for number, site in enumerate(SITES, start=1):
            self._line(site, number)
            self._lan(site)

    def remove(self) -> None:
        """Remove them; what is not there is no error."""
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def ip(self, machine: str, *arguments: str) -> None:
        """Run `ip` on a machine. Raises: CommandFailed."""
        _ip("-n", self._names[machine], *arguments)

    def _cable(self, one: str, its_name: str, other: str, other_name: str) -> None:
        there = ("type", "veth", "peer", "name", other_name, "netns", self._names[other])
        _ip("link", "add", its_name, "netns", self._names[one], *there)
        self.ip(one, "link", "set", its_name, "up")
        self.ip(other, "link", "set", other_name, "up")

    def _line(self, site: str, number: int) -> None:
        """From a box to the DMZ."""
        box = f"{site}-box"
        self._cable(box, "wan0", DMZ, f"{site}0")
        self.ip(box, "addr", "add", f"172.31.{number}.2/30", "dev", "wan0")
        self.ip(DMZ, "addr", "add", f"172.31.{number}.1/30", "dev", f"{site}0")
        self.ip(box, "route", "add", f"{ROUTER}/32", "via", f"172.31.{number}.1")

    def _lan(self, site: str) -> None:
        """An unmanaged switch, which the box happens to be, too."""
        box = f"{site}-box"
        self.ip(box, "link", "add", "lan0", "type", "bridge")
        self.ip(box, "link", "set", "lan0", "up")
        self.ip(box, "addr", "add", f"{BOX}/24", "dev", "lan0")
        self.ip(box, "addr", "add", f"{BOX6}/64", "dev", "lan0", "nodad")
        for device, number in DEVICES.items():
            machine = f"{site}-{device}"
            self._cable(machine, "eth0", box, f"{device}0")
            self.ip(box, "link", "set", f"{device}0", "master", "lan0")
            self.ip(machine, "addr", "add", f"192.168.1.{number}/24", "dev", "eth0")
            self.ip(machine, "addr", "add", f"fd01::{number}/64", "dev", "eth0", "nodad")
            self.ip(machine, "route", "add", "default", "via", BOX)
            self.ip(machine, "-6", "route", "add", "default", "via", BOX6)
        _run(
            *self.inside(box), "sysctl", "-qw", "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
        )  # fmt: skip


class TwoSites(Plant):
    """Controller and router in the DMZ, the edges `north` and `south` on the boxes."""

    def __init__(self) -> None:
        super().__init__(edges=SITES)
        self.router_host = ROUTER
        self.machines = Namespaces()
        self.resolv = Path(self.path("resolv.conf"))
        self.resolv.write_text(f"nameserver {RESOLVER}\n")

    def __enter__(self) -> Self:
        try:
            self.machines.make()
            return super().__enter__()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process, and remove the machines."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.machines.remove)
            super().stop()

    def prefix(self, name: str) -> list[str]:
        """Where each program and the operator are."""
        return self.machines.inside(f"{name}-box" if name in SITES else DMZ)

    def start_edge(self, name: str, *options: str) -> None:
        """The boxes' own resolvers stay as they are: they are namespaces of a host that has one."""
        super().start_edge(name, "--names", "none", *options)

    def on(self, machine: str, *command: str) -> list[str]:
        """A command on a machine that asks the box for names, as a device does that got it by DHCP."""
        script = f'mount --bind {self.resolv} /etc/resolv.conf && exec "$@"'
        return [*self.machines.inside(machine), "sh", "-c", script, "sh", *command]


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip()}")
