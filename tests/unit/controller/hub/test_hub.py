"""The hub among routers and nodes: dialing, publishing, newcomers, revocation (A-01, A-04, E-03, E-07, F-13)."""

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from controller.hub import hub as hub_module
from controller.hub import newcomers
from overlay import limits
from overlay.aio.dialer import dial_link
from overlay.aio.endpoint import Endpoint
from overlay.aio.link_driver import LinkDriver
from overlay.control.messages import Ask, Enrol, Failed, Start
from overlay.control.stream import encode_message, from_controller
from overlay.errors import Code, FerruleError, TrustError
from overlay.fabric.authority import Authority, Kill
from overlay.identity.enrolment import EXPORTER_LABEL
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from overlay.wire.bodies import CONTROL_SERVICE, Publish
from overlay.wire.codec import Signed, decode
from tests.support.simulated_plant import PORT, TOKEN, SimulatedPlant
from tests.support.simulation import Simulation


def simulate(story, seed: int = 0):
    sim = Simulation(seed)

    async def run():
        await story(SimulatedPlant(sim))

    sim.run(run())


async def routers(plant: SimulatedPlant, count: int = 1) -> None:
    plant.start_controller()
    for number in range(1, count + 1):
        plant.start_router(f"router-{number}")
    await plant.until(
        lambda: all(plant.actions.nodes[f"router-{n}"].connected for n in range(1, count + 1))
    )


def linked(plant: SimulatedPlant) -> set[str]:
    """Routers that the hub has a link to."""
    assert plant.hub is not None
    return {link.name for link in plant.hub._known()}


class Stranger:
    """Somebody with credentials and an endpoint of its own, on a host of its own."""

    def __init__(self, plant: SimulatedPlant, credentials: Credentials) -> None:
        self.plant = plant
        self.world = plant.sim.host("stranger").world
        self.credentials = credentials
        self.endpoint = Endpoint(
            self.world, lambda: credentials, plant.actions.pki.signers(), plant.actions.now,
            lambda *_, **__: None, 1,
        )  # fmt: skip

    async def dial(self, *, enrol: bool) -> LinkDriver:
        return await dial_link(
            self.world, "router-1", PORT, self.credentials, self.endpoint,
            now=self.plant.actions.now, enrol=enrol,
        )  # fmt: skip

    async def control(self, *, enrol: bool) -> Any:
        return await self.endpoint.dial(
            CONTROL_SERVICE, enrol=enrol, links=[await self.dial(enrol=enrol)]
        )


def newcomer(plant: SimulatedPlant, number: int = 0) -> Stranger:
    key = SigningKey.generate(bytes([number + 1]) * 32)
    return Stranger(plant, Credentials.newcomer(plant.actions.pki.anchor, key))


async def answers(stream: Any) -> list[Any]:
    """What the controller says until it ends the circuit."""
    reader, found = from_controller(), list[Any]()
    try:
        while data := await stream.read():
            found += reader.feed(data)
    except ConnectionResetError:
        pass
    return found


def test_every_router_is_dialed_and_dialed_again():
    async def story(plant):
        await routers(plant, 3)
        assert linked(plant) == {"router-1", "router-2", "router-3"}
        plant.sim.host("router-2").crash()
        await plant.until(lambda: "router-2" not in linked(plant))
        await asyncio.sleep(60)
        plant.start_router("router-2")
        assert await plant.until(lambda: "router-2" in linked(plant)) < 3

    simulate(story)


def test_a_router_that_is_removed_is_dialed_no_more():
    async def story(plant):
        await routers(plant, 2)
        del plant.actions.nodes["router-2"]
        plant.actions.publish("map")
        await plant.until(lambda: linked(plant) == {"router-1"}, 5)
        await asyncio.sleep(20)
        assert linked(plant) == {"router-1"}

    simulate(story)


def test_a_machine_that_pretends_to_be_another_router_is_not_accepted():
    async def story(plant):
        await routers(plant, 2)
        plant.actions.nodes["router-1"] = plant.actions.nodes["router-1"].__class__(
            plant.actions.nodes["router-1"].role, f"router-2:{PORT}", 1
        )
        plant.actions.publish("map")
        await asyncio.sleep(20)
        assert linked(plant) == {"router-2"}

    simulate(story)


