"""What a router cuts, what it shows, and how it ends (L-36, A-04, G-03, G-05)."""

import asyncio
import json

import pytest

from overlay.errors import Code
from overlay.fabric.authority import Revocation, Withdrawal
from overlay.identity.certificate import Role
from overlay.wire.bodies import Publish
from overlay.wire.header import Flag, Kind
from router.forwarding import Table
from tests.support.fabrics import Fabric
from tests.support.routers import circuit, facts, kill, plant, settle
from tests.support.simulation import EPOCH


@pytest.mark.parametrize(
    ("lists", "code", "again"),
    [
        ({"kills": (kill("plant"),)}, Code.KILLED, Code.KILLED),
        ({"kills": (kill("identity", "hmi-a"),)}, Code.KILLED, Code.KILLED),
        ({"kills": (kill("identity", "edge-a"),)}, Code.KILLED, Code.KILLED),
        ({"kills": (kill("identity", "edge-b"),)}, Code.KILLED, Code.KILLED),
        ({"kills": (kill("service", "plc-b.modbus"),)}, Code.KILLED, Code.KILLED),
        ({"kills": (kill("zone", "cell"),)}, Code.KILLED, Code.KILLED),
        ({"kills": (kill("circuit", (b"c" * 16).hex()),)}, Code.KILLED, None),
        ({"withdrawn": (Withdrawal("c1", EPOCH),)}, Code.WITHDRAWN, Code.WITHDRAWN),
    ],
)
def test_what_the_authority_names_is_cut_at_once_and_refused(story, lists, code, again):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b)
        a.open(service="_control")
        began = fabric.sim.loop.time()
        controller.publish(fabric.authority(**lists))
        await a.notes.until(lambda: bool(a.got(Kind.RESET)))
        assert fabric.sim.loop.time() - began < 0.05
        await settle()
        assert a.refusals(Kind.RESET) == [(number, a.refusals(Kind.RESET)[0][1])]  # not `_control`
        assert a.last_code(Kind.RESET) == b.last_code(Kind.RESET) == code
        assert b.refusals(Kind.RESET)[-1][0] == there
        assert any(isinstance(body, Publish) for body in b.notes.bodies)
        a.open(fabric.grant(), circuit=b"d" * 16)
        await settle()
        if again is not None:
            assert a.last_code() == again
            controller.publish(fabric.authority())  # restored
            await settle()
            a.open(fabric.grant(), circuit=b"e" * 16)
            await settle()
        assert b.opened()[1].path == ("edge-a", "r1")
        assert len(b.got(Kind.OPEN)) == 2

    story(tell)


def test_a_withdrawal_in_the_future_and_the_end_of_a_grant(story):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        await circuit(fabric, a, b)
        controller.publish(
            fabric.authority(withdrawn=(Withdrawal("c1", fabric.now() + 3_000_000),))
        )
        await asyncio.sleep(2.5)
        assert a.got(Kind.RESET) == []
        await asyncio.sleep(1.0)
        assert a.last_code(Kind.RESET) == Code.WITHDRAWN
        controller.publish(fabric.authority())
        await settle()
        await circuit(fabric, a, b, end=fabric.now() + 5_000_000)
        await asyncio.sleep(3)
        assert len(a.got(Kind.RESET)) == 1
        await asyncio.sleep(3)
        assert a.last_code(Kind.RESET) == b.last_code(Kind.RESET) == Code.EXPIRED

    story(tell)


def test_a_refreshed_grant_goes_on_and_another_one_cuts(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b, hold_until=fabric.now() + 5_000_000)
        credit = bytes(32) + fabric.grant(hold_until=fabric.now() + 60_000_000)
        a.link.send(Kind.CREDIT, number, credit, flags=Flag.GRANT, sequence=1)
        await asyncio.sleep(20)
        assert a.got(Kind.RESET) == []
        assert b.got(Kind.CREDIT) == [(there, credit)]
        for bad in (fabric.grant(who="other"), fabric.grant(end=EPOCH), b"\xc1"):
            number, _ = await circuit(fabric, a, b)
            a.link.send(Kind.CREDIT, number, bytes(32) + bad, flags=Flag.GRANT, sequence=1)
            await settle()
            assert a.refusals(Kind.RESET)[-1][0] == number
            assert a.last_code(Kind.RESET) in {Code.BAD_GRANT, Code.EXPIRED}
        number, there = await circuit(fabric, a, b)
        b.link.send(Kind.CREDIT, there, bytes(32) + fabric.grant(), flags=Flag.GRANT, sequence=1)
        await settle()
        assert a.last_code(Kind.RESET) == Code.PROTOCOL  # only callers bring grants

    story(tell)


