"""The resolver and resolv.conf of a host on which others write, too; in a namespace of its own."""

import asyncio
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edge.intercept.table import Table
from edge.machine.changes import HostChanges
from edge.machine.making import HostMachine, run
from edge.names import asking, host_names, names
from edge.names.host_names import MARK
from edge.names.names import Names
from overlay.aio.system import System
from overlay.control.messages import Assignments, InterceptEntry
from tests.support.changes import Changes
from tests.support.honest import until
from tests.support.namespace import inside, ip, namespace
from tests.support.needs import need_program
from tests.support.tun_box import POOLS

OWN, OWN_6 = str(POOLS.v4[1]), str(POOLS.v6[1])
NAME, ADDRESSES = "plc-b.mill.internal", [str(one) for one in POOLS.addresses(7)]
HEAD = f"{MARK.format('mill.internal')}\nnameserver {OWN}\n"
ASSIGNED = Assignments(
    1, b"", (), (), (InterceptEntry("plc-b", 7, (), "box", 0, ()),), domain="mill.internal"
)


def begin(changes: Any, path: Path) -> Names:
    """Names that are answered on loopback."""
    table = Table(ASSIGNED.intercepts, (), POOLS, "edge-a")
    made = Names(
        System(), lambda: table, lambda *_: True, changes, lambda: "lo", "resolv.conf", path
    )
    made.assign(ASSIGNED)
    return made


async def dig(server: str, kind: str, *options: str) -> str:
    """What an unmodified client is answered: by UDP, and by TCP the same."""
    asked = ["+short", "+time=2", f"@{server}", NAME, kind]
    found = {(await run("dig", *asked, *way)).strip() for way in ((), ("+tcp",))}
    assert len(found) == 1
    return found.pop()


def mode(made: Names) -> str | None:
    """How the host asks; None while it does not."""
    return (made.status() or {}).get("mode")


@pytest.mark.parametrize(
    ("given", "told", "answers"),
    [
        ((OWN, OWN_6), OWN, ADDRESSES),
        ((OWN,), OWN, [ADDRESSES[0], ""]),
        ((OWN_6,), OWN_6, ["", ADDRESSES[1]]),
    ],
    ids=["both", "no IPv6 here", "no IPv4 here"],
)
async def test_names_are_answered_at_every_address_that_the_device_has(
    tmp_path: Path, given: tuple[str, ...], told: str, answers: list[str]
):
    """And an asset has the addresses to which this host leads."""
    need_program("dig", "bind9-dnsutils")
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    with namespace("versions") as name:
        for one in given:
            ip(name, "address", "add", one, "dev", "lo")

        async def work() -> None:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            made = begin(changes, path)
            await until(lambda: mode(made))
            assert (made.status() or {})["at"] == list(given)
            assert path.read_text().splitlines()[1:] == [
                f"nameserver {told}",
                "nameserver 192.0.2.1",
            ]
            for server in given:
                assert [await dig(server, kind) for kind in ("A", "AAAA")] == answers
            await made.close()

        await inside(name, work)
    assert path.read_text() == "nameserver 192.0.2.1\n"


async def test_names_are_answered_as_soon_as_it_is_told_that_the_device_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(names, "RETRY", 60.0)
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    with namespace("told") as name:

        async def work() -> None:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            made = begin(changes, path)
            await asyncio.sleep(0.1)
            assert made.status() is None, "there is no device"
            ip(name, "address", "add", OWN, "dev", "lo")
            made.look()
            await until(lambda: mode(made))
            await made.close()

        await inside(name, work)


async def test_who_points_at_the_edge_by_hand_is_answered_while_this_host_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """resolv.conf lies where nothing may be written, as in the service's sandbox; and then it does not."""
    monkeypatch.setattr(names, "RETRY", 0.02)
    monkeypatch.setattr(asking, "AGAIN", 0.02)
    need_program("dig", "bind9-dnsutils")
    mount = need_program("mount", "mount")
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    with namespace("sandbox") as name:
        ip(name, "address", "add", f"{OWN}/32", "dev", "lo")
        subprocess.run([mount, "--bind", path, path], check=True)
        subprocess.run([mount, "-o", "remount,bind,ro", path], check=True)

        async def work() -> None:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            made = begin(changes, path)
            await until(made.problems)
            (problem,) = made.problems()
            assert problem.startswith(f"names are answered at {OWN}, but this host does not ask")
            assert "Read-only file system. The edge's user, or its service, may not" in problem
            assert "CAP_NET_ADMIN" not in problem
            assert made.status() == {
                "domain": "mill.internal", "mode": None, "why": problem, "at": [OWN], "problems": [problem],
                "answered": 0, "forwarded": 0, "refused": 0,
            }  # fmt: skip
            assert await dig(OWN, "A") == ADDRESSES[0]
            await until(lambda: changes.made == ())  # but while it is being tried
            subprocess.run([need_program("umount", "mount"), path], check=True)
            await until(lambda: mode(made))
            assert made.problems() == []
            assert path.read_text().startswith(HEAD)
            await made.close()

        await inside(name, work)