def test_a_replaced_router_enrols_anew_over_the_controllers_link():
    async def story(plant):
        await routers(plant)
        host = plant.sim.host("router-1")
        host.crash()
        host.world.disk.files.clear()
        host.world.disk.files[TOKEN] = plant.actions.make_token("router-1").encode()
        plant.start_router("router-1")
        await plant.until(lambda: plant.actions.nodes["router-1"].generation == 2, 20)
        await plant.until(lambda: "router-1" in linked(plant), 20)

    simulate(story)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("running", [False, True], ids=["was away", "was there"])
@pytest.mark.parametrize("name", ["router-1", "edge-a"])
def test_a_revoked_machine_that_was_added_again_is_connected_within_three_seconds(
    name: str, running: bool, seed: int
):
    """Whatever the hub, routers and the old machine said of it before: the new folder counts at once."""

    async def story(plant):
        await routers(plant, 2)
        edge = plant.edge("edge-a")
        await plant.until(lambda: edge.connected)
        host, node = plant.sim.host(name), plant.actions.nodes[name]
        if not running:
            host.crash()
        plant.actions.revoke(name)
        await asyncio.sleep(20 + seed)
        assert node.connected == 0
        token = plant.actions.make_token(name)
        await asyncio.sleep(seed)
        if running:
            host.crash()
        host.world.disk.files.clear()
        host.world.disk.files[TOKEN] = token.encode()
        if name == "edge-a":
            edge.start(token)
        else:
            plant.start_router(name)
        await plant.until(lambda: node.connected == 1, 3)
        assert node.generation == 2
        await asyncio.sleep(60)
        assert node.connected == 1, "and stays so"

    simulate(story, seed)


def test_a_kill_makes_nobody_work_out_grants_and_a_change_of_policy_few_at_once(monkeypatch):
    async def story(plant):
        await routers(plant)
        edges = [plant.edge(f"edge-{n}") for n in range(8)]
        await plant.until(lambda: all(edge.connected for edge in edges))
        await asyncio.sleep(1)
        asked: list[str] = []
        at_once: list[int] = []
        busy = 0
        real = plant.actions.grants_for

        async def grants_for(leaf):
            nonlocal busy
            asked.append(leaf.identity.name)
            busy += 1
            at_once.append(busy)
            await asyncio.sleep(0.1)
            busy -= 1
            return await real(leaf)

        monkeypatch.setattr(plant.actions, "grants_for", grants_for)
        plant.actions.kill(Kill(b"k" * 16, "identity", "edge-0", "drill", 1, 0))
        await plant.until(lambda: all(edge.hooks.authorities[-1].kills for edge in edges), 0.1)
        await asyncio.sleep(1)
        assert asked == []
        plant.actions.publish("policy")
        await plant.until(lambda: len(asked) == 9)
        await asyncio.sleep(1)
        assert sorted(asked) == sorted([*(f"edge-{n}" for n in range(8)), "router-1"])
        assert max(at_once) == hub_module.PUSHES_AT_ONCE

    simulate(story)


