"""A router that withholds kills, serves an old authority, or publishes one of its own making; a real controller behind it.

The edges are the program's, the controller's side is the real hub; links are real TLS over a simulated network, so that
minutes and hours of plant time pass in no time. What is found, and what is bounded by what, is docs/protocol/control.md
(A-01 to A-08, K-03, K-08) and circuit.md (G-02, G-05).
"""

import asyncio

import pytest

from overlay import limits
from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.tasks import spawn
from overlay.audit.event import EventName
from overlay.circuit.host import HOST_RANDOM, HostHandshake
from overlay.errors import Code
from overlay.fabric.authority import Authority, FabricMap, Kill, RouterEntry
from overlay.policy.grant import Grant
from overlay.wire.bodies import Attach, Attachment, Open, OpenIntent, Publish
from overlay.wire.codec import Signed, decode, encode
from overlay.wire.header import Header, Kind
from tests.support.honest import until
from tests.support.hostile import echoed
from tests.support.hostile_controller import HOLD, KILL, ControlledPlant, story
from tests.support.pki import SECOND, Pki


def blackhole(router, link, header, payload):
    """Of control circuits nothing passes."""
    return []


async def ends(stream: CircuitStream, within: float) -> Code:
    async with asyncio.timeout(within):
        return (await stream.closed).code


# --- withheld ---------------------------------------------------------------------------------------------


def test_a_withheld_kill_comes_inside_the_control_circuit():
    """K-03, K-08: the router passes no authority on, and gains the 5 s until the next question at most."""

    async def test(plant: ControlledPlant):
        stream = await plant.call()
        assert await echoed(stream, b"begun.")
        plant.actions.kill(KILL)
        began = plant.sim.loop.time()
        assert await ends(stream, 10) is Code.KILLED
        assert plant.sim.loop.time() - began <= limits.AUTHORITY_INTERVAL + 0.2
        await until(lambda: plant.kills() == [1, 1], 10)
        with pytest.raises(Refused) as caught:
            await plant.call()
        assert caught.value.code is Code.KILLED
        assert len(plant.asset.told) == 1
        assert plant.router.controls  # it was told

    story(test)


def test_one_honest_router_is_enough():
    """A kill floods over all links; one that withholds it gains nothing (A-01)."""

    async def test(plant: ControlledPlant):
        plant.routers[1].floods = True
        stream = await plant.call()
        plant.actions.kill(KILL)
        began = plant.sim.loop.time()
        assert await ends(stream, 1) is Code.KILLED
        assert plant.sim.loop.time() - began < 0.1

    story(test, routers=2)


def test_without_answers_the_authority_is_not_fresh_and_hold_until_bounds_it():
    """K-03, G-02: 15 s after the last answer the edge knows; circuits end with the grant's hold, and not before."""

    async def test(plant: ControlledPlant):
        await asyncio.sleep(limits.STALE_GRACE + 10)
        assert plant.a.agent.refresh_binds()
        stream = await plant.call()
        ((grant, _),) = plant.a.agent.holdings.grants.values()
        plant.router.meddle_control = blackhole
        plant.actions.kill(KILL)
        await until(
            lambda: not plant.a.agent.fresh() and not plant.b.agent.fresh(), limits.FRESH_FOR + 0.1
        )
        assert not plant.a.agent.refresh_binds()
        assert plant.kills() == [0, 0]
        assert await echoed(stream, b"one.")
        assert grant.hold_until - grant.refresh_by == HOLD * SECOND
        left = (grant.hold_until - plant.now()) / SECOND
        await asyncio.sleep(left - 1)
        assert await echoed(stream, b"two.")  # an essential function is not cut by automation
        assert await ends(stream, 2) is Code.STALE
        assert plant.now() >= grant.hold_until - SECOND // 100
        with pytest.raises(Refused) as caught:
            await plant.call()
        assert caught.value.code is Code.STALE
        await until(lambda: not plant.b.circuits(), 1)
        assert plant.asset.told == [b"one.two."]

    story(test)


def test_a_conduit_that_closes_is_bounded_by_ten_minutes():
    """`--away close`: nothing is held after refresh_by (G-02, K-04)."""

    async def test(plant: ControlledPlant):
        stream = await plant.call()
        plant.router.meddle_control = blackhole
        plant.actions.kill(KILL)
        began = plant.sim.loop.time()
        assert await ends(stream, limits.REFRESH_BY + 1) is Code.STALE
        assert plant.sim.loop.time() - began > limits.REFRESH_BY - 60
        await until(lambda: not plant.b.circuits() and not plant.a.circuits(), 1)

    story(test, hold=0)