async def test_devices_get_other_names_of_whom_the_host_asks_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where resolv.conf is somebody else's."""
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(host_names, "RESOLV_CONF", path)
    monkeypatch.setattr(host_names, "UPSTREAM", tmp_path / "upstream")
    made = asking.Asking(Changes(), "none", "lo", [OWN], "mill.internal")  # type: ignore[arg-type]
    for server in ("192.0.2.1", "192.0.2.2"):
        path.write_text(f"nameserver {OWN}\nnameserver {server}\n")
        await made.look()
        assert made.others == ((server, 53),)


async def test_another_server_in_the_place_of_the_edge_is_said_with_what_to_do(tmp_path: Path):
    """It listens at all addresses of this host, and gives way in the end."""
    with namespace("taken") as name:
        ip(name, "address", "add", f"{OWN}/32", "dev", "lo")

        async def work() -> None:
            with socket.socket(type=socket.SOCK_DGRAM) as other:
                other.bind(("0.0.0.0", 53))
                made = begin(Changes(), tmp_path / "resolv.conf")
                await until(made._own_problems)
                (problem,) = made._own_problems()
            assert problem.startswith("names are not answered: Address already in use. Another DNS")
            assert (made.status() or {})["why"] == problem
            await until(lambda: (made.status() or {}).get("at") == [OWN])
            await made.close()

        await inside(name, work)


async def test_a_change_of_the_host_that_fails_is_tried_again_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking, "AGAIN_AT_MOST", 3 * asking.AGAIN)
    now, changes = 0.0, Changes()
    changes.refuses = "not today"
    path = tmp_path / "resolv.conf"
    path.write_text("")
    made = asking.Asking(changes, "resolv.conf", "lo", [OWN], "mill.internal", path)  # type: ignore[arg-type]
    made._now, made._next = lambda: now, 0.0
    tried: list[float] = []
    while now < 9.5 * asking.AGAIN:
        before = made._next
        await made.look()
        if made._next != before:
            tried.append(now / asking.AGAIN)
        assert made.problem.endswith("not today")
        now += asking.AGAIN / 4
    assert tried == [0, 1, 3, 6, 9]
    changes.refuses, now = "", made._next
    await made.look()
    assert (made.problem, made.chosen is not None) == ("", True)


async def test_what_others_write_to_resolv_conf_goes_behind_the_edge_and_stays_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(names, "RETRY", 0.02)
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    with namespace("names") as name:
        ip(name, "address", "add", f"{OWN}/32", "dev", "lo")

        async def work() -> list[str]:
            changes = await HostChanges.open(System(), tmp_path, HostMachine())
            made = begin(changes, path)
            await until(lambda: path.read_text() == f"{HEAD}nameserver 192.0.2.1\n")
            path.write_text("nameserver 192.0.2.2\n")  # a DHCP client, of another network now
            await until(lambda: path.read_text() == f"{HEAD}nameserver 192.0.2.2\n")
            path.unlink()
            await asyncio.sleep(0.1)
            assert made.status() is not None, "devices ask the edge and not the file"
            path.write_text("nameserver 192.0.2.3\noptions rotate\n")
            await until(lambda: "192.0.2.3" in path.read_text() and OWN in path.read_text())
            await made.close()
            assert changes.made == ()
            return made.problems()

        assert await inside(name, work) == []
    assert path.read_text() == "nameserver 192.0.2.3\noptions rotate\n"


async def test_a_full_disk_at_the_end_keeps_no_socket(tmp_path: Path):
    path = tmp_path / "resolv.conf"
    path.write_text("")
    with namespace("full") as name:
        ip(name, "address", "add", f"{OWN}/32", "dev", "lo")

        async def work() -> None:
            changes = Changes()
            for _ in range(2):  # the second finds the port free
                made = begin(changes, path)
                await until(made.status)
                changes.full = True
                await made.close()
                assert "No space left" in made.problem
                changes.full = False

        await inside(name, work)
