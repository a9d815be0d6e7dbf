"""Worker processes of a router: bulk lanes in processes of their own; what is void is cut there, and a dead one is
survived (L-04, L-08, L-09, A-04)."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from overlay import limits
from overlay.errors import Code, FerruleError
from overlay.fabric.authority import FabricMap, Kill, Revocation, RouterEntry, Withdrawal
from overlay.identity.certificate import Role
from overlay.identity.trust import sign_body
from overlay.wire.header import Flag, Kind
from tests.support.census import alive
from tests.support.fabrics import Peer
from tests.support.honest import until
from tests.support.real_fabric import RealFabric, came

pytestmark = pytest.mark.timeout(120)

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
BLOCK = bytes(range(256)) * (limits.MAX_DATA // 256)


@pytest.fixture
async def fabric(tmp_path, monkeypatch):
    async with RealFabric(tmp_path / "r1", monkeypatch) as made:
        yield made


async def moved(fabric: RealFabric, a: Peer, b: Peer, **grant) -> tuple[int, int]:
    """A circuit that was resumed here; its number at both edges."""
    before = len(a.got(Kind.RESUME))
    number = a.resume(fabric.grant(**grant))
    there, payload = (await came(b, Kind.RESUME, len(b.got(Kind.RESUME)) + 1))[-1]
    b.link.send(Kind.RESUME, there, payload)
    await came(a, Kind.RESUME, before + 1)
    return number, there


async def controller(fabric: RealFabric) -> Peer:
    return await fabric.peer("controller", role=Role.CONTROLLER, credentials=fabric.controller)


def kill(level: str, name: str = "") -> Kill:
    return Kill(b"k" * 16, level, name, "smoke", 0, 0)


def gone(pid: int) -> bool:
    return not alive(pid)


async def test_a_circuit_passes_through_a_worker_and_status_says_so(fabric: RealFabric):
    a, b = await fabric.peer("edge-a"), await fabric.peer("edge-b")
    assert a.link.hello.bulk_lanes == 2
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    number, there = await moved(fabric, a1, b1)
    for sequence in range(8):
        a1.link.send(Kind.DATA, number, BLOCK, sequence=sequence)
    b1.link.send(Kind.CREDIT, there, b"credit", sequence=1)
    assert await came(b1, Kind.DATA, 8) == [(there, BLOCK)] * 8
    assert await came(a1, Kind.CREDIT) == [(number, b"credit")]
    assert b.notes.frames == a.notes.frames == []
    total = 8 * len(BLOCK)
    facts = await fabric.until_status(
        lambda facts: (facts["workers"][0]["bytes"], facts["workers"][0]["frames"]) == (total, 10)
    )
    assert facts["workers"][0] | {"pid": 0} == {
        "lane": 1, "pid": 0, "up": True, "starts": 1, "links": 2, "circuits": 1, "queued_bytes": 0,
        "frames": 10, "bytes": total,
    }  # fmt: skip
    assert (facts["links"], facts["circuits"], facts["counts"]["bytes"]) == (4, 1, total)
    assert Path(f"/proc/{facts['workers'][0]['pid']}/stat").exists()
    text = await fabric.get("/metrics")
    assert 'ferrule_router_worker_circuits{lane="1"} 1.0' in text
    assert "ferrule_router_bytes_total 2.097152e+06" in text
    assert fabric.recorded("link.up")[-1]["reason"] == "header, lane 1"


async def test_what_is_void_is_cut_in_a_worker_as_in_the_first_process(fabric: RealFabric):
    boss, a, b = await controller(fabric), await fabric.peer("edge-a"), await fabric.peer("edge-b")
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    a2, b2 = await fabric.lane(a, 2), await fabric.lane(b, 2)
    for lists, code in (
        ({"kills": (kill("plant"),)}, Code.KILLED),
        ({"kills": (kill("circuit", (b"c" * 16).hex()),)}, Code.KILLED),
        ({"withdrawn": (Withdrawal("c1", 1),)}, Code.WITHDRAWN),
    ):
        await moved(fabric, a1, b1)
        await moved(fabric, a2, b2)
        everybody = (a1, b1, a2, b2)
        cuts = {peer: len(peer.got(Kind.RESET)) + 1 for peer in everybody}
        boss.publish(fabric.authority(**lists))
        for peer in everybody:
            await came(peer, Kind.RESET, cuts[peer])
            assert peer.last_code(Kind.RESET) == code
        refused = len(a1.got(Kind.REFUSE)) + 1
        a1.resume(fabric.grant())
        await came(a1, Kind.REFUSE, refused)
        assert a1.last_code() == code
        boss.publish(fabric.authority())
        await restored(a1, b1, fabric)
    last = len(b1.got(Kind.RESET)) + 1
    await moved(fabric, a1, b1, end=fabric.now() + 1_000_000)
    await came(b1, Kind.RESET, last)
    await until(lambda: a1.last_code(Kind.RESET) == Code.EXPIRED)
    assert a1.last_code(Kind.RESET) == b1.last_code(Kind.RESET) == Code.EXPIRED
    await fabric.until_status(lambda facts: facts["counts"]["cut"] >= 7)


async def answered(a: Peer, b: Peer, number: int) -> None:
    """Until a RESUME was refused, or passed on."""
    resumed = len(b.got(Kind.RESUME))
    await until(lambda: not a.link.is_open(number) or len(b.got(Kind.RESUME)) > resumed, 10)


async def restored(a: Peer, b: Peer, fabric: RealFabric) -> None:
    """Until what was void is not void any more."""
    async with asyncio.timeout(10):
        while True:
            resumed = len(b.got(Kind.RESUME))
            await answered(a, b, a.resume(fabric.grant()))
            if len(b.got(Kind.RESUME)) > resumed:
                return


async def test_a_revoked_node_loses_its_links_in_workers_too(fabric: RealFabric):
    boss, a, b = await controller(fabric), await fabric.peer("edge-a"), await fabric.peer("edge-b")
    a1, b1, b2 = await fabric.lane(a, 1), await fabric.lane(b, 1), await fabric.lane(b, 2)
    await moved(fabric, a1, b1)
    boss.publish(fabric.authority(revoked=(Revocation("edge-b", 1),)))
    await until(lambda: all(peer.notes.ends for peer in (b, b1, b2)))
    assert {peer.notes.ends[0][0] for peer in (b, b1, b2)} == {Code.REVOKED}
    await came(a1, Kind.RESET)
    with pytest.raises(FerruleError, match="edge-b is revoked"):
        await fabric.lane(b, 1)
    assert a1.notes.ends == []


async def test_a_refreshed_grant_passes_a_worker_and_a_forged_one_cuts(fabric: RealFabric):
    a, b = await fabric.peer("edge-a"), await fabric.peer("edge-b")
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    boss = await controller(fabric)
    boss.publish(fabric.authority())
    number, there = await moved(fabric, a1, b1, hold_until=fabric.now() + 2_000_000)
    credit = bytes(32) + fabric.grant(hold_until=fabric.now() + 60_000_000)
    a1.link.send(Kind.CREDIT, number, credit, flags=Flag.GRANT, sequence=1)
    assert await came(b1, Kind.CREDIT) == [(there, credit)]
    await asyncio.sleep(2.5)  # the first grant is over, the refreshed one carries on
    assert a1.got(Kind.RESET) == []
    a1.link.send(Kind.CREDIT, number, bytes(32) + b"\xc1", flags=Flag.GRANT, sequence=2)
    await came(b1, Kind.RESET)
    assert b1.last_code(Kind.RESET) == Code.BAD_GRANT
    await until(lambda: bool(fabric.recorded("security.refused", "denied")))
    assert fabric.recorded("security.refused", "denied")[-1]["via"] == "edge-a"


async def test_a_dead_worker_is_survived_and_replaced(fabric: RealFabric):
    a, b = await fabric.peer("edge-a"), await fabric.peer("edge-b")
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    a2, b2 = await fabric.lane(a, 2), await fabric.lane(b, 2)
    number, _ = await moved(fabric, a1, b1)
    other, there = await moved(fabric, a2, b2)
    a1.link.send(Kind.DATA, number, BLOCK, sequence=0)
    await came(b1, Kind.DATA)
    bytes_before = (
        await fabric.until_status(lambda facts: facts["workers"][0]["bytes"] == len(BLOCK))
    )["counts"]["bytes"]
    killed = await fabric.kill_worker(1)
    await until(lambda: bool(a1.notes.ends and b1.notes.ends), 10)
    assert a1.notes.ends[0][0] is Code.PATH_LOST
    a2.link.send(Kind.DATA, other, b"the other worker", sequence=1)
    assert await came(b2, Kind.DATA) == [(there, b"the other worker")]
    a.resume(fabric.grant())  # express carries the circuit meanwhile
    await came(b, Kind.RESUME)
    assert a.notes.ends == b.notes.ends == []
    facts = await fabric.until_status(
        lambda facts: facts["workers"][0]["up"] and facts["workers"][0]["starts"] == 2
    )
    assert facts["workers"][0]["pid"] != killed
    assert facts["counts"]["bytes"] >= bytes_before, "what was counted stays counted"
    down = [one for one in fabric.recorded("link.down") if "signal 9" in one["reason"]]
    assert sorted(one["who"] for one in down) == ["edge-a", "edge-b"]
    await fabric.ready()
    await moved(fabric, await fabric.lane(a, 1), await fabric.lane(b, 1))
    assert gone(killed)


async def test_a_worker_that_does_not_apply_a_kill_is_ended(fabric: RealFabric):
    boss, a, b = await controller(fabric), await fabric.peer("edge-a"), await fabric.peer("edge-b")
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    await moved(fabric, a1, b1)
    stopped = await fabric.kill_worker(1, signal.SIGSTOP)
    boss.publish(fabric.authority(kills=(kill("plant"),)))
    began = time.monotonic()
    await until(lambda: bool(a1.notes.ends), 15)
    assert time.monotonic() - began < 10
    await until(lambda: gone(stopped))


async def test_a_circuit_crosses_two_routers_on_one_lane(fabric: RealFabric, tmp_path, monkeypatch):
    async with RealFabric(tmp_path / "r2", monkeypatch, 1, name="r2", beside=fabric) as second:
        entries = (
            RouterEntry("r1", f"127.0.0.1:{fabric.port}", ("r2",)),
            RouterEntry("r2", f"127.0.0.1:{second.port}", ()),
        )
        chart = sign_body(
            FabricMap(1, entries), fabric.controller.key, fabric.pki.anchor, fabric.controller.chain
        )
        (await controller(fabric)).publish(chart)
        (await controller(second)).publish(chart)
        await fabric.until_status(lambda facts: "r2" in facts["neighbours"])
        await fabric.until_status(lambda facts: facts["workers"][0]["links"] == 1)
        assert (await fabric.worker(2))["links"] == 0, "the other router has one lane only"
        a, b = await fabric.peer("edge-a"), await second.peer("edge-b")
        a1, b1 = await fabric.lane(a, 1), await second.lane(b, 1)
        async with asyncio.timeout(15):
            number = 0
            while not b1.got(Kind.RESUME):  # until the attachment has come around
                number = a1.resume(fabric.grant())
                await answered(a1, b1, number)
        there, _ = b1.got(Kind.RESUME)[-1]
        a1.link.send(Kind.DATA, number, BLOCK, sequence=1)
        assert await came(b1, Kind.DATA) == [(there, BLOCK)]
        assert b.notes.frames == []


async def test_the_workers_of_a_first_process_that_was_killed_end(tmp_path, monkeypatch):
    fabric = RealFabric(tmp_path / "r1", monkeypatch)
    await fabric.enrol()
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router", "run", "--dir", str(fabric.folder),
        "--listen", f"127.0.0.1:{fabric.port}", "--metrics", f"127.0.0.1:{fabric.status_port}",
        "--workers", "2",
    )  # fmt: skip
    try:
        facts = await fabric.until_status(
            lambda facts: [one["up"] for one in facts["workers"]] == [True, True]
        )
        await fabric.ready()
    finally:
        program.kill()
        await program.wait()
    await until(lambda: all(gone(one["pid"]) for one in facts["workers"]), 10)


async def test_hostile_connections_to_a_lane_cost_no_more_than_to_express(fabric: RealFabric):
    a = await fabric.peer("edge-a")
    silent = [await knock(fabric, b"FRL1\x01" + bytes(16)) for _ in range(8)]
    silent += [await knock(fabric, b"FRL1") for _ in range(limits.HANDSHAKES_PER_SOURCE - 8)]
    with contextlib.suppress(ConnectionError):  # there is no place for one more of this source
        reader, writer = await knock(fabric, b"FRL1\x01" + bytes(16))
        writer.close()
        assert await ends(reader)
    await fabric.until_status(lambda facts: facts["counts"]["handshakes_turned_away"] == 1)
    await fabric.kill_worker(1)  # what it held is given back
    for reader, _ in silent[:8]:
        assert await ends(reader)
    await fabric.ready()
    for data in (b"FRL1\x03" + bytes(16), b"FRL1\x01" + bytes(16) + b"\xff\xff"):
        reader, writer = await knock(fabric, data)
        assert await ends(reader)
        writer.close()
    await fabric.until_status(lambda facts: facts["counts"]["handshakes_failed"] >= 2)
    a1 = await fabric.lane(a, 1)
    a1.open(fabric.grant())
    await until(lambda: bool(a1.notes.ends))
    assert a1.notes.ends[0][0] is Code.PROTOCOL
    await until(lambda: bool(fabric.recorded("security.refused", "denied")))
    assert a.notes.ends == []
    for _, writer in silent:
        writer.close()


async def knock(fabric: RealFabric, data: bytes) -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", fabric.port)
    writer.write(data)
    return reader, writer


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes, rather than says anything."""
    try:
        async with asyncio.timeout(4):
            return await reader.read() == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def test_the_end_of_the_first_process_is_the_end_of_its_workers(fabric: RealFabric):
    a, b = await fabric.peer("edge-a"), await fabric.peer("edge-b")
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    await moved(fabric, a1, b1)
    pids = [one["pid"] for one in (await fabric.status())["workers"]]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)  # as systemd does to all; the first process decides
    a1.link.send(Kind.DATA, 1, b"still here", sequence=1)
    await came(b1, Kind.DATA)
    fabric.stop.set()
    await until(lambda: a1.link.draining, 10)
    await fabric.running
    assert all(gone(pid) for pid in pids)
    assert a1.notes.ends
    assert a.notes.ends