def test_the_switch_on_site_needs_nobody():
    """A-03, A-06: whatever routers do."""

    async def test(plant: ControlledPlant):
        stream = await plant.call()
        plant.router.meddle_control = blackhole
        await plant.b.edge.pull("smoke")
        assert await ends(stream, 1) is Code.LOCAL_KILL
        with pytest.raises(Refused):
            await plant.call()
        lifted = plant.authority(version=99)
        plant.router.links["edge-b"].send_control(Publish(lifted))
        await until(lambda: plant.b.agent.state.authority.version == 99)
        with pytest.raises(Refused):
            await plant.call()
        assert len(plant.asset.told) == 1

    story(test)


def test_an_answer_that_is_held_back_does_not_count():
    """K-03, A-20: 15 s from when it was asked; later it is neither fresh nor the time."""

    async def test(plant: ControlledPlant):
        held: list[tuple[object, Header, bytes]] = []

        def hold(router, link, header, payload):
            onward = router.table.get((link, header.circuit))
            if link.name == "controller" and onward is not None and onward[0].name == "edge-a":
                held.append((link, header, payload))
                return []
            answered = any(one.kind is Kind.DATA for _, one, _ in held)
            return [] if link.name == "edge-a" and answered else None  # no more questions then

        before = plant.a.agent.plant_now()
        plant.router.meddle_control = hold
        await until(lambda: any(header.kind is Kind.DATA for _, header, _ in held), 6)
        await asyncio.sleep(limits.FRESH_FOR + 0.1)
        assert not plant.a.agent.fresh()
        for link, header, payload in held:
            plant.router.forward(link, header, payload)
        await asyncio.sleep(0.1)
        assert not plant.a.agent.fresh()
        waited = plant.sim.loop.time()
        assert abs(plant.a.agent.plant_now() - plant.now()) < SECOND
        assert plant.a.agent.plant_now() - before < waited * SECOND
        assert plant.b.agent.fresh()

    story(test)


# --- old --------------------------------------------------------------------------------------------------


def test_an_old_authority_lifts_no_kill():
    """A-02: a lower version is no news, to an edge that runs and to one that comes back from its disk."""

    async def test(plant: ControlledPlant):
        old = [
            body
            for link, body in plant.router.controls
            if link.name == "controller" and isinstance(body, Publish)
        ]
        authorities = [body for body in old if decode(Signed, body.signed).type == "authority"]
        assert authorities
        plant.actions.kill(KILL)
        await until(lambda: plant.kills() == [1, 1], 10)
        for edge in plant.edges.values():
            for body in authorities:
                plant.router.links[edge.name].send_control(body)
        await asyncio.sleep(1)
        assert plant.kills() == [1, 1]
        plant.router.meddle_control = blackhole  # and after a restart, with nothing but the old one
        await plant.a.restart()
        await plant.b.restart()
        for edge in plant.edges.values():
            for body in authorities:
                plant.router.links[edge.name].send_control(body)
        await asyncio.sleep(1)
        assert plant.kills() == [1, 1]
        assert not plant.a.agent.fresh()
        with pytest.raises(Refused) as caught:
            await plant.call()
        assert caught.value.code is Code.KILLED
        assert plant.asset.told == []

    story(test)


def test_an_edge_that_gets_only_the_old_one_is_told_so_by_the_controller():
    """K-08: the controller sends the current one before its answer to a question that tells an older version."""

    async def test(plant: ControlledPlant):
        old = plant.authority(version=1)

        async def serve_the_old_one() -> None:
            while True:
                for name in plant.edges:
                    if name in plant.router.links:
                        plant.router.links[name].send_control(Publish(old))
                await asyncio.sleep(0.1)

        serving = spawn(serve_the_old_one(), "serve")
        plant.actions.kill(KILL)
        await until(lambda: plant.kills() == [1, 1], limits.AUTHORITY_INTERVAL + 1)
        await asyncio.sleep(5)
        assert plant.kills() == [1, 1]
        assert plant.a.agent.fresh()
        serving.cancel()

    story(test)


# --- made up ----------------------------------------------------------------------------------------------


def forged(plant: ControlledPlant) -> dict[str, bytes]:
    now, pki = plant.now(), plant.pki
    lifting = Authority(1000, now, (), (), ())
    killing = Authority(1000, now, (Kill(b"x" * 16, "plant", "", "gone", now, 0),), (), ())
    evil = FabricMap(1000, (RouterEntry("evil", "router-1:1"),))
    real = plant.authority(version=1000)
    grant = decode(Signed, plant.sign(decode(Grant, decode(Signed, plant.grant()).body)))
    signed = decode(Signed, real)
    return {
        "by the router": plant.sign(lifting, plant.router.credentials),
        "a kill by the router": plant.sign(killing, plant.router.credentials),
        "by an edge": plant.sign(lifting, pki.edge("edge-x")),
        "by another plant": plant.sign(lifting, Pki("other").controller()),
        "a map by the router": plant.sign(evil, plant.router.credentials),
        "with another body": encode(Signed("authority", encode(killing), signed.signer, signed.signature, signed.chain)),
        "with another label": encode(Signed("map", signed.body, signed.signer, signed.signature, signed.chain)),
        "a grant as authority": encode(Signed("authority", grant.body, grant.signer, grant.signature, grant.chain)),
        "by nobody known": encode(Signed("authority", signed.body, bytes(32), signed.signature)),
        "of one version with other contents": plant.authority(version=plant.actions.version, kills=(KILL,)),
    }  # fmt: skip


