"""Nodes as witnesses of the audit log: what they see, ask, keep, tell and record (U-11 to U-14)."""

import asyncio
import json

import pytest

from controller.hub.session import Session
from overlay import limits
from overlay.aio import witnessing
from overlay.aio.shelf import seal, unseal
from overlay.audit.event import EventName
from overlay.audit.witness import Memory
from overlay.errors import TrustError
from overlay.fabric.authority import Authority
from overlay.identity.certificate import Role
from overlay.identity.trust import sign_body
from overlay.wire.bodies import Heads, Publish, TreeHead
from overlay.wire.codec import Signed, decode
from tests.support.pki import SECOND
from tests.support.simulated_plant import DIR, Node, SimulatedPlant
from tests.support.simulation import Simulation

FILE = DIR / "witness"


def simulate(story):
    sim = Simulation(1)

    async def run():
        await story(SimulatedPlant(sim))

    sim.run(run())


async def small_plant(plant: SimulatedPlant, *, edges: int = 1, routers: int = 1) -> list[Node]:
    plant.start_controller()
    for number in range(1, routers + 1):
        plant.start_router(f"router-{number}")
    nodes = [plant.edge(f"edge-{number}") for number in range(1, edges + 1)]
    await plant.until(lambda: all(one.connected and one.agent.fresh() for one in nodes))
    await busy(plant, *nodes)
    await plant.until(lambda: all(witness(one).base is not None for one in nodes))
    return nodes


async def busy(plant: SimulatedPlant, *nodes: Node, events: int = 3) -> None:
    """Events that come one by one, so that there are heads of many sizes."""
    for number in range(events):
        for node in nodes:
            before = len(plant.actions.leaves)
            node.record(f"event {number}")
            await plant.until(lambda: len(plant.actions.leaves) > before)  # noqa: B023


def witness(node: Node):
    return node.agent.witnessing.witness


def size(node: Node) -> int:
    newest = witness(node).newest
    return 0 if newest is None else newest.head.size


def forks(plant: SimulatedPlant, name: str) -> list[str]:
    return [
        one.reason for one in plant.actions.events(name) if one.event is EventName.SECURITY_FORK
    ]


def lie(plant: SimulatedPlant, at: int) -> list[bytes]:
    """The log with one record replaced by another node's."""
    leaves = list(plant.actions.leaves)
    leaves[at] = leaves[at].replace(b'"outcome":"done"', b'"outcome":"failed"')
    assert leaves != plant.actions.leaves
    return leaves


# --- an honest controller -------------------------------------------------------------------------


def test_an_honest_controller_is_asked_once_a_minute_and_not_accused():
    async def story(plant):
        (edge,) = await small_plant(plant)
        plant.actions.questions.clear()
        for _ in range(6):
            await busy(plant, edge, events=1)
            await asyncio.sleep(20)
        asked = len(plant.actions.questions)
        assert 2 <= asked <= 8, "an edge and a router, each once a minute"
        await asyncio.sleep(2 * limits.PROVE_INTERVAL)
        assert witness(edge).base == witness(edge).newest
        assert witness(edge).waiting == ()
        shown = edge.agent.witnessing.status()
        assert shown is not None
        whole = {"size": len(plant.actions.leaves), "proven": len(plant.actions.leaves)}
        assert shown == whole | {"time": shown["time"], "forks": []}
        assert forks(plant, "edge-1") == []

    simulate(story)


def test_honest_restarts_of_all_three_are_not_accused():
    async def story(plant):
        (edge,) = await small_plant(plant)
        for _ in range(2):
            plant.controller.crash()
            await asyncio.sleep(10)
            plant.start_controller()
            plant.sim.host("router-1").crash()
            plant.start_router("router-1")
            edge.host.crash()
            edge.start()
            await plant.until(lambda: edge.connected)
            await busy(plant, edge)
            await asyncio.sleep(2 * limits.PROVE_INTERVAL)
        assert witness(edge).base == witness(edge).newest
        assert forks(plant, "edge-1") == forks(plant, "router-1") == []

    simulate(story)


def test_a_store_that_is_away_is_no_alarm_and_is_asked_again():
    async def story(plant):
        (edge,) = await small_plant(plant)
        await busy(plant, edge)
        plant.actions.away = True
        await asyncio.sleep(3 * limits.PROVE_INTERVAL)
        assert witness(edge).forks == []
        plant.actions.away = False
        await asyncio.sleep(3 * limits.PROVE_INTERVAL)
        assert witness(edge).base == witness(edge).newest

    simulate(story)


