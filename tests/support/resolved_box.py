"""systemd-resolved and polkit on a bus of their own, and the edge's resolver beside them; run inside a network and a mount
namespace. What the edge changes it changes as the user of its service.

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
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import uvloop

from edge.machine.changes import HostChanges, HostError
from edge.machine.making import HostMachine, run
from edge.machine.netlink import Netlink
from edge.names.answers import Zone
from edge.names.host_names import choose
from edge.names.server import Resolver
from edge.tun.device import TunDevice
from edge.tun.routes import TunRoutes
from overlay.aio.system import System
from overlay.policy.interception import Pools
from tests.support.docs import ROOT
from tests.support.needs import need_program

POOLS = Pools.of(("100.64.0.0/10", "fd00:1::/64"), bytes(32))
DEVICE, OURS, OURS_6, OTHER = "ferrule0", "100.64.0.1", "fd00:1::1", "127.0.0.9"
SERVICE, SOMEBODY = 4242, 4243
"""Numbers of the user of the edge's service, and of another one."""
RUN, RULES = Path("/run/systemd"), Path("/etc/polkit-1/rules.d")
POLKITD = Path("/usr/lib/polkit-1/polkitd")
RULE = ROOT / "deploy/polkit/ferrule-edge.rules"
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
    """The bus and the daemons, and files where everybody may read them; all are gone afterwards."""
    mount = need_program("mount", "mount")
    RUN.mkdir(exist_ok=True)
    (folder / "resolv.conf").write_text(f"nameserver {OTHER}\n")
    users = Path("/etc/passwd").read_text()
    for name in ("systemd-resolve", "polkitd"):
        if f"{name}:" not in users:
            users += f"{name}:x:0:0::/:/usr/sbin/nologin\n"
    for name, number in (("ferrule-edge", SERVICE), ("somebody", SOMEBODY)):
        users += f"{name}:x:{number}:{number}::/:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(users)
    (folder / "bus.conf").write_text(BUS.format(RUN / "bus"))
    actions = "usr/share/polkit-1/actions"
    for command in (
        ("-t", "tmpfs", "tmpfs", str(RUN)),
        ("-t", "tmpfs", "tmpfs", str(RULES)),
        ("--bind", str(root / actions), f"/{actions}"),
        ("--bind", str(folder / "passwd"), "/etc/passwd"),
        ("--bind", str(folder / "resolv.conf"), os.path.realpath("/etc/resolv.conf")),
    ):
        subprocess.run([mount, *command], check=True)
    (RUN / "resolve").mkdir()
    (RUN / "root").mkdir()
    subprocess.run([mount, "--bind", str(root), str(RUN / "root")], check=True)
    root = RUN / "root"
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={RUN / 'bus'}"
    os.environ["PATH"] = f"{root / 'usr/bin'}:{os.environ['PATH']}"
    libraries = [str(one.parent) for one in root.glob("usr/lib/*/systemd/libsystemd-shared*")]
    libraries += [str(one.parent) for one in root.glob("lib/*/systemd/libsystemd-shared*")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(libraries)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in (
            [need_program("dbus-daemon", "dbus-daemon"), f"--config-file={folder / 'bus.conf'}",
             "--nofork", "--nopidfile"],
            [str(POLKITD), "--no-debug"],
            [str(root / "lib/systemd/systemd-resolved")],
        ):  # fmt: skip
            quiet = subprocess.DEVNULL
            started.append(subprocess.Popen(daemon, stdout=quiet, stderr=quiet))
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


async def asked(name: str, kind: str = "A") -> str:
    """What the stub answers to `dig`, as any program of this host would ask."""
    found = await run("dig", "+short", "+time=2", "+tries=3", "@127.0.0.53", name, kind)
    return found.strip()


@contextlib.contextmanager
def as_user(number: int) -> Iterator[None]:
    """Meanwhile this process, and all that it starts, is of another user."""
    os.setresgid(number, number, 0)
    os.setresuid(number, number, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


async def refused(work: Awaitable[object]) -> str:
    """Why it was; empty: it was not."""
    try:
        await work
    except HostError as error:
        return str(error)
    return ""


async def main(root: Path, folder: Path) -> None:
    """All of it, once."""
    loop = asyncio.get_running_loop()
    _, elsewhere = await loop.create_datagram_endpoint(Elsewhere, (OTHER, 53))
    found: dict[str, Any] = {}
    async with daemons(root, folder):
        device = TunDevice(DEVICE)
        routes = TunRoutes(lambda: [POOLS.v4])
        own = [ipaddress.ip_interface(f"{OURS}/32"), ipaddress.ip_interface(f"{OURS_6}/128")]
        routes.ready(DEVICE, own)
        resolver = Resolver(System(), Zone("mill.internal", POOLS, Directory()), lambda _: True)
        await resolver.start(OURS, OURS_6)
        found["before"] = await asked("plc-b.mill.internal")
        journal = RUN / "edge"
        journal.mkdir()
        os.chown(journal, SERVICE, SERVICE)
        with as_user(SERVICE):
            chosen = await choose("auto", DEVICE, [OURS, OURS_6], "mill.internal")
            found["mode"] = chosen.mode
            assert chosen.change is not None
            changes = await HostChanges.open(System(), journal, HostMachine())
            found["without a rule"] = await refused(changes.apply([chosen.change]))
            found["left without"] = [*changes.made, *changes.left]
        (RULES / "50-ferrule-edge.rules").write_bytes(RULE.read_bytes())
        with as_user(SERVICE):
            async with asyncio.timeout(20):  # polkit sees that there is another file
                while await refused(changes.apply([chosen.change])):  # noqa: ASYNC110 - another program
                    await asyncio.sleep(0.1)
            found["something else"] = await refused(run("resolvectl", "llmnr", DEVICE, "no"))
        with as_user(SOMEBODY):
            found["somebody else"] = await refused(run("resolvectl", "revert", DEVICE))
        found["servers"] = (await run("resolvectl", "dns", DEVICE)).partition(": ")[2].split()
        await run("resolvectl", "flush-caches")
        elsewhere.asked.clear()
        found["during"] = [
            await asked("plc-b.mill.internal"), await asked("plc-b.mill.internal", "AAAA"),
            await asked("www.example.com"),
        ]  # fmt: skip
        found["elsewhere"] = sorted(set(elsewhere.asked))
        found["ours"] = resolver.counts["answered"]
        # As after a crash: another run finds the journal.
        with as_user(SERVICE):
            again = await HostChanges.open(System(), journal, HostMachine())
            await again.undo()
        found["left"] = again.left
        await run("resolvectl", "flush-caches")
        found["after"] = [await asked("plc-b.mill.internal"), await asked("www.example.com")]
        found["resolv.conf"] = (folder / "resolv.conf").read_text()
        await resolver.close()
        routes.close()
        device.close()
        with Netlink() as kernel:
            found["device"] = DEVICE in [link.name for link in kernel.links()]
    print(json.dumps(found))


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