def test_a_revoked_node_loses_its_link_and_does_not_come_back(story):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        await circuit(fabric, a, b)
        controller.publish(fabric.authority(revoked=(Revocation("edge-b", 1),)))
        await settle()
        assert b.notes.ends[0][0] is Code.REVOKED
        assert a.last_code(Kind.RESET) in {Code.PATH_LOST, Code.REVOKED}
        with pytest.raises(Exception, match="edge-b is revoked"):
            await fabric.peer("edge-b", "r1")
        again = fabric.node(Role.EDGE, "edge-b", generation=2)
        assert (await fabric.peer("edge-b", "r1", credentials=again)).link.name == "r1"

    story(tell)


def test_an_old_authority_lifts_nothing_and_a_forged_one_changes_nothing(story):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        old = fabric.authority()
        controller.publish(fabric.authority(kills=(kill("plant"),)))
        await settle()
        controller.publish(old)
        await settle()
        a.open(fabric.grant())
        await settle()
        assert a.last_code() == Code.KILLED
        real, fabric.controller = fabric.controller, b.credentials
        controller.publish(fabric.authority())
        fabric.controller = real
        await settle()
        a.open(fabric.grant())
        await settle()
        assert a.last_code() == Code.KILLED

    story(tell)


def test_a_lost_host_link_is_a_lost_path_and_a_new_link_serves(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, _ = await circuit(fabric, a, b)
        fabric.sim.host("edge-b").crash()
        await settle()
        assert a.refusals(Kind.RESET)[-1] == (number, a.refusals(Kind.RESET)[-1][1])
        assert a.last_code(Kind.RESET) == Code.PATH_LOST
        fabric.sim.net.cut("edge-a", "r1")
        await asyncio.sleep(4)
        assert a.notes.ends[0][0] is Code.PATH_LOST
        fabric.sim.net.heal("edge-a", "r1")
        b = await fabric.peer("edge-b", "r1")
        a = await fabric.peer("edge-a", "r1")
        await circuit(fabric, a, b)
        status = json.loads(await facts(fabric))
        assert status["neighbours"] == ["controller", "edge-a", "edge-b"]

    story(tell)


def test_status_and_metrics(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, _ = await circuit(fabric, a, b)
        a.link.send(Kind.DATA, number, bytes(1000))
        a.open(b"")
        await settle()
        status = json.loads(await facts(fabric))
        assert (status["name"], status["links"], status["circuits"]) == ("r1", 3, 1)
        text = await facts(fabric, "/metrics")
        for line in (
            "ferrule_router_links 3.0",
            "ferrule_router_circuits 1.0",
            "ferrule_router_bytes_total 1000.0",
            'ferrule_router_refused_total{code="no_grant"} 1.0',
        ):
            assert line in text.splitlines()
        assert "edge-a" not in text
        assert "/metrics" in await facts(fabric, "/")

    story(tell)


def test_a_router_that_stops_says_so_and_is_gone_within_its_time(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, _ = await circuit(fabric, a, b)
        began = fabric.sim.loop.time()
        fabric.stops["r1"].set()
        await asyncio.sleep(0.5)
        assert a.link.going_away
        a.open(fabric.grant())
        await settle()
        assert a.last_code() == Code.GOING_AWAY
        await a.notes.until(lambda: bool(a.notes.ends))
        assert fabric.sim.loop.time() - began < 4
        await asyncio.sleep(1)
        with pytest.raises(OSError):
            await fabric.peer("edge-c", "r1")
        assert number

    story(tell)


def test_a_thousand_circuits_leave_nothing_behind(story):
    tables: list[Table] = []
    real = Table.__init__

    def keep(self) -> None:
        real(self)
        tables.append(self)

    Table.__init__ = keep  # type: ignore[method-assign]
    try:

        async def tell(fabric: Fabric):
            _, a, b = await plant(fabric)
            grant = fabric.grant()
            for _ in range(20):
                numbers = [a.open(grant) for _ in range(50)]
                await settle()
                for number in numbers:
                    a.link.reset(number, Code.NORMAL)
                await settle()
            table = tables[-1]
            assert len(table) == 0
            assert len(table._ends) <= 64
            assert all(not hops for hops in table._hops.values())
            assert a.link._link._circuits == b.link._link._circuits == {}
            assert len(b.got(Kind.OPEN)) == 1000

        story(tell)
    finally:
        Table.__init__ = real  # type: ignore[method-assign]