def test_a_controller_that_does_not_know_the_question_is_no_alarm_and_no_secret(monkeypatch):
    said = []
    monkeypatch.setattr(
        witnessing, "_log", type("Log", (), {
            "warning": lambda _, event, **__: said.append(event),
            "error": lambda _, event, **__: said.append(event),
            "debug": lambda *_, **__: None,
        })(),
    )  # fmt: skip

    async def skip(*_):
        pass

    async def story(plant):
        monkeypatch.setattr(Session, "_prove", skip)
        (edge,) = await small_plant(plant)
        await busy(plant, edge)
        await asyncio.sleep(witnessing.UNPROVEN_SECONDS + 3 * limits.PROVE_INTERVAL)
        assert edge.agent.connected
        assert witness(edge).forks == []
        assert set(said) == {"log.unproven"}

    simulate(story)


# --- a controller that lies -----------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
def test_a_record_that_is_rewritten_is_found(restarts):
    async def story(plant):
        (edge,) = await small_plant(plant)
        await asyncio.sleep(2 * limits.PROVE_INTERVAL)
        plant.controller.crash()
        if restarts:
            edge.agent.witnessing.tick()
            await asyncio.sleep(1)
            edge.host.crash()
        await asyncio.sleep(1)
        plant.actions.rewrite(lie(plant, 1))
        plant.start_controller()
        if restarts:
            edge.start()
            await plant.until(lambda: edge.connected)
        await busy(plant, edge, events=2)
        await plant.until(lambda: forks(plant, "edge-1") != [], 2 * limits.PROVE_INTERVAL)
        await asyncio.sleep(4 * limits.PROVE_INTERVAL)
        assert len(forks(plant, "edge-1")) == 1, "recorded once"
        kept = unseal(Memory, edge.host.world.disk.files[FILE])
        assert len(kept.forks) == 1
        shown = edge.agent.witnessing.status()
        assert shown is not None
        assert shown["forks"][0]["reason"] == forks(plant, "edge-1")[0]

    simulate(story)


def test_a_controller_that_restores_an_older_log_is_found_at_once():
    async def story(plant):
        (edge,) = await small_plant(plant)
        old = list(plant.actions.leaves)
        await busy(plant, edge, events=5)
        await plant.until(lambda: size(edge) == len(plant.actions.leaves))
        plant.controller.crash()
        plant.actions.rewrite(old)
        plant.start_controller()
        await plant.until(lambda: witness(edge).forks != [], 20)
        assert "and later it had" in witness(edge).forks[0].reason
        await plant.until(lambda: forks(plant, "edge-1") != [])
        (event,) = [e for e in plant.actions.events("edge-1") if e.event is EventName.SECURITY_FORK]
        older, newer = json.loads(event.detail)
        assert older["size"] > newer["size"]

    simulate(story)


def test_an_older_log_that_has_grown_again_is_found_by_a_proof_that_fails():
    async def story(plant):
        (edge,) = await small_plant(plant)
        old = list(plant.actions.leaves)
        await busy(plant, edge, events=5)
        await asyncio.sleep(2 * limits.PROVE_INTERVAL)
        remembered = size(edge)
        plant.sim.net.cut("edge-1", "router-1")
        await asyncio.sleep(5)
        plant.actions.rewrite(old)
        other = plant.edge("edge-2")
        await plant.until(lambda: other.connected)
        await busy(plant, other, events=10)
        await plant.until(lambda: len(plant.actions.leaves) > remembered + 3)
        plant.sim.net.heal("edge-1", "router-1")
        await plant.until(lambda: forks(plant, "edge-1") != [], 2 * limits.PROVE_INTERVAL)

    simulate(story)


def test_what_only_one_node_was_shown_is_found_by_its_neighbours():
    """A controller shows one edge another log than the rest of the plant."""

    async def story(plant):
        one, two = await small_plant(plant, edges=2)
        truth = plant.actions
        await asyncio.sleep(70)
        false = TreeHead(size(two) + 1, b"\x66" * 32, truth.now())
        signed = truth._sign(false)
        body = Authority(truth.version, truth.now(), (), (), (), signed)
        one.host.call(one.agent.link_control, one.agent.links[0], Publish(truth._sign(body)))
        await busy(plant, two)
        await plant.until(lambda: witness(one).forks != [], 2 * limits.PROVE_INTERVAL)
        await plant.until(lambda: witness(two).forks != [], 3 * limits.PROVE_INTERVAL)
        for name in ("edge-2", "router-1"):
            await plant.until(lambda name=name: forks(plant, name) != [])

    simulate(story)


def test_an_authority_that_is_no_news_is_a_statement_all_the_same():
    async def story(plant):
        (edge,) = await small_plant(plant)
        newest = witness(edge).newest
        false = plant.actions._sign(TreeHead(newest.head.size, b"\x66" * 32, newest.head.time))
        body = plant.actions._sign(Authority(0, 1, (), (), (), false))
        version = edge.agent.state.authority.version
        edge.host.call(edge.agent.link_control, edge.agent.links[0], Publish(body))
        await plant.until(lambda: witness(edge).forks != [])
        assert edge.agent.state.authority.version == version

    simulate(story)