def test_the_authority_is_published_every_five_seconds_and_at_once_after_a_change():
    async def story(plant):
        await routers(plant)
        edge = plant.edge("edge-a")
        await plant.until(lambda: edge.connected)
        await asyncio.sleep(30)
        times = [one.time for one in edge.hooks.renewed[-4:]]
        gaps = [(later - sooner) / 1e6 for sooner, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([limits.AUTHORITY_INTERVAL] * 3, abs=0.1)
        plant.actions.version += 1
        plant.actions.publish("authority")
        version = plant.actions.version
        assert await plant.until(lambda: edge.hooks.authorities[-1].version == version) < 0.1

    simulate(story)


def test_a_store_that_was_away_is_no_reason_to_end():
    async def story(plant):
        plant.actions.away = True
        plant.start_controller()
        await asyncio.sleep(20)
        plant.actions.away = False
        plant.start_router("router-1")
        await plant.until(lambda: plant.actions.nodes["router-1"].connected == 1, 20)

    simulate(story)


def test_routers_are_dialed_when_the_store_was_away_as_the_controller_began():
    async def story(plant):
        await routers(plant)
        plant.controller.crash()
        plant.actions.away = True
        plant.start_controller()
        await asyncio.sleep(5)
        plant.actions.away = False
        plant.actions.nodes["router-1"].connected = 0
        await plant.until(
            lambda: plant.actions.nodes["router-1"].connected == 1, limits.AUTHORITY_INTERVAL + 2
        )

    simulate(story)


def test_a_controller_whose_store_was_set_back_says_so_once(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(hub_module._log, "error", lambda event, **_: said.append(event))

    async def story(plant):
        await routers(plant)
        edge = plant.edge("edge-a")
        plant.actions.version = 50
        plant.actions.publish("authority")
        await plant.until(lambda: edge.connected and edge.agent.state.authority.version == 50)
        plant.controller.crash()
        plant.actions.version = 40
        plant.start_controller()
        await asyncio.sleep(40)
        assert said == ["hub.behind"]
        assert edge.agent.state.authority.version == 50

    simulate(story)


def test_a_newcomer_may_redeem_a_token_and_nothing_else():
    async def story(plant):
        await routers(plant)
        for message in (Start("1", 1, 0, 1), Ask(b"n" * 16)):
            stream = await newcomer(plant).control(enrol=True)
            await stream.write(encode_message(message))
            assert await answers(stream) == []
            assert len(plant.hub.endpoint.live()) == 1, "the router's own is the only one left"

    simulate(story)


def test_a_newcomer_that_sends_too_much_or_nothing_is_cut():
    async def story(plant):
        await routers(plant)
        stream = await newcomer(plant).control(enrol=True)
        await stream.write((limits.ENROL_BYTES + 1).to_bytes(4, "big"))
        assert await answers(stream) == []
        stream = await newcomer(plant).control(enrol=True)
        begin = plant.sim.loop.time()
        assert await answers(stream) == []
        assert plant.sim.loop.time() - begin < limits.ENROL_SECONDS + 5

    simulate(story)


def test_a_forged_proof_is_refused_with_the_one_text():
    async def story(plant):
        await routers(plant)
        plant.actions.add_edge("edge-a")
        (token,) = [t for t, row in plant.actions.tokens.items() if row.name == "edge-a"]
        said = set()
        for number, (name, proof) in enumerate([(token, b"p" * 32), (b"?" * 16, b"p" * 32)]):
            stranger = newcomer(plant, number)
            stream = await stranger.control(enrol=True)
            assert len(stream.exporter(EXPORTER_LABEL)) == 32
            await stream.write(encode_message(Enrol(1, name, b"csr", proof)))
            (answer,) = await answers(stream)
            assert isinstance(answer, Failed)
            assert answer.code == Code.NOT_TRUSTED
            said.add(answer.code)
        assert len(said) == 1
        assert plant.actions.nodes["edge-a"].generation == 0

    simulate(story)


def test_newcomers_are_bounded(monkeypatch):
    monkeypatch.setattr(hub_module, "NEWCOMERS", 2)

    async def story(plant):
        await routers(plant)
        held = [await newcomer(plant, n).control(enrol=True) for n in range(2)]
        with pytest.raises(FerruleError, match="too many machines"):
            await newcomer(plant, 5).control(enrol=True)
        await asyncio.sleep(limits.ENROL_SECONDS + newcomers.LINGER_SECONDS + 1)
        assert all(one.closed.done() for one in held)
        stream = await newcomer(plant, 6).control(enrol=True)
        stream.abort(Code.NORMAL, "")

    simulate(story)


@pytest.mark.parametrize("limit", ["NEWCOMERS", "CHECKS_AT_ONCE"])
def test_those_who_come_in_one_turn_of_the_event_loop_are_bounded_as_well(
    monkeypatch: pytest.MonkeyPatch, limit: str
):
    monkeypatch.setattr(hub_module, limit, 2)

    async def story(plant):
        await routers(plant)
        done = asyncio.Event()

        async def wait(*_: object) -> None:
            await done.wait()
            raise TrustError("no")

        monkeypatch.setattr(hub_module, "serve_newcomer", wait)
        plant.actions.check_leaf = wait
        caller = None if limit == "NEWCOMERS" else plant.actions.pki.edge("edge-z").leaf
        refused: list[Code] = []
        incoming: Any = SimpleNamespace(
            service=CONTROL_SERVICE, caller=caller, refuse=lambda code, _: refused.append(code)
        )
        for _ in range(3):
            for _ in range(5):
                plant.controller.call(plant.hub._incoming, incoming)
            await asyncio.sleep(0.1)
            assert refused == [Code.BUSY] * 3
            refused.clear()
            done.set()
            await asyncio.sleep(0.1)
            done.clear()
            refused.clear()

    simulate(story)


def test_control_circuits_are_bounded(monkeypatch):
    monkeypatch.setattr(hub_module, "SESSIONS", 1)

    async def story(plant):
        await routers(plant)
        stranger = Stranger(plant, plant.actions.pki.edge("edge-z"))
        with pytest.raises(FerruleError, match="too many control circuits"):
            await stranger.control(enrol=False)

    simulate(story)


@pytest.mark.parametrize("who", ["unknown", "controller"])
def test_who_is_not_a_node_of_the_plant_is_refused(who):
    async def story(plant):
        await routers(plant)
        pki = plant.actions.pki
        credentials = pki.edge("edge-z") if who == "unknown" else pki.controller("second")
        with pytest.raises(FerruleError):
            await Stranger(plant, credentials).control(enrol=False)

    simulate(story)


def test_a_controller_hosts_nothing_but_control():
    async def story(plant):
        await routers(plant)
        edge = plant.edge("edge-a")
        await plant.until(lambda: edge.connected)
        heard: list[Any] = []
        plant.hub.endpoint.on_incoming = heard.append
        stranger = Stranger(plant, plant.actions.pki.edge("edge-a"))
        link = await stranger.dial(enrol=False)
        with pytest.raises(FerruleError):
            await stranger.endpoint.dial("plc.modbus", b"x", links=[link])
        assert heard == []

    simulate(story)


def test_a_router_is_told_authority_and_map_when_its_link_comes_up():
    async def story(plant):
        sent: list[str] = []
        original = LinkDriver.send_control

        def watch(link: LinkDriver, body: Any) -> None:
            if isinstance(body, Publish) and link.peer is not None and link.name == "router-1":
                sent.append(decode(Signed, body.signed).type)
            original(link, body)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LinkDriver, "send_control", watch)
            await routers(plant)
        assert {Authority.TYPE, "map"} <= set(sent)

    simulate(story)


def test_a_hub_that_stops_takes_no_more_control_circuits(monkeypatch):
    async def story(plant):
        await routers(plant)
        stranger = Stranger(plant, plant.actions.pki.edge("edge-z"))
        link = await stranger.dial(enrol=False)
        done = plant.actions.node_disconnected
        released = asyncio.Event()

        async def slow(leaf, reason):
            await released.wait()
            await done(leaf, reason)

        monkeypatch.setattr(plant.actions, "node_disconnected", slow)
        plant.stop.set()
        await asyncio.sleep(0.1)
        with pytest.raises(FerruleError, match="stops"):
            await stranger.endpoint.dial(CONTROL_SERVICE, links=[link])
        released.set()
        await plant.until(lambda: not linked(plant), 5)

    simulate(story)


def test_the_hub_ends_in_time_and_leaves_no_link():
    async def story(plant):
        await routers(plant)
        edge = plant.edge("edge-a")
        await plant.until(lambda: edge.connected)
        plant.stop.set()
        assert await plant.until(lambda: not edge.connected, 3) < 2
        assert plant.actions.nodes["edge-a"].connected == 0
        await plant.until(lambda: not linked(plant), 2)

    simulate(story)
