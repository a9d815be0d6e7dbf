"""Worker processes of a router: bulk lanes in processes of their own; what is void is cut there, and a dead one is
survived (L-04, L-08, L-09, A-04)."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from overlay import limits
from overlay.errors import Code, FerruleError
from overlay.fabric.authority import FabricMap, Kill, Revocation, RouterEntry, Withdrawal
from overlay.identity.certificate import Role
from overlay.identity.trust import sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import Refusal, Resume, ResumeIntent
from overlay.wire.codec import Signed, decode, encode
from overlay.wire.header import Flag, Kind
from router.pair import Pair
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
    assert 0 <= facts["workers"][0]["busy"] <= 100
    assert facts["workers"][0] | {"pid": 0, "busy": 0} == {
        "lane": 1, "pid": 0, "up": True, "starts": 1, "links": 2, "circuits": 1, "queued_bytes": 0,
        "busy": 0, "frames": 10, "bytes": total,
    }  # fmt: skip
    assert (facts["links"], facts["circuits"], facts["counts"]["bytes"]) == (4, 1, total)
    assert Path(f"/proc/{facts['workers'][0]['pid']}/stat").exists()
    text = await fabric.get("/metrics")
    assert 'ferrule_router_worker_circuits{lane="1"} 1.0' in text
    assert "ferrule_router_bytes_total 2.097152e+06" in text
    assert "ferrule_router_suspected_total 0.0" in text, "there before it happens"
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
    await fabric.until_status(lambda facts: facts["counts"].get("cut", 0) >= 7)


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


async def test_a_forged_resume_at_a_worker_goes_nowhere_and_harms_no_circuit(fabric: RealFabric):
    """A worker trusts no edge more than the first process does (L-09): neither a grant of nobody, of another's key, of
    another edge's traffic or for another host, nor what is no RESUME at all; the circuit that it names goes on."""
    a, b, c = [await fabric.peer(name) for name in ("edge-a", "edge-b", "edge-c")]
    a1, b1 = await fabric.lane(a, 1), await fabric.lane(b, 1)
    number, there = await moved(fabric, a1, b1)
    good = fabric.grant()
    for payload, code, words in forged_resumes(c, good):
        c1 = await fabric.lane(c, 1)
        c1.link.send(Kind.RESUME, c1.link.next_circuit(), payload)
        await until(partial(was_answered, c1))
        if code is Code.PROTOCOL:
            ended, said = c1.notes.ends[0][:2]
        else:
            refusal = decode(Refusal, c1.got(Kind.REFUSE)[0][1])
            ended, said = Code(refusal.code), refusal.reason
        assert (ended, words in said) == (code, True), said
    assert len(b1.got(Kind.RESUME)) == 1, "of the real circuit"
    assert b.got(Kind.RESUME) == b1.got(Kind.RESET) == a1.got(Kind.RESET) == []
    a1.link.send(Kind.DATA, number, BLOCK, sequence=0)
    assert await came(b1, Kind.DATA) == [(there, BLOCK)]
    facts = await fabric.until_status(lambda facts: facts["workers"][0]["circuits"] == 1)
    assert facts["workers"][0]["starts"] == 1
    forgeries = [one["via"] for one in fabric.recorded("security.refused", "denied")]
    assert forgeries.count("edge-c") == 6  # all but the one without a grant


def was_answered(peer: Peer) -> bool:
    return bool(peer.got(Kind.REFUSE) or peer.notes.ends)


def forged_resumes(caller: Peer, good: bytes) -> list[tuple[bytes, Code, str]]:
    """RESUMEs of a circuit of edge-a as another edge could make them, and what a router says to them."""
    key = caller.credentials.key

    def resume(grant: bytes, path: tuple[str, ...] = ("edge-c",), host: str = "edge-b") -> bytes:
        intent = ResumeIntent(
            circuit=b"c" * 16, association=b"a" * 16, number=0, host=host,
            service="plc-b.modbus", grant=grant,
        )  # fmt: skip
        return encode(Resume(encode(intent), b"sealed", (), path))

    own = decode(Grant, decode(Signed, good).body)
    stolen = structs.replace(own, via="edge-c", caller_key=key.key_id)
    made = sign_body(stolen, key, caller.fabric.pki.anchor, caller.credentials.chain)
    bad = Code.BAD_GRANT
    return [
        (resume(good), bad, "is for edge-a, not for edge-c"),
        (resume(good, ("edge-a",)), Code.PROTOCOL, "another path than edge-c"),
        (resume(made), bad, "must be signed by a controller"),
        (resume(good[:-1] + bytes([good[-1] ^ 1])), bad, "was not signed"),
        (resume(b""), Code.NO_GRANT, "there is no grant"),
        (resume(good, host="edge-c"), bad, "does not permit edge-c to host"),
        (b"\xc1", Code.PROTOCOL, "not a valid Resume"),
    ]


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
    await until(lambda: bool(a1.notes.ends), 60)
    await until(lambda: gone(stopped))


async def test_a_worker_that_reads_late_gets_every_connection_and_express_waits_for_none(
    tmp_path, monkeypatch
):
    """The pair of sockets to it is full: what it cannot take waits in the first process, in order and with its
    descriptors, while that goes on with everything else (`router.pair`)."""
    pairs: list[Pair] = []

    class Watched(Pair):
        def __init__(self, sock: socket.socket, *rest) -> None:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, 1
            )  # the least that the system gives
            super().__init__(sock, *rest)
            pairs.append(self)

    monkeypatch.setattr("router.workers.Pair", Watched)
    monkeypatch.setattr("router.workers.SILENT_SECONDS", 60.0)
    async with RealFabric(tmp_path / "r1", monkeypatch, 1) as fabric:
        a, b = await fabric.peer("edge-a"), await fabric.peer("edge-b")
        stopped = await fabric.kill_worker(1, signal.SIGSTOP)
        waiting = pairs[-1]._waiting
        dialing: list[asyncio.Future[Peer]] = []
        while sum(carried is not None for _, carried in waiting) < 3:
            assert len(dialing) < limits.HANDSHAKES_PER_SOURCE - 2, "places of this source"
            dialing.append(asyncio.ensure_future(fabric.lane(a, 1)))
            await asyncio.sleep(0.02)
        number = a.open(fabric.grant())
        await came(b, Kind.OPEN)
        there, _ = b.opened()
        b.link.send(Kind.ACCEPT, there, b"yes")
        await came(a, Kind.ACCEPT)
        for sequence in range(20):
            a.link.send(Kind.DATA, number, b"poll", sequence=sequence)
        assert await came(b, Kind.DATA, 20) == [(there, b"poll")] * 20
        assert waiting
        os.kill(stopped, signal.SIGCONT)
        peers = await asyncio.gather(*dialing)
        assert not waiting
        assert {peer.link.lane for peer in peers} == {1}
        assert (await fabric.worker(1))["starts"] == 1


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
    await fabric.until_status(lambda facts: facts["counts"].get("handshakes_turned_away", 0) == 1)
    await fabric.kill_worker(1)  # what it held is given back
    for reader, _ in silent[:8]:
        assert await ends(reader)
    await fabric.ready()
    for data in (b"FRL1\x03" + bytes(16), b"FRL1\x01" + bytes(16) + b"\xff\xff"):
        reader, writer = await knock(fabric, data)
        assert await ends(reader)
        writer.close()
    await fabric.until_status(lambda facts: facts["counts"].get("handshakes_failed", 0) >= 2)
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
    await until(lambda: a1.link.going_away, 10)
    await fabric.running
    assert all(gone(pid) for pid in pids)
    assert a1.notes.ends
    assert a.notes.ends
