"""Bulk lanes at a router: what they carry, where to, and that whatever cuts a circuit cuts it there, too (L-08, L-09)."""

import asyncio

import pytest

from overlay import limits
from overlay.errors import Code, FerruleError
from overlay.fabric.authority import Kill, Revocation
from overlay.identity.certificate import Role
from overlay.wire.bodies import Publish
from overlay.wire.header import Kind
from tests.support.fabrics import Fabric, Peer
from tests.support.simulation import Simulation

SETTLE = 0.3


@pytest.fixture
def story(monkeypatch):
    """Runs `await tell(fabric)` in a simulation with one router, r1, of two bulk lanes."""

    def run(tell, seed: int = 0):
        sim = Simulation(seed)
        fabric = Fabric(sim, monkeypatch)

        async def told():
            await fabric.router("r1", bulk_lanes=2)
            return await tell(fabric)

        return sim.run(told())

    return run


async def bulk(fabric: Fabric, express: Peer, lane: int) -> Peer:
    """The same node's link of a bulk lane."""
    return await fabric.peer(
        express.name, "r1", credentials=express.credentials, role=Role.EDGE, lane=lane
    )


async def plant(fabric: Fabric) -> tuple[Peer, Peer, Peer]:
    controller = await fabric.peer(
        "controller", "r1", role=Role.CONTROLLER, credentials=fabric.controller
    )
    return controller, await fabric.peer("edge-a", "r1"), await fabric.peer("edge-b", "r1")


async def moved(fabric: Fabric, a: Peer, b: Peer, **grant) -> tuple[int, int]:
    """A circuit that was resumed here; its number at both edges."""
    number = a.resume(fabric.grant(**grant))
    await asyncio.sleep(SETTLE)
    there, payload = b.got(Kind.RESUME)[-1]
    b.link.send(Kind.RESUME, there, payload)
    await asyncio.sleep(SETTLE)
    assert a.got(Kind.RESUME)[-1] == (number, payload)
    return number, there


def test_hello_says_how_many_lanes_there_are_and_one_more_is_closed(story):
    async def tell(fabric: Fabric):
        _, a, _ = await plant(fabric)
        assert a.link.hello.bulk_lanes == 2
        assert (await bulk(fabric, a, 2)).link.hello.lane == 2
        with pytest.raises((FerruleError, OSError)):
            await bulk(fabric, a, 3)

    story(tell)


