"""Several routers: ways round those that are dead, busy, frozen or go away (L-35 to L-37, F-10 to F-17)."""

import asyncio
import json

from overlay.errors import Code
from overlay.identity.certificate import Role
from overlay.wire.bodies import Attach, Publish, Refusal, Resume
from overlay.wire.codec import decode
from overlay.wire.header import Kind
from tests.support.fabrics import Fabric, Peer
from tests.support.routers import circuit, facts, kill, plant, settle


async def chain(fabric: Fabric) -> tuple[Peer, Peer, Peer]:
    """r1 dials r2, r2 dials r3; the controller and edge-a at r1, edge-b at r3."""
    controller = await fabric.peer(
        "controller", "r1", role=Role.CONTROLLER, credentials=fabric.controller
    )
    others = [
        await fabric.peer(
            "controller",
            router,
            role=Role.CONTROLLER,
            credentials=fabric.controller,
            attached=False,
        )
        for router in ("r2", "r3")
    ]
    plan = fabric.map(r1=("r2",), r2=("r3",), r3=())
    for one in (controller, *others):
        one.publish(plan)
    await asyncio.sleep(5)
    for one in others:
        one.link.close()
    controller.attach("r1")
    a, b = await fabric.peer("edge-a", "r1"), await fabric.peer("edge-b", "r3")
    await asyncio.sleep(1)
    return controller, a, b


def test_circuits_cross_several_routers_and_attachments_are_flooded(story):
    async def tell(fabric: Fabric):
        controller, a, b = await chain(fabric)
        number, there = await circuit(fabric, a, b)
        _, body = b.opened()
        assert body.path == ("edge-a", "r1", "r2", "r3")
        assert body.route == ("edge-b",)
        a.link.send(Kind.DATA, number, b"x" * 100_000, sequence=4)
        b.link.send(Kind.CREDIT, there, b"credit", sequence=1)
        await settle()
        assert b.got(Kind.DATA) == [(there, b"x" * 100_000)]
        assert a.got(Kind.CREDIT) == [(number, b"credit")]
        b.open(service="_control")
        await settle()
        assert controller.opened("edge-b")[1].path == ("edge-b", "r3", "r2", "r1")
        assert not any(isinstance(body, Attach) for body in (*a.notes.bodies, *b.notes.bodies))

    story(tell, routers=("r1", "r2", "r3"))


def test_a_kill_reaches_all_routers_and_a_dead_router_resets_both_sides(story):
    async def tell(fabric: Fabric):
        controller, a, b = await chain(fabric)
        await circuit(fabric, a, b)
        controller.publish(fabric.authority(kills=(kill("service", "plc-b.modbus"),)))
        await settle()
        assert a.last_code(Kind.RESET) == b.last_code(Kind.RESET) == Code.KILLED
        assert any(isinstance(body, Publish) for body in b.notes.bodies)
        controller.publish(fabric.authority())
        await settle()
        number, there = await circuit(fabric, a, b)
        fabric.sim.host("r2").crash()
        await settle()
        assert a.refusals(Kind.RESET)[-1][0] == number
        assert b.refusals(Kind.RESET)[-1][0] == there
        assert a.last_code(Kind.RESET) == b.last_code(Kind.RESET) == Code.PATH_LOST
        a.open(fabric.grant())
        await settle()
        assert a.last_code() == Code.NO_ROUTE
        await fabric.router("r2", restart=True)
        await asyncio.sleep(20)
        await circuit(fabric, a, b)
        assert b.opened()[1].path == ("edge-a", "r1", "r2", "r3")

    story(tell, routers=("r1", "r2", "r3"))