@pytest.mark.parametrize(
    "what",
    [
        "by the router", "a kill by the router", "by an edge", "by another plant", "a map by the router",
        "with another body", "with another label", "a grant as authority", "by nobody known",
        "of one version with other contents",
    ],
)  # fmt: skip
def test_a_publication_that_no_controller_made_changes_nothing_and_is_recorded(what: str):
    """P-12, P-13, A-02, F-01."""

    async def test(plant: ControlledPlant):
        stream = await plant.call()
        before = (plant.a.agent.state.authority.held, plant.a.agent.state.fabric.held)
        link = plant.router.links["edge-a"]
        link.send_control(Publish(forged(plant)[what]))
        await until(lambda: plant.a.security)
        assert plant.a.noticed() == {"refused": 1}
        assert plant.a.security[0][1].startswith("publication refused: ")
        assert (plant.a.agent.state.authority.held, plant.a.agent.state.fabric.held) == before
        assert not link.over
        assert await echoed(stream, b"one.")
        assert plant.a.agent.router_names() == ("router-1",)

    story(test)


@pytest.mark.parametrize(
    "signed", [b"", b"\xc1", encode(Signed("grant", b"", bytes(32), bytes(64))), bytes(2000)]
)
def test_a_publication_that_cannot_be_read_costs_the_link(signed: bytes):
    """P-11, L-33; the edge dials again and its circuit goes on."""

    async def test(plant: ControlledPlant):
        stream = await plant.call()
        link = plant.router.links["edge-a"]
        link.send_control(Publish(signed))
        await until(lambda: link.over)
        assert link.end[0] is Code.PROTOCOL
        await until(lambda: plant.a.security)
        assert plant.a.noticed() == {"refused": 1}
        assert await echoed(stream, b"one.")

    story(test)


def test_an_edge_is_not_told_where_others_are():
    """Attachments flood to routers only (F-10): to an edge, true or forged, they are nothing."""

    async def test(plant: ControlledPlant):
        body = Attachment("edge-b", (("router-1", 1),), 1, 1, plant.now() + 60 * SECOND)
        plant.router.links["edge-a"].send_control(
            Attach((plant.sign(body, plant.router.credentials), b"\xc1"))
        )
        await asyncio.sleep(0.5)
        assert plant.a.security == []
        assert plant.a.agent.fresh()
        assert await echoed(await plant.call(), b"one.")

    story(test)


# --- the control circuit itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["the router", "an edge", "another plant"])
def test_nobody_answers_for_the_controller(who: str):
    """C-02: an edge believes freshness and grants of a controller of its plant only; it is not fresh, and says so."""

    async def test(plant: ControlledPlant):
        credentials = {
            "the router": plant.router.credentials, "an edge": plant.pki.edge("edge-x"),
            "another plant": Pki("other").controller(),
        }[who]  # fmt: skip
        answered: list[Header] = []

        def answer(router, link, header, payload):
            if link.name != "edge-a":
                return None
            if header.kind is Kind.OPEN:
                body = decode(Open, payload)
                handshake = HostHandshake(
                    credentials, body, decode(OpenIntent, body.intent), None, bytes(HOST_RANDOM),
                    plant_now=plant.now(), admit=lambda _: None,
                )  # fmt: skip
                link.send(Kind.ACCEPT, header.circuit, handshake.accept)
                answered.append(header)
            return []

        plant.router.meddle_control = answer
        await plant.a.restart()
        await until(lambda: len(answered) > 1, 30)
        await asyncio.sleep(5)
        assert not plant.a.agent.connected
        assert not plant.a.agent.fresh()
        assert set(plant.a.noticed()) == {"refused"}

    story(test)


def test_a_control_frame_that_is_repeated_ends_the_control_circuit_only():
    """C-22: found, recorded, and the node is connected again."""

    async def test(plant: ControlledPlant):
        stream = await plant.call()
        done: list[Header] = []

        def repeat(router, link, header, payload):
            if header.kind is Kind.DATA and link.name == "controller" and not done:
                done.append(header)
                return [(header, payload)] * 2
            return None

        plant.router.meddle_control = repeat
        await until(lambda: done, 10)
        await until(lambda: plant.a.security + plant.b.security)
        assert sum((plant.a.noticed() + plant.b.noticed()).values()) == 1
        assert set(plant.a.noticed() + plant.b.noticed()) == {"tamper"}
        await until(lambda: plant.a.agent.connected and plant.b.agent.connected, 30)
        assert await echoed(stream, b"one.")
        events = plant.a.events(EventName.CIRCUIT_CLOSE) + plant.b.events(EventName.CIRCUIT_CLOSE)
        assert events == []

    story(test)