def test_a_resume_goes_to_the_same_lane_and_frames_pass_there(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a1, b1, b2 = await bulk(fabric, a, 1), await bulk(fabric, b, 1), await bulk(fabric, b, 2)
        number, there = await moved(fabric, a1, b1)
        a1.link.send(Kind.DATA, number, bytes(limits.MAX_DATA), sequence=3)
        b1.link.send(Kind.CREDIT, there, b"credit", sequence=1)
        await asyncio.sleep(SETTLE)
        assert b1.got(Kind.DATA) == [(there, bytes(limits.MAX_DATA))]
        assert a1.got(Kind.CREDIT) == [(number, b"credit")]
        assert b.notes.frames == b2.notes.frames == []

    story(tell)


def test_without_the_hosts_lane_a_resume_is_refused_and_express_is_not_a_way_out(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a1, b2 = await bulk(fabric, a, 1), await bulk(fabric, b, 2)
        number = a1.resume(fabric.grant())
        await asyncio.sleep(SETTLE)
        assert [(one, refusal.code) for one, refusal in a1.refusals()] == [(number, Code.NO_ROUTE)]
        assert b.notes.frames == b2.notes.frames == []
        a.resume(fabric.grant())  # and a bulk lane is none for express
        await asyncio.sleep(SETTLE)
        assert [frame[0] for frame in b.notes.frames] == [Kind.RESUME]
        assert b2.notes.frames == []

    story(tell)


@pytest.mark.parametrize("crime", ["open", "publish"])
def test_nothing_begins_on_a_bulk_lane(story, crime):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        lane = await bulk(fabric, controller if crime == "publish" else a, 1)
        b1 = await bulk(fabric, b, 1)
        if crime == "open":
            lane.open(fabric.grant())
        else:
            lane.publish(fabric.authority(kills=(Kill(b"k" * 16, "plant", "", "", 0, 0),)))
        await asyncio.sleep(SETTLE)
        assert lane.notes.ends[0][0] is Code.PROTOCOL
        assert b1.got(Kind.OPEN) == []
        assert not any(isinstance(body, Publish) for body in a.notes.bodies)
        assert fabric.recorded("security.refused", "denied")[-1]["via"] == lane.name

    story(tell)


def test_a_grant_ends_at_its_time_and_not_at_the_next_look(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a1, b1 = await bulk(fabric, a, 1), await bulk(fabric, b, 1)
        for seconds in (0.9, 2.3):
            end = fabric.now() + int(seconds * 1_000_000)
            await moved(fabric, a1, b1, end=end)
            await asyncio.sleep((end - fabric.now()) / 1e6 - 0.02)
            before = len(a1.got(Kind.RESET))
            await asyncio.sleep(0.1)
            assert len(a1.got(Kind.RESET)) == before + 1
            assert a1.last_code(Kind.RESET) == b1.last_code(Kind.RESET) == Code.EXPIRED

    story(tell)


@pytest.mark.parametrize("change", [{"via": "edge-c"}, {"end": 1}, {"service": "plc-b.s7"}])
def test_a_resume_that_a_grant_does_not_carry_is_refused(story, change):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a1, b1 = await bulk(fabric, a, 1), await bulk(fabric, b, 1)
        a1.resume(fabric.grant(**change))
        a1.resume(b"\xc1")
        await asyncio.sleep(SETTLE)
        assert {refusal.code for _, refusal in a1.refusals()} <= {Code.BAD_GRANT, Code.EXPIRED}
        assert len(a1.refusals()) == 2
        assert b1.notes.frames == []

    story(tell)


def test_a_kill_and_the_end_of_a_grant_cut_on_every_lane(story):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        ways = [(await bulk(fabric, a, lane), await bulk(fabric, b, lane)) for lane in (1, 2)]
        for here, there in ways:
            await moved(fabric, here, there)
        controller.publish(fabric.authority(kills=(Kill(b"k" * 16, "plant", "", "", 0, 0),)))
        await asyncio.sleep(SETTLE)
        for peer in (peer for way in ways for peer in way):
            assert peer.last_code(Kind.RESET) == Code.KILLED
        controller.publish(fabric.authority())
        await asyncio.sleep(SETTLE)
        for here, there in ways:
            await moved(fabric, here, there, end=fabric.now() + 3_000_000)
        await asyncio.sleep(4)
        for peer in (peer for way in ways for peer in way):
            assert peer.last_code(Kind.RESET) == Code.EXPIRED

    story(tell)


def test_a_revoked_node_loses_its_links_of_all_lanes(story):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        a1, b1, b2 = await bulk(fabric, a, 1), await bulk(fabric, b, 1), await bulk(fabric, b, 2)
        await moved(fabric, a1, b1)
        controller.publish(fabric.authority(revoked=(Revocation("edge-b", 1),)))
        await asyncio.sleep(SETTLE)
        assert [peer.notes.ends[0][0] for peer in (b, b1, b2)] == [Code.REVOKED] * 3
        assert a1.last_code(Kind.RESET) in {Code.PATH_LOST, Code.REVOKED}
        assert a.notes.ends == a1.notes.ends == []
        with pytest.raises(FerruleError, match="edge-b is revoked"):
            await bulk(fabric, b, 1)

    story(tell)


def test_the_loss_of_a_lane_is_the_loss_of_a_path_and_harms_no_other_lane(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a1, b1 = await bulk(fabric, a, 1), await bulk(fabric, b, 1)
        a2, b2 = await bulk(fabric, a, 2), await bulk(fabric, b, 2)
        await moved(fabric, a1, b1)
        number, there = await moved(fabric, a2, b2)
        b1.link.close()
        await asyncio.sleep(SETTLE)
        assert a1.last_code(Kind.RESET) == Code.PATH_LOST
        a2.link.send(Kind.DATA, number, b"on", sequence=1)
        await asyncio.sleep(SETTLE)
        assert b2.got(Kind.DATA) == [(there, b"on")]
        assert a.notes.ends == b.notes.ends == []
        b1 = await bulk(fabric, b, 1)
        await moved(fabric, a1, b1)

    story(tell)
