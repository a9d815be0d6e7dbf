"""Changes of a real host, in a namespace of its own: made, seen by unmodified tools, taken back."""

import asyncio
import contextlib
import ipaddress
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.machine.changes import (
    AddressChange,
    Change,
    FileChange,
    HostChanges,
    HostError,
    NftChange,
    RouteChange,
    RuleChange,
)
from edge.machine.making import HostMachine
from edge.machine.netfilter import Commits, table_exists
from edge.machine.netlink import LOCAL, Netlink
from edge.machine.tables import Tables
from overlay.aio.system import System
from tests.support.docs import ROOT
from tests.support.honest import until
from tests.support.namespace import command_in, inside, ip, namespace
from tests.support.needs import need_program


def changes_of(resolv: Path) -> tuple[Change, ...]:
    return (
        AddressChange("lo", "100.64.0.1/32"),
        AddressChange("lo", "fd00:1::1/128"),
        RouteChange("100.64.0.0/10", "lo"),
        RouteChange("fd00:1::/64", "lo"),
        RouteChange("0.0.0.0/0", "lo", table=1000, kind=LOCAL),
        RuleChange(4, 0x66, 1000, 100),
        RuleChange(6, 0x66, 1000, 100),
        NftChange("inet", "ferrule", "chain pre { type filter hook prerouting priority -150\n }"),
        FileChange(str(resolv), b"nameserver 100.64.0.1\n"),
    )


def state(name: str, resolv: Path) -> list[str]:
    """What tools that know nothing of us see."""
    nft = subprocess.run(
        command_in(name, "nft", "list", "ruleset"), capture_output=True, check=True
    )
    return [
        *(ip(name, *words) for words in (
            ("addr", "show", "lo"), ("route", "show", "table", "all"),
            ("-6", "route", "show", "table", "all"), ("rule",), ("-6", "rule"),
        )),
        nft.stdout.decode(), resolv.read_text(),
    ]  # fmt: skip


async def test_everything_is_made_and_taken_back_also_after_a_crash(tmp_path: Path):
    need_program("nft", "nftables")
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\n")
    with namespace("host") as name:
        before = state(name, resolv)

        async def crash() -> None:  # nothing is taken back: the process is gone
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            await changes.apply(changes_of(resolv))

        async def repair() -> list[str]:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            assert len(changes.made) == len(changes_of(resolv))
            await changes.undo()
            await changes.undo(changes_of(resolv))  # once more does no harm
            return changes.left

        await inside(name, crash)
        during = state(name, resolv)
        assert "100.64.0.1/32" in during[0]
        assert "fd00:1::/64" in during[2]
        assert "fwmark 0x66 lookup 1000" in during[3]
        assert "table inet ferrule" in during[5]
        assert during[6:] == ["nameserver 100.64.0.1\n"]
        assert await inside(name, repair) == []
        assert state(name, resolv) == before


async def test_what_was_there_already_is_refused_and_stays(tmp_path: Path):
    there: tuple[Change, ...] = (
        AddressChange("lo", "100.64.0.1/32"),
        RouteChange("0.0.0.0/0", "lo", table=1000, kind=LOCAL),
        RuleChange(4, 0x66, 1000, 100),
    )
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("")
    with namespace("there") as name:

        async def administrator() -> None:
            changes = await HostChanges.open(System(), tmp_path / "other", HostMachine())
            await changes.apply(there)

        async def edge() -> tuple[Change, ...]:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            for at in range(len(there)):  # none of those that come after the refused one, either
                with pytest.raises(HostError, match="File exists"):
                    await changes.apply([AddressChange("lo", "100.64.0.9/32"), *there[at:]])
            await changes.undo()
            return changes.made

        (tmp_path / "other").mkdir()
        await inside(name, administrator)
        before = state(name, resolv)
        assert await inside(name, edge) == ()
        assert state(name, resolv) == before


KILLED_AT = """
import asyncio, os, signal, sys
from pathlib import Path
from edge.machine.changes import HostChanges
from edge.machine.making import HostMachine
from overlay.aio.system import System
from tests.integration.test_host_machine import changes_of

class Killed(HostMachine):
    async def do(self, change):
        if change == CHANGES[int(sys.argv[2])]:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().do(change)

async def main():
    changes = await HostChanges.open(System(), Path(sys.argv[1]), Killed())
    await changes.apply(CHANGES)

CHANGES = changes_of(Path(sys.argv[1]) / "resolv.conf")
asyncio.run(main())
"""
THEIRS = (
    "address add 100.64.0.1/32 dev lo",
    "address add fd00:1::1/128 dev lo",
    "route add 100.64.0.0/10 dev lo",
    "-6 route add fd00:1::/64 dev lo",
    "route add local default dev lo table 1000",
    "rule add fwmark 0x66 lookup 1000 priority 100",
    "-6 rule add fwmark 0x66 lookup 1000 priority 100",
)
"""What an administrator says to have the same as `changes_of`."""