def test_what_another_router_must_not_send(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        rogue = await fabric.peer("r9", "r1", role=Role.ROUTER)
        rogue.open(fabric.grant())  # as if it were the caller
        await settle()
        assert rogue.last_code() == Code.BAD_GRANT
        rogue.open(fabric.grant(), path=("edge-a", "r9"))  # not routed through r1
        await settle()
        assert rogue.notes.ends[0][0] is Code.PROTOCOL
        assert b.got(Kind.OPEN) == []
        rogue = await fabric.peer("r9", "r1", role=Role.ROUTER)
        rogue.link.send_control(Attach((b"\xc1", a.attachment("r9"))))
        rogue.publish(b"\xc1")
        await settle()
        assert rogue.notes.ends[0][0] is Code.PROTOCOL

    story(tell)


async def ring(fabric: Fabric) -> tuple[Peer, Peer, Peer]:
    """r1 and r4 are joined by r2 and by r3; the controller and edge-a at r1, edge-b at r4."""
    publishers = [
        await fabric.peer(
            "controller", router, role=Role.CONTROLLER, credentials=fabric.controller,
            attached=False,
        )
        for router in RING
    ]  # fmt: skip
    plan = fabric.map(r1=("r2", "r3"), r2=("r4",), r3=("r4",), r4=())
    for one in publishers:
        one.publish(plan)
    await asyncio.sleep(5)
    for one in publishers[1:]:
        one.link.close()
    publishers[0].attach("r1")
    a, b = await fabric.peer("edge-a", "r1"), await fabric.peer("edge-b", "r4")
    await asyncio.sleep(1)
    return publishers[0], a, b


RING = ("r1", "r2", "r3", "r4")


def test_a_router_in_the_middle_that_stops_sends_circuits_away_and_others_go_round_it(story):
    """L-36: the other routers know before the caller hears of it, so that it does not come back there."""

    async def tell(fabric: Fabric):
        _, a, b = await ring(fabric)
        number, _ = await circuit(fabric, a, b)
        _, body = b.opened()
        middle = body.path[2]
        again: list[int] = []

        def resume(_link, header, _payload):
            if header.kind is Kind.RESET and not again:
                again.append(a.resume(fabric.grant()))

        a.notes.on_frame = resume
        fabric.stops[middle].set()
        await a.notes.until(lambda: bool(again))
        assert a.refusals(Kind.RESET)[0] == (
            number, Refusal(Code.GOING_AWAY, "this router is going away")
        )  # fmt: skip
        await settle()
        (_, payload), *_ = b.got(Kind.RESUME)
        other = {"r2": "r3", "r3": "r2"}[middle]
        assert decode(Resume, payload).path == ("edge-a", "r1", other, "r4")

    story(tell, routers=RING)


def test_a_new_circuit_goes_round_a_router_that_is_busy_and_a_running_one_stays(story):
    """F-17: whichever of the two in the middle is taken, it is taken no more while it says that it is at its end."""

    async def tell(fabric: Fabric):
        _, a, b = await ring(fabric)
        await circuit(fabric, a, b)
        middle = b.opened()[1].path[2]
        clock = fabric.sim.host(middle).world.clock
        clock.busy = 0.97
        await asyncio.sleep(40)
        a.open(fabric.grant(), circuit=b"d" * 16)
        await settle()
        other = b.opened()[1].path[2]
        assert {middle, other} == {"r2", "r3"}
        assert a.got(Kind.RESET) == b.got(Kind.RESET) == []
        assert json.loads(await facts(fabric, host=middle))["busy"] > 90
        clock.busy, fabric.sim.host(other).world.clock.busy = 0.2, 0.7
        await asyncio.sleep(60)
        b.attach("r4")
        await settle()
        a.open(fabric.grant(), circuit=b"e" * 16)
        await settle()
        assert b.opened()[1].path[2] == middle

    story(tell, routers=RING)


def test_a_router_that_drains_by_the_map_sends_away_what_passes_it_once(story):
    async def tell(fabric: Fabric):
        publisher, a, b = await ring(fabric)
        number, _ = await circuit(fabric, a, b)
        middle = b.opened()[1].path[2]
        links = {"r1": ("r2", "r3"), "r2": ("r4",), "r3": ("r4",), "r4": ()}
        publisher.publish(fabric.map(middle, **links))
        await a.notes.until(lambda: bool(a.refusals(Kind.RESET)))
        assert a.refusals(Kind.RESET)[0][0] == number
        assert a.last_code(Kind.RESET) == Code.GOING_AWAY
        a.resume(fabric.grant())
        await asyncio.sleep(5)
        (_, payload), *_ = b.got(Kind.RESUME)
        assert middle not in decode(Resume, payload).path
        assert len(a.refusals(Kind.RESET)) == 1

    story(tell, routers=RING)


def test_what_came_back_to_a_router_that_drains_is_not_sent_away_by_the_next_map(story):
    """L-37: there is no other way, and a map comes with every change."""

    async def tell(fabric: Fabric):
        publisher, a, b = await chain(fabric)
        await circuit(fabric, a, b)
        links = {"r1": ("r2",), "r2": ("r3",), "r3": ()}
        publisher.publish(fabric.map("r2", **links))
        await a.notes.until(lambda: bool(a.refusals(Kind.RESET)))
        a.resume(fabric.grant())
        await settle()
        (_, payload), *_ = b.got(Kind.RESUME)
        assert "r2" in decode(Resume, payload).path
        publisher.publish(fabric.map("r2", **links))
        await asyncio.sleep(5)
        assert len(a.refusals(Kind.RESET)) == 1

    story(tell, routers=("r1", "r2", "r3"))


def test_a_router_that_drains_by_the_map_begins_nothing_new_but_control_and_resumes(story):
    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        await circuit(fabric, a, b)
        controller.publish(fabric.map("r1", r1=()))
        await asyncio.sleep(3)
        assert a.refusals(Kind.RESET) == []  # its own edges move by themselves, when they can
        a.open(fabric.grant())
        await settle()
        assert a.last_code() == Code.GOING_AWAY
        a.open(service="_control")
        await settle()
        assert controller.opened("edge-a")[1].path == ("edge-a", "r1")
        a.resume(fabric.grant())
        await settle()
        assert len(b.got(Kind.RESUME)) == 1
        controller.publish(fabric.map(r1=()))
        await settle()
        before = len(b.got(Kind.OPEN))
        a.open(fabric.grant())
        await settle()
        assert len(b.got(Kind.OPEN)) == before + 1

    story(tell)


def test_a_frozen_router_in_the_middle_is_found_by_its_neighbours(story):
    """L-35: long before its links are dead, what passes there is sent away, and others go round it."""

    async def tell(fabric: Fabric):
        _, a, b = await ring(fabric)
        number, there = await circuit(fabric, a, b)
        middle = b.opened()[1].path[2]
        for sequence in range(5):
            a.link.send(Kind.DATA, number, b"poll", sequence=sequence)
            b.link.send(Kind.DATA, there, b"answer", sequence=sequence)
            await asyncio.sleep(0.05)
        began = fabric.sim.loop.time()
        fabric.sim.host(middle).freeze()
        a.link.send(Kind.DATA, number, b"poll", sequence=5)
        await a.notes.until(lambda: bool(a.got(Kind.RESET)))
        assert fabric.sim.loop.time() - began < 0.6
        assert a.last_code(Kind.RESET) == Code.PATH_LOST
        a.resume(fabric.grant())
        await settle()
        (_, payload), *_ = b.got(Kind.RESUME)
        other = {"r2": "r3", "r3": "r2"}[middle]
        assert decode(Resume, payload).path == ("edge-a", "r1", other, "r4")
        fabric.sim.host(middle).thaw()

    story(tell, routers=RING)


def test_a_router_that_goes_away_dials_nobody_any_more_whatever_map_comes(story):
    async def tell(fabric: Fabric):
        controller, _, _ = await chain(fabric)
        fabric.stops["r1"].set()
        await asyncio.sleep(0.1)
        said = len([one for one in fabric.recorded("link.up") if one["who"] == "r1"])
        assert said == 1  # at r2, which it had dialed
        controller.publish(fabric.map("r3", r1=("r2", "r3"), r2=("r3",), r3=()))
        await asyncio.sleep(5)
        assert len([one for one in fabric.recorded("link.up") if one["who"] == "r1"]) == said

    story(tell, routers=("r1", "r2", "r3"))