# --- what neighbours say --------------------------------------------------------------------------


def test_a_node_that_was_away_hears_the_newest_head_and_the_fork_from_its_neighbours():
    async def story(plant):
        one, two = await small_plant(plant, edges=2)
        old = list(plant.actions.leaves)
        await busy(plant, one, events=5)
        plant.sim.net.cut("edge-2", "router-1")
        await asyncio.sleep(5)
        plant.controller.crash()
        plant.actions.rewrite(old)
        plant.start_controller()
        await plant.until(lambda: witness(one).forks != [], 30)
        plant.sim.net.heal("edge-2", "router-1")
        await plant.until(lambda: witness(two).forks != [], 30)

    simulate(story)


def test_heads_that_no_controller_signed_are_ignored():
    async def story(plant):
        (edge,) = await small_plant(plant)
        link = edge.agent.links[0]
        before = witness(edge).newest
        head = TreeHead(before.head.size, b"\x66" * 32, before.head.time + 1)
        stranger = plant.actions.pki.node(Role.EDGE, "edge-1")
        forged = sign_body(head, stranger.key, plant.actions.pki.anchor, stranger.chain)
        good = decode(Signed, before.signed)
        broken = plant.actions._sign(head)[:-1] + b"\x00"
        other = plant.actions._sign(Authority(1, 1, (), (), ()))
        edge.host.call(edge.agent.link_control, link, Heads((forged, broken, other, b"\xc1")))
        edge.host.call(edge.agent.link_control, link, Heads((good.body,)))
        await asyncio.sleep(1)
        assert witness(edge).newest.head.size >= before.head.size
        assert witness(edge).forks == []
        assert edge.agent.witnessing.ignored >= 4
        assert edge.agent.links, "what others say costs no link"

    simulate(story)


def test_a_revoked_controllers_heads_are_ignored():
    async def story(plant):
        (edge,) = await small_plant(plant)
        plant.actions.nodes["controller-9"] = type(plant.actions.nodes["edge-1"])(Role.CONTROLLER)
        plant.actions.revoke("controller-9")
        await plant.until(lambda: edge.agent.state.authority.version == plant.actions.version)
        gone = plant.actions.pki.node(Role.CONTROLLER, "controller-9", generation=0)
        head = TreeHead(size(edge), b"\x66" * 32, plant.actions.now())
        signed = sign_body(head, gone.key, plant.actions.pki.anchor, gone.chain)
        edge.host.call(edge.agent.witnessing.heard, edge.agent.links[0], Heads((signed,)))
        await asyncio.sleep(1)
        assert witness(edge).forks == []
        with pytest.raises(TrustError, match="revoked"):
            edge.agent.witnessing._read(signed)

    simulate(story)


def test_a_neighbour_that_talks_too_much_is_not_listened_to():
    async def story(plant):
        (edge,) = await small_plant(plant)
        watching = edge.agent.witnessing
        await asyncio.sleep(witnessing.TELL_SECONDS)
        ignored = watching.ignored
        for number in range(witnessing.MESSAGES + 5):
            signed = plant.actions._sign(TreeHead(0, b"\0" * 32, number))
            edge.host.call(watching.heard, edge.agent.links[0], Heads((signed,)))
        await asyncio.sleep(0.1)
        assert 5 <= watching.ignored - ignored <= 7
        await asyncio.sleep(witnessing.TELL_SECONDS + 2)
        edge.host.call(watching.heard, edge.agent.links[0], Heads((b"\xc1",)))
        await asyncio.sleep(0.1)
        assert watching._heard[edge.agent.links[0].name] >= 1, "a minute later it is"

    simulate(story)


# --- disk -----------------------------------------------------------------------------------------


def test_a_damaged_file_is_said_and_not_taken_for_no_memory():
    async def story(plant):
        (edge,) = await small_plant(plant)
        edge.stop.set()
        await plant.until(lambda: edge.over)
        files = edge.host.world.disk.files
        files[FILE] = files[FILE][:-1] + bytes([files[FILE][-1] ^ 1])
        edge.start()
        await plant.until(lambda: edge.over)
        assert "witness is damaged" in str(edge.error)
        assert "forget which tree heads" in str(edge.error)

    simulate(story)


def test_a_file_of_another_plant_is_said():
    async def story(plant):
        (edge,) = await small_plant(plant)
        edge.stop.set()
        await plant.until(lambda: edge.over)
        elsewhere = Simulation(7)
        other = SimulatedPlant(elsewhere).actions
        elsewhere.loop.close()
        head = other._sign(TreeHead(1, b"\0" * 32, other.now() - SECOND))
        edge.host.world.disk.files[FILE] = seal(Memory(head, (), ()))
        edge.start()
        await plant.until(lambda: edge.over)
        assert "witness does not belong here" in str(edge.error)

    simulate(story)