@pytest.mark.parametrize("made", range(len(THEIRS) + 1))
async def test_killed_between_two_changes_it_takes_back_what_it_made_and_nothing_else(
    tmp_path: Path, made: int
):
    """The later ones, which it was about to make, an administrator makes after it has died."""
    need_program("nft", "nftables")
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\n")
    with namespace(f"kill{made}") as name:
        clean = state(name, resolv)
        killed = subprocess.run(
            command_in(name, sys.executable, "-c", KILLED_AT, str(tmp_path), str(made)),
            cwd=ROOT, check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        assert made == 0 or state(name, resolv) != clean
        for line in THEIRS[made:]:
            ip(name, *line.split())

        async def start() -> tuple[Change, ...]:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            assert len(changes.made) == len(changes_of(resolv))
            await changes.undo()
            return changes.made

        assert await inside(name, start) == ()
        for line in THEIRS[made:]:
            ip(name, *line.replace(" add ", " del ").split())
        assert state(name, resolv) == clean, "nothing of its own was left"


async def test_what_somebody_flushes_is_made_again(tmp_path: Path):
    """A firewall that starts anew takes the tables; a network manager addresses, routes and rules that it does not know."""
    need_program("nft", "nftables")
    with namespace("flush") as name:

        async def work() -> None:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            await changes.apply(changes_of(tmp_path / "resolv.conf"))
            before = state(name, tmp_path / "resolv.conf")
            assert await changes.put_back() == []
            subprocess.run(command_in(name, "nft", "flush", "ruleset"), check=True)
            assert state(name, tmp_path / "resolv.conf") != before
            assert len(await changes.put_back()) == 1
            assert state(name, tmp_path / "resolv.conf") == before
            for line in THEIRS:
                ip(name, *line.replace(" add ", " del ").split())
            assert len(await changes.put_back()) == len(THEIRS)
            assert state(name, tmp_path / "resolv.conf") == before
            ip(name, "route", "replace", "100.64.0.0/10", "dev", "lo", "proto", "static")
            assert await changes.put_back() == [], "there is a way there"
            ip(
                name,
                "route",
                "replace",
                "100.64.0.0/10",
                "dev",
                "lo",
                "proto",
                "70",
                "scope",
                "link",
            )
            await changes.undo()

        (tmp_path / "resolv.conf").write_text("")
        clean = state(name, tmp_path / "resolv.conf")
        await inside(name, work)
        assert state(name, tmp_path / "resolv.conf") == clean


async def test_tables_that_somebody_flushes_are_made_again_at_once(tmp_path: Path):
    """Nobody looks at the host here: the kernel tells of it, also of what comes right after."""
    need_program("nft", "nftables")
    (tmp_path / "resolv.conf").write_text("")
    with namespace("at-once") as name:

        async def work() -> list[float]:
            loop = asyncio.get_running_loop()
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            kept = Tables(changes)
            kept.start()
            await changes.apply(changes_of(tmp_path / "resolv.conf"))
            took = []
            for _ in range(3):
                subprocess.run(command_in(name, "nft", "flush", "ruleset"), check=True)
                begun = loop.time()
                await until(lambda: table_exists("inet", "ferrule"), 30)
                took.append(loop.time() - begun)
            await kept.close()
            await changes.undo()
            return took

        assert min(await inside(name, work)) < 0.5, "other work on the machine may delay some"


async def test_of_a_big_change_of_tables_little_is_heard(tmp_path: Path):
    with namespace("heard") as name:

        async def work() -> list[int]:
            heard = Commits()
            sizes = []
            try:
                for rules in (table_of("big"), NftChange("inet", "small", "chain one {\n}")):
                    await HostMachine().do(rules)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            sizes.append(len(heard._socket.recv(1 << 16)))
            finally:
                heard.close()
            return sizes

        sizes = await inside(name, work)
    assert len(sizes) == 3, "sets, and what uses them; and the small one"
    assert max(sizes) < 200


async def test_what_is_gone_already_is_no_error_and_what_others_changed_is_left(tmp_path: Path):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\n")
    with namespace("gone") as name:

        async def work() -> list[str]:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            await changes.apply(changes_of(resolv))
            with Netlink() as kernel:
                kernel.drop_address(1, ipaddress.ip_interface("100.64.0.1/32"))
            resolv.write_text("nameserver 198.51.100.1\n")
            await changes.undo()
            return changes.left

        (left,) = await inside(name, work)
        assert "somebody else's" in left
        assert resolv.read_text() == "nameserver 198.51.100.1\n"


async def test_a_refusal_is_heard_also_after_a_list_that_was_not_read_to_its_end(tmp_path: Path):
    """What has been looked for is found, and what the kernel still says of others answers no later request."""
    with namespace("list") as name:

        async def work() -> None:
            with Netlink() as kernel:
                assert kernel.whose(1, ipaddress.ip_interface("127.0.0.1/8")) is not None
                for address in ("192.0.2.1/32", "192.0.2.2/32"):
                    with pytest.raises(OSError, match="Cannot assign"):
                        kernel.drop_address(1, ipaddress.ip_interface(address))
                kernel.add_address(1, ipaddress.ip_interface("192.0.2.1/32"))
                with pytest.raises(FileExistsError):
                    kernel.add_address(1, ipaddress.ip_interface("192.0.2.1/32"))

        await inside(name, work)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (AddressChange("nowhere0", "100.64.0.1/32"), "No such device"),
        (NftChange("inet", "ferrule", "nonsense"), "nft -f"),
        (NftChange("inet", "ferrule", "nonsense", "chain whole {\n }"), "nft -f"),
        (FileChange("/nowhere/resolv.conf", b""), "No such file"),
    ],
)
async def test_a_change_that_cannot_be_made_says_why(tmp_path: Path, change: Change, words: str):
    with namespace("no") as name:

        async def work() -> None:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            await changes.apply([AddressChange("lo", "100.64.0.9/32"), change])

        with pytest.raises(HostError, match=words):
            await inside(name, work)
        assert "100.64.0.9" not in ip(name, "addr")  # nor is the one before it
        assert tables(name) == "", "nor a part of it"


