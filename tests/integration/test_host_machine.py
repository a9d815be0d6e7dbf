"""Changes of a real host, in a namespace of its own: made, seen by unmodified tools, taken back."""

import ipaddress
import subprocess
from pathlib import Path

import pytest

from edge.host_changes import (
    AddressChange,
    Change,
    FileChange,
    HostChanges,
    HostError,
    NftChange,
    RouteChange,
    RuleChange,
    SettingChange,
)
from edge.host_machine import HostMachine
from edge.netlink import LOCAL, Netlink
from overlay.aio.system import System
from tests.support.namespace import command_in, inside, ip, namespace
from tests.support.needs import need_program

FORWARDING = "/proc/sys/net/ipv4/ip_forward"


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
        SettingChange(FORWARDING, "1"),
        FileChange(str(resolv), b"nameserver 100.64.0.1\n"),
    )


def state(name: str, resolv: Path) -> list[str]:
    """What tools that know nothing of us see."""
    nft = subprocess.run(
        command_in(name, "nft", "list", "ruleset"), capture_output=True, check=True
    )
    forwarding = subprocess.run(
        command_in(name, "cat", FORWARDING), capture_output=True, check=True
    )
    return [
        *(ip(name, *words) for words in (
            ("addr", "show", "lo"), ("route", "show", "table", "all"),
            ("-6", "route", "show", "table", "all"), ("rule",), ("-6", "rule"),
        )),
        nft.stdout.decode(), forwarding.stdout.decode(), resolv.read_text(),
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
        assert during[6:] == ["1\n", "nameserver 100.64.0.1\n"]
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
        assert "somebody else has changed it" in left
        assert resolv.read_text() == "nameserver 198.51.100.1\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (AddressChange("nowhere0", "100.64.0.1/32"), "No such device"),
        (SettingChange("/proc/sys/kernel/hostname", "x"), "only what is below"),
        (NftChange("inet", "ferrule", "nonsense"), "nft -f"),
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
