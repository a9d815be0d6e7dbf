"""systemd-resolved on a bus of its own, and the edge's resolver beside it; run inside a network and a mount namespace.

`python -m tests.support.resolved_box ROOT FOLDER`: ROOT is where the daemon's packages are, FOLDER is for files. Prints what
clients that know nothing of us are answered, as one JSON document.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import uvloop

from edge.host_changes import HostChanges
from edge.host_machine import HostMachine, run
from edge.names.answers import Zone
from edge.names.host_names import choose
from edge.names.server import Resolver
from edge.netlink import Netlink
from edge.tun.device import TunDevice
from edge.tun.routes import TunRoutes
from overlay.aio.system import System
from overlay.policy.interception import Pools
from tests.support.needs import need_program

POOLS = Pools.of(("100.64.0.0/10", "fd00:1::/64"), bytes(32))
DEVICE, OURS, OTHER = "ferrule0", "100.64.0.1", "127.0.0.9"
BUS = """<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true"/><allow receive_type="method_call"/><allow receive_type="method_return"/>
<allow receive_type="error"/><allow receive_type="signal"/></policy></busconfig>"""


class Directory:
    """plc-b, for everybody."""

    def addresses(self, asset: str, source: bytes | None) -> Any:
        return POOLS.addresses(16) if asset == "plc-b" else ()

    def asset_at(self, address: Any, source: bytes | None) -> str:
        return ""


class Elsewhere(asyncio.DatagramProtocol):
    """The resolver that the host had before: everything is at 192.0.2.9."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        name = str(query.question[0].name)
        self.asked.append(name)
        reply = dns.message.make_response(query)
        if query.question[0].rdtype == 1:
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.9"))
        self.transport.sendto(reply.to_wire(), addr)


@contextlib.asynccontextmanager
async def daemons(root: Path, folder: Path) -> AsyncIterator[None]:
    """The bus and the daemon; both are gone afterwards."""
    mount, run_ = need_program("mount", "mount"), Path("/run/systemd")
    run_.mkdir(exist_ok=True)
    (folder / "resolv.conf").write_text(f"nameserver {OTHER}\n")
    users = Path("/etc/passwd").read_text()
    if "systemd-resolve:" not in users:
        users += "systemd-resolve:x:0:0::/:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(users)
    (folder / "bus.conf").write_text(BUS.format(folder / "bus"))
    for command in (
        ("-t", "tmpfs", "tmpfs", str(run_)),
        ("--bind", str(folder / "passwd"), "/etc/passwd"),
        ("--bind", str(folder / "resolv.conf"), os.path.realpath("/etc/resolv.conf")),
    ):
        subprocess.run([mount, *command], check=True)
    (run_ / "resolve").mkdir()
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={folder / 'bus'}"
    os.environ["PATH"] = f"{root / 'usr/bin'}:{os.environ['PATH']}"
    libraries = [str(one.parent) for one in root.glob("usr/lib/*/systemd/libsystemd-shared*")]
    libraries += [str(one.parent) for one in root.glob("lib/*/systemd/libsystemd-shared*")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(libraries)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in (
            [need_program("dbus-daemon", "dbus-daemon"), f"--config-file={folder / 'bus.conf'}",
             "--nofork", "--nopidfile"],
            [str(root / "lib/systemd/systemd-resolved")],
        ):  # fmt: skip
            started.append(subprocess.Popen(daemon, stderr=subprocess.DEVNULL))
            await asyncio.sleep(0.2)
        async with asyncio.timeout(20):
            while not await _answers():  # noqa: ASYNC110 - another program's start
                await asyncio.sleep(0.1)
        yield
    finally:
        for one in reversed(started):
            one.terminate()
            one.wait()


async def _answers() -> bool:
    try:
        await run("resolvectl", "status", "--no-pager")
    except Exception:  # noqa: BLE001 - not yet
        return False
    return True


async def asked(name: str) -> str:
    """What the stub answers to `dig`, as any program of this host would ask."""
    found = await run("dig", "+short", "+time=2", "+tries=3", "@127.0.0.53", name)
    return found.strip()


async def main(root: Path, folder: Path) -> None:
    """All of it, once."""
    loop = asyncio.get_running_loop()
    _, elsewhere = await loop.create_datagram_endpoint(Elsewhere, (OTHER, 53))
    found: dict[str, Any] = {}
    async with daemons(root, folder):
        device = TunDevice(DEVICE)
        TunRoutes(lambda: [POOLS.v4]).ready(DEVICE, [ipaddress.ip_interface(f"{OURS}/32")])
        resolver = Resolver(System(), Zone("mill.internal", POOLS, Directory()), lambda _: True)
        await resolver.start(OURS)
        found["before"] = await asked("plc-b.mill.internal")
        chosen = await choose("auto", DEVICE, OURS, "mill.internal")
        found["mode"] = chosen.mode
        assert chosen.change is not None
        changes = await HostChanges.open(System(), folder, HostMachine())
        await changes.apply([chosen.change])
        await run("resolvectl", "flush-caches")
        elsewhere.asked.clear()
        found["during"] = [await asked("plc-b.mill.internal"), await asked("www.example.com")]
        found["elsewhere"] = sorted(set(elsewhere.asked))
        found["ours"] = resolver.counts["answered"]
        # As after a crash: another run finds the journal.
        again = await HostChanges.open(System(), folder, HostMachine())
        await again.undo()
        found["left"] = again.left
        await run("resolvectl", "flush-caches")
        found["after"] = [await asked("plc-b.mill.internal"), await asked("www.example.com")]
        found["resolv.conf"] = (folder / "resolv.conf").read_text()
        await resolver.close()
        device.close()
        with Netlink() as kernel:
            found["device"] = DEVICE in [link.name for link in kernel.links()]
    print(json.dumps(found))


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