def tables(name: str) -> str:
    return subprocess.run(
        command_in(name, "nft", "list", "tables"), capture_output=True, check=True, text=True
    ).stdout


def table_of(name: str, first: int = 0) -> NftChange:
    """Ten thousand places and 127.0.0.9, where 127.0.0.1 may send to and nobody else."""
    places = [f"10.{n // 250}.{n % 250}.0 . udp . 5000" for n in range(first, first + 10_000)]
    places.append("127.0.0.0 . udp . 9000")
    elements = ("served", tuple(places)), ("allowed", tuple(f"127.0.0.1 . {one}" for one in places))
    sets = [
        f"set {name} {{\ntype {kind} . inet_proto . inet_service\n}}"
        for name, kind in (("served", "ipv4_addr"), ("allowed", "ipv4_addr . ipv4_addr"))
    ]
    place = "ip daddr & 255.255.255.0 . meta l4proto . th dport"
    gate = f"chain gate {{\nip saddr . {place} @allowed return\nreject\n}}"
    hook = f"chain out {{\ntype filter hook output priority 0\n{place} @served goto gate\nip daddr 127.0.0.9 reject\n}}"
    return NftChange("inet", name, hook, "\n".join([*sets, gate]), elements)


async def test_without_nft_there_is_no_table_and_nothing_of_it_to_take_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One that is there, of a run that had nft, is named."""
    table = NftChange(
        "inet", "ferrule", "chain pre { type filter hook prerouting priority -150\n }"
    )
    with namespace("nonft") as name:

        async def work() -> None:
            made = await HostChanges.open(System(), tmp_path, HostMachine())
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "which", lambda *_, **__: None)
                with pytest.raises(HostError, match=r"nft is not installed .*: install it"):
                    await made.apply([table])
            assert (made.made, made.left) == ((), [])
            await made.apply([table])
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "which", lambda *_, **__: None)
                await made.undo()
            (left,) = made.left
            assert left.startswith(
                "the nftables table inet ferrule cannot be taken back: nft is not"
            )
            await made.undo()
            assert (made.made, made.left) == ((), [])

        await inside(name, work)


async def test_a_table_in_the_place_of_another_refuses_nothing_meanwhile(tmp_path: Path):
    """With sets and rules in one transaction the kernel has the rules in force before it finds anything in the sets."""
    need_program("nft", "nftables")
    refused: list[OSError] = []
    over = threading.Event()

    def send(to: tuple[str, int]) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0))
            client.connect(to)
            while not over.is_set():
                try:
                    client.send(b"x")
                except OSError as error:
                    refused.append(error)

    async def work() -> None:
        changes = await HostChanges.open(System(), tmp_path, HostMachine())
        with socket.socket(type=socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.9", 9000))
            old = table_of("even")
            await changes.apply([old])
            sender = threading.Thread(target=send, args=(server.getsockname(),))
            sender.start()
            try:
                for name in ("odd", "even", "odd", "even"):
                    new = table_of(name)
                    await changes.apply([new])
                    await changes.undo([old])
                    old = new
                for first in (5000, 0, 9999, 0):
                    new = table_of("even", first)
                    assert await changes.alter(old, new)
                    old = new
            finally:
                over.set()
                sender.join()

    with namespace("swap") as name:
        ip(name, "link", "set", "lo", "up")
        await inside(name, work)
        assert tables(name).split() == ["table", "inet", "even"]
    assert refused == []
