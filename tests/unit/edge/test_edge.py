"""A whole edge on each side: polls, refusals, the audit, the switch, and time."""

import asyncio
from typing import Any

import msgspec
import pytest

from edge.calling import LATE
from overlay import limits
from overlay.aio.calling import BUSY_TRIES
from overlay.audit.receipt import Receipt, verify_side
from overlay.control.messages import Assignments, HostedEntry, ListenerEntry
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.errors import Code, FerruleError
from overlay.wire.bodies import Open, Refusal
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind
from tests.support.circuits import Router
from tests.support.edges import ASSET, LISTEN, NOW, PORT, Client, Plant, story

SECOND = 1_000_000


def test_a_poll_is_carried_and_recorded_with_its_receipt():
    async def test(plant: Plant):
        grant = plant.allow()
        client = await plant.poll(b"poll")
        opened = plant.b.agent.of("circuit.open", "allowed")
        assert len(opened) == 1
        detail = msgspec.json.decode(opened[0]["detail"])
        assert detail == {
            "path": ["edge-a", "router-1", "edge-b"], "key_exchange": "X25519MLKEM768", "integrity": "normal",
        }  # fmt: skip
        named = {
            key: opened[0][key] for key in ("who", "via", "asset", "service", "address", "conduit")
        }
        assert named == {
            "who": "hmi-a", "via": "edge-a", "asset": "plc-b", "service": "plc-b.modbus",
            "address": f"{ASSET}:{PORT}", "conduit": grant.conduit,
        }  # fmt: skip
        assert next(iter(plant.b.live()))[1:] == (4, 4)
        client.connection.end()
        await asyncio.sleep(0.1)
        assert client.gone
        closed = plant.b.agent.of("circuit.close")
        assert len(closed) == 1
        assert closed[0]["circuit"] == opened[0]["circuit"]
        detail = msgspec.json.decode(closed[0]["detail"])
        assert (detail["bytes_in"], detail["bytes_out"]) == (4, 4)
        receipt: Any = msgspec.json.decode(msgspec.json.encode(detail["receipt"]), type=Receipt)
        circuit = bytes.fromhex(closed[0]["circuit"])
        digest = plant.circuits.pki.anchor.digest
        verify_side(receipt.caller, CALLER, circuit, plant.people["edge-a"].key.public, digest)
        verify_side(receipt.host, HOST, circuit, plant.people["edge-b"].key.public, digest)
        assert plant.a.agent.events == []  # the caller's edge decided nothing
        assert plant.router.table == {}

    story(test)


async def accepted_with(plant: Plant, data: bytes) -> tuple[Any, Client]:
    """A connection as a mode hands it over, and the client at its other end, which has spoken already."""
    accepted: list[Any] = []
    here = plant.sim.host("edge-a").world.net
    listener = await here.listen("", 0, accepted.append)
    client = Client()
    client.connection = await plant.hmi.world.net.connect(*listener.local)
    client.connection.start(client)
    client.connection.write((data,))
    await asyncio.sleep(0.01)
    return accepted[0], client


@pytest.mark.parametrize("integrity", [0, 1])
def test_what_a_client_has_said_already_goes_with_the_opening(integrity: int):
    async def test(plant: Plant):
        plant.allow(integrity=integrity)
        (await plant.poll(b"poll")).connection.end()
        await asyncio.sleep(0.1)
        number = len(plant.router.seen)
        words = bytes(range(256)) * 128
        connection, client = await accepted_with(plant, words)
        plant.a.calling.connection("hmi-a", "plc-b.modbus", connection)
        await client.expect(words)
        early = len(decode(Open, plant.router.seen[number][2]).early) - limits.TAG_SIZE
        assert early == (limits.MAX_EARLY_DATA if integrity == 0 else 0)  # C-12, C-44
        assert next(iter(plant.b.live()))[1:] == (len(words), len(words))

    story(test)


def test_what_a_client_without_a_grant_said_reaches_nobody():
    async def test(plant: Plant):
        connection, client = await accepted_with(plant, b"write coil")
        plant.a.calling.connection("hmi-a", "plc-b.modbus", connection)
        await asyncio.sleep(0.01)
        assert client.gone
        assert plant.router.seen == []

    story(test)


def test_what_was_allowed_is_judged_again_when_its_circuit_is_opened():
    async def test(plant: Plant):
        assert plant.a.calling.allow("hmi-a", "plc-b.modbus") is None, "no grant"
        assert plant.a.agent.of("circuit.open", "denied")[-1]["who"] == "hmi-a"
        plant.allow()
        opener = plant.a.calling.allow("hmi-a", "plc-b.modbus")
        assert opener is not None
        await asyncio.sleep(0.1)
        assert plant.router.seen == [], "nothing is opened before"
        stream = opener(b"ping")
        assert stream is not None
        await asyncio.sleep(0.1)
        assert await stream.read() == b"ping"
        late = [plant.a.calling.allow("hmi-a", "plc-b.modbus") for _ in range(2)]
        plant.a.agent.has_room = False
        assert late[0] is not None
        assert late[0](b"") is None
        assert "full" in plant.a.agent.of("circuit.open", "denied")[-1]["reason"]
        plant.a.agent.has_room = True
        await plant.a.pull("smoke")
        assert late[1] is not None
        assert late[1](b"") is None
        assert "kill switch" in plant.a.agent.of("circuit.open", "denied")[-1]["reason"]

    story(test)


def test_what_was_allowed_is_opened_under_a_grant_that_still_is_there_and_holds():
    async def test(plant: Plant):
        calling, denied = plant.a.calling, lambda: plant.a.agent.of("circuit.open", "denied")
        first = plant.allow()
        openers = [calling.allow("hmi-a", "plc-b.modbus") for _ in range(2)]
        plant.a.granted([], [first])
        assert openers[0] is not None
        assert openers[0](b"") is None
        assert [one["reason"] for one in denied()] == [
            "no conduit allows hmi-a to reach plc-b.modbus"
        ]
        second = plant.allow(conduit="c-2", end=NOW + 3600 * SECOND)
        third = plant.allow(conduit="c-3", end=NOW + 1800 * SECOND)
        assert openers[1] is not None
        stream = openers[1](b"ping")
        assert stream is not None
        assert stream.grant == second, "what was taken back meanwhile is not tried"
        opener = calling.allow("hmi-a", "plc-b.modbus")
        assert opener is not None
        plant.a.agent.state.authority.withdrawals["c-2"] = 1
        stream = opener(b"ping")
        assert stream is not None
        assert stream.grant == third, "the one that was picked holds no more"
        await asyncio.sleep(0.1)
        assert await stream.read() == b"ping"
        opener = calling.allow("hmi-a", "plc-b.modbus")
        assert opener is not None
        plant.a.agent.state.authority.withdrawals["c-3"] = 1
        assert opener(b"") is None
        assert len(denied()) == 2, "each attempt is recorded once"

    story(test)


def test_without_a_grant_the_connection_is_closed_at_once_and_recorded():
    async def test(plant: Plant):
        client = await plant.dial()
        await asyncio.sleep(0.005)
        assert client.gone
        event, outcome, fields = plant.a.agent.events[0]
        assert (event, outcome) == ("circuit.open", "denied")
        assert fields == {
            "who": "hmi-a", "via": "edge-a", "service": "plc-b.modbus",
            "reason": "no conduit allows hmi-a to reach plc-b.modbus",
        }  # fmt: skip
        assert plant.router.seen == []  # nobody else heard of it

    story(test)


def test_an_asset_that_refuses_is_recorded_as_failed():
    async def test(plant: Plant):
        plant.sim.net.listeners.clear()
        await plant.a.listeners.close()
        plant.a.listeners.__init__(plant.sim.host("edge-a").world, plant.a.calling)
        plant.a._assign()
        await asyncio.sleep(0.01)
        plant.allow()
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        failed = plant.b.agent.of("circuit.open", "failed")
        assert failed[0]["address"] == f"{ASSET}:{PORT}"
        assert "refused" in failed[0]["reason"]
        assert plant.a.agent.events == []

    story(test)


@pytest.mark.parametrize("second", [False, True])
def test_an_attempt_is_recorded_also_when_its_program_leaves_between_two_tries(second: bool):
    """One router has no room, and is asked again; or it has no way, and another one does not answer."""

    async def test(plant: Plant):
        plant.allow()
        code, reason = (Code.NO_ROUTE, "no way here") if second else (Code.BUSY, "no room here")

        def refuses(_: object, link: Any, header: Any, __: bytes) -> list[Any] | None:
            if header.kind is not Kind.OPEN:
                return None
            link.send(Kind.REFUSE, header.circuit, encode(Refusal(code, reason)))
            return []

        plant.router.meddle = refuses
        if second:
            silent = Router(plant.circuits.pki.router("router-2"))
            silent.meddle = lambda _, __, header, ___: [] if header.kind is Kind.OPEN else None
            silent.attach(plant.a.endpoint, plant.people["edge-a"].leaf)
        client = await plant.dial()
        await asyncio.sleep(1.0 if second else 0.1)
        assert plant.a.agent.of("circuit.open") == []
        client.connection.abort()
        await asyncio.sleep(30.0)
        (record,) = plant.a.agent.of("circuit.open", "failed")
        assert (record["who"], record["reason"]) == ("hmi-a", reason)
        assert plant.b.agent.events == []

    story(test)


@pytest.mark.parametrize("code", [Code.BUSY, Code.GOING_AWAY, Code.NO_ROUTE])
def test_what_a_router_has_no_room_or_no_way_for_is_recorded_by_the_callers_edge_alone(code: Code):
    """It decides nothing, and has other things to do: nobody else would tell of the attempt."""

    async def test(plant: Plant):
        plant.allow()
        told: list[int] = []

        def full(_: object, link: Any, header: Any, __: bytes) -> list[Any] | None:
            if header.kind is not Kind.OPEN:
                return None
            told.append(header.circuit)
            link.send(Kind.REFUSE, header.circuit, encode(Refusal(code, "no room here")))
            return []

        plant.router.meddle = full
        client = await plant.dial()
        await asyncio.sleep(30.0)
        assert client.gone
        (record,) = plant.a.agent.of("circuit.open")
        assert record == {
            "who": "hmi-a", "via": "edge-a", "asset": "plc-b", "service": "plc-b.modbus",
            "conduit": record["conduit"], "reason": "no room here",
        }  # fmt: skip
        assert plant.a.agent.of("circuit.open", "failed") == [record]
        assert plant.b.agent.events == []
        assert len(told) == (1 + BUSY_TRIES if code is Code.BUSY else 1), "one record of all"

    story(test)


def test_an_asset_that_does_not_answer_is_given_five_seconds():
    async def test(plant: Plant):
        plant.allow()
        plant.sim.net.cut("edge-b", ASSET)
        client = await plant.dial()
        await asyncio.sleep(limits.DIAL_ASSET_SECONDS - 0.5)
        assert not client.gone
        await asyncio.sleep(1.0)
        assert client.gone
        assert (
            "does not answer within 5 s" in plant.b.agent.of("circuit.open", "failed")[0]["reason"]
        )

    story(test)


def test_a_service_that_is_not_hosted_and_a_port_out_of_range_are_refused():
    async def test(plant: Plant):
        plant.allow()
        grant = plant.circuits.grant()
        for port, fine in ((PORT + 8, True), (PORT + 9, False), (1, False), (0, True)):
            await plant.asset.world.net.listen(
                "", PORT + 8, plant._dialed
            ) if port == PORT + 8 else None
            stream = plant.a.endpoint.open("plc-b.modbus", grant, port=port)
            await asyncio.sleep(0.1)
            assert stream.is_open is fine
            stream.abort(Code.NORMAL, "")
        plant.b.assigned(Assignments(2, b"", (), ()))
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        assert "does not host" in plant.b.agent.of("circuit.open", "denied")[-1]["reason"]

    story(test)


def test_a_full_spool_refuses_new_circuits_on_either_side_and_cuts_none():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        plant.b.agent.has_room = False
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        plant.b.agent.has_room = True
        plant.a.agent.has_room = False
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        assert "full" in plant.a.agent.of("circuit.open", "denied")[0]["reason"]
        assert not running.gone

    story(test)


# --- the switch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edge-a", "edge-b"])
def test_the_local_switch_cuts_refuses_survives_a_restart_and_is_released_on_site_only(name: str):
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        edge, state = plant.edges[name], plant.states[name]
        await edge.pull("smoke in hall 3")
        assert state.local_kill is not None
        assert state.local_kill.reason == "smoke in hall 3"
        await asyncio.sleep(0.05)
        assert running.gone
        assert edge.status()["kill"]["reason"] == "smoke in hall 3"
        assert edge.agent.of("kill.local")[0]["reason"] == "smoke in hall 3"
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        await plant.stop(name)
        edge = await plant.start(name)
        plant.allow()
        edge.authority_changed(None)  # no word from outside lifts it
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        denied = edge.agent.of("circuit.open", "denied")
        assert "local kill switch" in denied[-1]["reason"]
        assert await edge.release("all clear")
        assert plant.states[name].local_kill is None
        assert not await edge.release("again")
        await plant.poll()

    story(test)


def test_a_switch_that_cannot_be_written_is_pulled_all_the_same_and_says_so():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        plant.states["edge-a"].full = True
        with pytest.raises(FerruleError, match="would release it"):
            await plant.a.pull("fire")
        await asyncio.sleep(0.05)
        assert running.gone
        with pytest.raises(FerruleError, match="stays pulled"):
            await plant.a.release("")
        assert plant.a.status()["kill"] is not None

    story(test)


def test_a_reason_is_one_line_of_bounded_length():
    async def test(plant: Plant):
        await plant.a.pull("a\nb " + "x" * 500)
        assert plant.a.switch.pulled.reason.startswith("a b xxx")
        assert len(plant.a.switch.pulled.reason) == limits.MAX_REASON
        first = plant.a.switch.pulled.since
        await asyncio.sleep(1)
        await plant.a.pull("")
        assert plant.a.switch.pulled.since == first

    story(test)


# --- time and authority -------------------------------------------------------------------------------


def test_a_circuit_ends_with_its_conduit():
    async def test(plant: Plant):
        plant.allow(end=NOW + 5 * SECOND)
        running = await plant.poll()
        await asyncio.sleep(4.5)
        assert not running.gone
        await asyncio.sleep(0.7)
        assert running.gone
        assert plant.b.agent.of("circuit.close")[0]["reason"].startswith("conduit c-1")
        client = await plant.dial()
        await asyncio.sleep(0.05)
        assert client.gone

    story(test)


def test_a_circuit_moves_to_an_equal_grant_that_lasts_longer():
    async def test(plant: Plant):
        plant.allow(end=NOW + 5 * SECOND)
        running = await plant.poll()
        await asyncio.sleep(1)
        plant.allow(end=NOW + 60 * SECOND, conduit="c-2")
        await asyncio.sleep(9)
        assert not running.gone
        running.connection.write((b"still here",))
        await running.expect(b"still here")
        assert [facts.grant.conduit for facts in plant.b.endpoint.live()] == ["c-2"]
        (moved,) = plant.b.agent.of("circuit.move")
        assert (moved["conduit"], moved["who"]) == ("c-2", "hmi-a")
        await asyncio.sleep(51)
        assert running.gone

    story(test)


@pytest.mark.parametrize("changes", [{"integrity": 1}, {"who": "hmi-b"}])
def test_a_circuit_does_not_move_to_a_grant_with_other_limits(changes: dict):
    async def test(plant: Plant):
        plant.allow(end=NOW + 5 * SECOND)
        running = await plant.poll()
        plant.allow(conduit="c-2", **changes)
        await asyncio.sleep(6)
        assert running.gone

    story(test)


def test_a_withdrawn_conduit_hands_over_to_another_or_cuts():
    async def test(plant: Plant):
        plant.allow()
        plant.allow(conduit="c-2", end=NOW + 3600 * SECOND)
        running = await plant.poll()
        assert plant.b.endpoint.live()[0].grant.conduit == "c-1"  # ends last
        for edge in (plant.a, plant.b):
            edge.agent.state.authority.withdrawals["c-1"] = NOW + 2 * SECOND
            edge.authority_changed(None)
        await asyncio.sleep(3)
        assert not running.gone
        assert plant.b.endpoint.live()[0].grant.conduit == "c-2"
        for edge in (plant.a, plant.b):
            edge.agent.state.authority.withdrawals["c-2"] = 1
            edge.authority_changed(None)
        await asyncio.sleep(0.05)
        assert running.gone

    story(test)


def test_a_grant_that_is_taken_back_cuts_unless_an_equal_one_is_left():
    async def test(plant: Plant):
        first, second = plant.allow(), plant.allow(conduit="c-2", end=NOW + 3600 * SECOND)
        running = await plant.poll()
        plant.a.granted([], [first])
        await asyncio.sleep(0.05)
        assert not running.gone
        assert plant.b.endpoint.live()[0].grant.conduit == "c-2"
        plant.a.granted([], [second])
        await asyncio.sleep(0.05)
        assert running.gone
        closed = plant.b.agent.of("circuit.close")[0]
        assert closed["reason"] == "no conduit allows hmi-a to reach plc-b.modbus any more"

    story(test)


def test_a_grant_that_comes_without_the_host_cuts_and_one_with_other_zones_is_taken():
    async def test(plant: Plant):
        grant = plant.allow()
        running = await plant.poll()
        plant.allow(id=grant.id, asset_zones=("cell-9",))
        await asyncio.sleep(0.05)
        assert plant.b.endpoint.live()[0].grant.asset_zones == ("cell-9",)
        assert not running.gone
        plant.allow(id=grant.id, hosts=("edge-c",))
        await asyncio.sleep(0.05)
        assert running.gone

    story(test)


@pytest.mark.parametrize(
    "hosted",
    [
        (),
        (HostedEntry("plc-b.modbus", ASSET, "another-place", PORT, PORT, 0),),
        (HostedEntry("plc-b.modbus", ASSET, ASSET, PORT + 1, PORT + 1, 0),),
        (HostedEntry("plc-b.modbus", ASSET, ASSET, PORT, PORT, 1),),
    ],
    ids=["removed", "address", "port", "transport"],
)
def test_a_host_cuts_what_leads_to_where_its_service_is_not_any_more(hosted: tuple):
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        same = HostedEntry("plc-b.modbus", ASSET, ASSET, PORT, PORT, 0)
        plant.b.assigned(Assignments(2, b"", (), (same,)))
        await asyncio.sleep(0.05)
        assert not running.gone
        plant.b.assigned(Assignments(3, b"", (), hosted))
        await asyncio.sleep(0.05)
        assert running.gone
        assert "any more" in plant.b.agent.of("circuit.close")[0]["reason"]

    story(test)


def test_a_service_that_is_removed_as_a_circuit_to_it_opens_is_refused():
    async def test(plant: Plant):
        plant.allow()
        hosting = plant.b.endpoint.on_incoming

        def removed_at_once(incoming: Any) -> None:
            hosting(incoming)
            plant.b.assigned(Assignments(2, b"", (), ()))

        plant.b.endpoint.on_incoming = removed_at_once
        running = await plant.dial()
        await asyncio.sleep(1)
        assert running.gone
        assert "any more" in plant.b.agent.of("circuit.open", "failed")[0]["reason"]
        assert not plant.b.agent.of("circuit.close")

    story(test)


def test_the_longest_session_counts_from_ready():
    async def test(plant: Plant):
        plant.allow(max_session=10)
        await asyncio.sleep(5)
        running = await plant.poll()
        await asyncio.sleep(9.5)
        assert not running.gone
        await asyncio.sleep(1)
        assert running.gone
        assert plant.b.agent.of("circuit.close")[0]["reason"].startswith("the longest session")

    story(test)


def test_refresh_by_binds_while_fresh_and_hold_while_not():
    async def test(plant: Plant):
        plant.allow(refresh_by=NOW + 5 * SECOND, hold_until=NOW + 20 * SECOND)
        running = await plant.poll()
        for edge in (plant.a, plant.b):
            edge.agent.binds = False
            edge.enforcer.tick()
        await asyncio.sleep(10)
        assert not running.gone
        await plant.poll()
        plant.b.agent.binds = True
        plant.b.enforcer.tick()
        await asyncio.sleep(0.05)
        assert running.gone
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        plant.b.agent.binds = False
        running = await plant.poll()
        await asyncio.sleep(11)
        assert running.gone

    story(test)


def test_a_host_cuts_at_the_new_end_of_a_refreshed_grant_without_its_caller():
    async def test(plant: Plant):
        plant.allow(id=b"g" * 16)
        running = await plant.poll()
        soon = NOW + 5 * SECOND
        plant.allow(id=b"g" * 16, end=soon, refresh_by=soon, hold_until=soon)
        await asyncio.sleep(0.1)
        plant.a.enforcer.review = lambda: None  # the caller does not care, or is not heard any more
        plant.a.enforcer.close()
        await asyncio.sleep(4)
        assert not running.gone
        await asyncio.sleep(1.5)
        assert running.gone
        assert "has ended" in plant.b.agent.of("circuit.close")[0]["reason"]

    story(test)


def test_what_is_ended_while_hands_are_shaken_does_not_open():
    async def test(plant: Plant):
        plant.allow()
        hosting: Any = plant.b.endpoint._hosting
        reply = hosting._reply

        def end(*arguments: Any) -> None:
            reply(*arguments)
            plant.b.agent.state.authority.objection = (Code.WITHDRAWN, "conduit c-1 was ended")
            plant.b.authority_changed(None)

        hosting._reply = end
        client = await plant.dial()
        await asyncio.sleep(0.5)
        assert client.gone
        assert not plant.b.endpoint.streams()
        assert not plant.b.agent.of("circuit.open", "allowed")
        denied = plant.b.agent.of("circuit.open", "denied")
        assert [one["reason"] for one in denied] == ["conduit c-1 was ended"]

    story(test)


def connects_late(plant: Plant, seconds: float) -> None:
    """The host's connections to assets take so long from now on."""
    net: Any = plant.b.endpoint._world.net
    connect = net.connect

    async def late(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(seconds)
        return await connect(*arguments, **named)

    net.connect = late


def test_what_came_early_is_not_delivered_after_the_end_of_its_grant():
    """G-02: the end comes while the host still dials a slow asset, and the caller does not care."""

    async def test(plant: Plant):
        plant.allow(id=b"g" * 16)
        (await plant.poll()).connection.end()
        await asyncio.sleep(0.1)
        soon = NOW + 2 * SECOND
        plant.allow(id=b"g" * 16, end=soon, refresh_by=soon, hold_until=soon)
        plant.a.enforcer.review = lambda: None
        plant.a.enforcer.close()
        connects_late(plant, 3)
        connection, client = await accepted_with(plant, b"write coil")
        plant.a.calling.connection("hmi-a", "plc-b.modbus", connection)
        await asyncio.sleep(4)
        assert client.gone
        assert [bytes(one.got) for one in plant.assets] == [b"read holding registers", b""]
        assert "has ended" in plant.b.agent.of("circuit.open", "failed")[0]["reason"]

    story(test)


def test_what_came_early_is_not_delivered_where_its_service_is_not_any_more():
    """G-05: the service is removed (or this edge is revoked) while the host still dials a slow asset."""

    async def test(plant: Plant):
        plant.allow()
        (await plant.poll()).connection.end()
        await asyncio.sleep(0.1)
        connects_late(plant, 3)
        connection, client = await accepted_with(plant, b"write coil")
        plant.a.calling.connection("hmi-a", "plc-b.modbus", connection)
        await asyncio.sleep(1)
        plant.b.assigned(Assignments(2, b"", (), ()))
        await asyncio.sleep(0.1)
        assert client.gone, "at once"
        await asyncio.sleep(4)
        assert [bytes(one.got) for one in plant.assets] == [b"read holding registers", b""]
        assert "any more" in plant.b.agent.of("circuit.open", "failed")[0]["reason"]

    story(test)


def test_a_kill_cuts_running_circuits_and_restoring_brings_new_ones_back():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        plant.a.agent.state.authority.objection = (Code.KILLED, "killed: service plc-b.modbus")
        plant.a.authority_changed(None)
        await asyncio.sleep(0.02)
        assert running.gone
        assert plant.b.agent.of("circuit.close")[0]["reason"] == "killed: service plc-b.modbus"
        client = await plant.dial()
        await asyncio.sleep(0.05)
        assert client.gone
        plant.a.agent.state.authority.objection = None
        plant.a.authority_changed(None)
        await plant.poll()

    story(test)


def test_a_revoked_caller_is_cut_by_the_host_and_its_association_is_gone():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        plant.b.agent.state.authority.void.add("edge-a")
        plant.b.authority_changed(None)
        await asyncio.sleep(0.05)
        assert running.gone
        client = await plant.dial()
        await asyncio.sleep(0.5)
        assert client.gone
        assert len(plant.b.agent.of("circuit.open", "allowed")) == 1

    story(test)


def test_an_edge_that_is_revoked_itself_offers_nothing():
    async def test(plant: Plant):
        plant.allow()
        plant.a.agent.state.authority.void.add("edge-a")
        plant.a.authority_changed(None)
        with pytest.raises(OSError):
            await plant.dial()

    story(test)


def test_an_edge_that_every_router_sends_away_as_revoked_cuts_its_circuits():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        link = plant.router.links["edge-a"].other
        link.end = (Code.REVOKED, "edge-a is revoked")
        link.cut()
        await asyncio.sleep(0.05)
        assert running.gone

    story(test)


@pytest.mark.parametrize(
    ("code", "event", "outcome"),
    [
        (Code.TAMPER, "security.tamper", "failed"),
        (Code.PROTOCOL, "security.refused", "denied"),
    ],
)
def test_what_this_edge_found_wrong_with_a_link_is_recorded(code: Code, event: str, outcome: str):
    async def test(plant: Plant):
        link = plant.router.links["edge-a"].other
        link.end, link.found = (code, "record 7 does not authenticate"), True
        link.cut()
        await asyncio.sleep(0.05)
        (fields,) = plant.a.agent.of(event, outcome)
        assert fields["via"] == link.name
        assert fields["reason"] == "record 7 does not authenticate"

    story(test)


# --- listeners and flows ------------------------------------------------------------------------------


def test_listeners_follow_the_assignments():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()
        moved = ListenerEntry("plc-b.modbus", "127.0.0.1:16000", "hmi-a", 0)
        plant.a.assigned(Assignments(2, b"", (moved,), ()))
        await asyncio.sleep(0.01)
        with pytest.raises(OSError):
            await plant.dial()
        await plant.dial(16_000)
        assert not running.gone  # the grant says how long, not the listener
        other = moved.__class__("plc-b.modbus", "127.0.0.1:16000", "hmi-b", 0)
        plant.a.assigned(Assignments(3, b"", (other,), ()))
        await asyncio.sleep(0.01)
        await plant.dial(16_000)
        await asyncio.sleep(0.01)
        assert plant.a.agent.of("circuit.open", "denied")[-1]["who"] == "hmi-b"

    story(test)


def test_a_port_in_use_is_said_and_tried_again():
    async def test(plant: Plant):
        other = await plant.sim.host("edge-a").world.net.listen("", 17_000, lambda connection: None)
        entry = ListenerEntry("plc-b.modbus", "127.0.0.1:17000", "hmi-a", 0)
        wrong = ListenerEntry("plc-b.modbus", "nowhere", "hmi-a", 0)
        plant.a.assigned(Assignments(2, b"", (entry, wrong), ()))
        await asyncio.sleep(0.1)
        problems = plant.a.status()["problems"]
        assert any("17000: Address already in use" in one for one in problems)
        assert any("nowhere" in one for one in problems)
        other.close()
        await asyncio.sleep(3)
        assert "127.0.0.1:17000" in [one["listen"] for one in plant.a.status()["listeners"]]
        plant.a.assigned(Assignments(3, b"", (entry,), ()))
        assert plant.a.status()["problems"] == []

    story(test)


class Peer:
    """A UDP client or asset."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, tuple[str, int]]] = []
        self.socket: Any = None
        self.echo = False

    def __call__(self, data, source, _) -> None:
        self.got.append((bytes(data), source))
        if self.echo:
            self.socket.send(bytes(data), source)


async def udp(plant: Plant) -> tuple[Peer, ListenerEntry]:
    """The service over UDP, with an echoing asset."""
    asset = Peer()
    asset.echo = True
    asset.socket = await plant.asset.world.net.datagrams(asset, local=(ASSET, PORT))
    entry = ListenerEntry("plc-b.modbus", f"127.0.0.1:{LISTEN}", "hmi-a", 1)
    plant.a.assigned(Assignments(2, b"", (entry,), ()))
    plant.b.assigned(
        Assignments(2, b"", (), (HostedEntry("plc-b.modbus", ASSET, ASSET, PORT, PORT, 1),))
    )
    await asyncio.sleep(0.01)
    return asset, entry


async def peer(plant: Plant, port: int) -> Peer:
    one = Peer()
    one.socket = await plant.hmi.world.net.datagrams(
        one, local=("hmi", port), remote=("edge-a", LISTEN)
    )
    return one


def test_udp_flows_keep_boundaries_and_clients_apart_and_end_when_quiet():
    async def test(plant: Plant):
        asset, _ = await udp(plant)
        plant.allow(transport=1)
        clients = [await peer(plant, port) for port in (5001, 5002)]
        for number, client in enumerate(clients):
            for size in (0, 1, 1400, 60_000):
                client.socket.send(bytes([number]) * size)
        await asyncio.sleep(0.5)
        for number, client in enumerate(clients):
            sizes = sorted(len(data) for data, _ in client.got)
            assert sizes == [0, 1, 1400, 60_000]
            assert all(set(data) <= {number} for data, _ in client.got)
        assert len({source for _, source in asset.got}) == 2
        assert len(plant.b.agent.of("circuit.open", "allowed")) == 2
        await asyncio.sleep(limits.UDP_IDLE + 1)
        closed = plant.b.agent.of("circuit.close")
        assert len(closed) == 2
        assert all(msgspec.json.decode(one["detail"])["code"] == "idle" for one in closed)
        assert msgspec.json.decode(closed[0]["detail"])["bytes_in"] == 61_401
        assert msgspec.json.decode(closed[0]["detail"])["datagrams_dropped"] == 0
        clients[0].socket.send(b"again")
        await asyncio.sleep(0.1)
        assert clients[0].got[-1][0] == b"again"

    story(test)


def test_udp_without_a_grant_is_dropped_and_recorded():
    async def test(plant: Plant):
        await udp(plant)
        client = await peer(plant, 5001)
        client.socket.send(b"hello")
        await asyncio.sleep(0.1)
        assert client.got == []
        assert plant.a.agent.of("circuit.open", "denied")[0]["who"] == "hmi-a"
        assert plant.a.status()["circuits"]["datagrams_dropped"] == 1
        plant.a.assigned(Assignments(3, b"", (), ()))
        assert plant.a.status()["circuits"]["datagrams_dropped"] == 1, "a counter never falls"

    story(test)


def test_connections_of_one_listener_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "TCP_CONNECTIONS_PER_LISTENER", 3)

    async def test(plant: Plant):
        plant.allow()
        clients = [await plant.poll() for _ in range(3)]
        for _ in range(2):
            late = await plant.dial()
            await asyncio.sleep(0.1)
            assert late.gone
        reason = plant.a.agent.of("circuit.open", "denied")[0]["reason"]
        assert f"127.0.0.1:{LISTEN} has as many connections as it may" in reason
        assert not any(one.gone for one in clients)
        clients[0].connection.end()
        await asyncio.sleep(0.1)
        await plant.poll()
        assert len(plant.a.agent.of("circuit.open", "denied")) == 2

    story(test)


async def from_host(plant: Plant, name: str, data: bytes = b"poll") -> Client:
    """A client on another machine: what it heard is looked at a moment later."""
    client = Client()
    client.connection = await plant.sim.host(name).world.net.connect("edge-a", LISTEN)
    client.connection.start(client)
    client.connection.write((data,))
    await asyncio.sleep(0.1)
    return client


def test_one_client_leaves_places_of_a_listener_to_the_others(monkeypatch):
    monkeypatch.setattr(limits, "TCP_CONNECTIONS_PER_LISTENER", 5)
    monkeypatch.setattr(limits, "TCP_CONNECTIONS_PER_CLIENT", 3)

    async def test(plant: Plant):
        plant.allow()
        greedy = [await from_host(plant, "greedy") for _ in range(4)]
        assert [one.gone for one in greedy] == [False, False, False, True]
        reason = plant.a.agent.of("circuit.open", "denied")[0]["reason"]
        assert f"127.0.0.1:{LISTEN} has as many connections of greedy as one client" in reason
        others = [await from_host(plant, name) for name in ("other", "third", "fourth")]
        assert [bytes(one.got) for one in others] == [b"poll", b"poll", b""], "5 are all"
        greedy[0].connection.end()
        await asyncio.sleep(0.1)
        assert not (await from_host(plant, "greedy")).gone, "room again"

    story(test)


def test_programs_of_the_host_share_one_address_and_no_limit_for_clients(monkeypatch):
    monkeypatch.setattr(limits, "TCP_CONNECTIONS_PER_CLIENT", 1)

    async def test(plant: Plant):
        plant.allow()
        assert not any([(await from_host(plant, "127.0.0.1")).gone for _ in range(3)])

    story(test)


def test_one_client_leaves_flows_of_a_listener_to_the_others(monkeypatch):
    monkeypatch.setattr(limits, "UDP_FLOWS_PER_LISTENER", 3)
    monkeypatch.setattr(limits, "UDP_FLOWS_PER_CLIENT", 2)

    async def test(plant: Plant):
        await udp(plant)
        plant.allow(transport=1)
        clients = [await peer(plant, 5001 + number) for number in range(3)]
        other = Peer()
        other.socket = await plant.sim.host("other").world.net.datagrams(
            other, local=("other", 5001), remote=("edge-a", LISTEN)
        )
        for client in (*clients, other):
            client.socket.send(b"hello")
            await asyncio.sleep(0.05)
        assert [len(client.got) for client in (*clients, other)] == [1, 1, 0, 1]
        await asyncio.sleep(limits.UDP_IDLE + 1)
        clients[2].socket.send(b"hello")
        await asyncio.sleep(0.05)
        assert len(clients[2].got) == 1

    story(test)


def test_flows_of_one_listener_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "UDP_FLOWS_PER_LISTENER", 3)

    async def test(plant: Plant):
        await udp(plant)
        plant.allow(transport=1)
        clients = [await peer(plant, 5001 + number) for number in range(5)]
        for client in clients:
            client.socket.send(b"hello")
            await asyncio.sleep(0.05)
        assert [len(client.got) for client in clients] == [1, 1, 1, 0, 0]
        assert plant.a.status()["circuits"]["datagrams_dropped"] == 2
        await asyncio.sleep(limits.UDP_IDLE + 1)  # the others went quiet: there is room again
        clients[4].socket.send(b"hello")
        await asyncio.sleep(0.05)
        assert len(clients[4].got) == 1

    story(test)


def test_what_a_flow_drops_is_counted_and_shown():
    async def test(plant: Plant):
        await udp(plant)
        plant.allow(transport=1)
        client = await peer(plant, 5001)
        client.socket.send(bytes(65_508))  # more than UDP over IPv4 carries
        client.socket.send(b"hello")
        await asyncio.sleep(0.1)
        assert [data for data, _ in client.got] == [b"hello"]
        assert plant.a.status()["circuits"]["datagrams_dropped"] == 1
        flow = plant.b.endpoint.streams()[0]
        flow.dropped = 3
        await asyncio.sleep(limits.UDP_IDLE + 1)
        detail = msgspec.json.decode(plant.b.agent.of("circuit.close")[0]["detail"])
        assert detail["datagrams_dropped"] == 3
        assert plant.b.status()["circuits"]["datagrams_dropped"] == 3  # also when it is over

    story(test)


def test_a_security_event_of_the_endpoint_is_recorded():
    async def test(plant: Plant):
        plant.allow()
        running = await plant.poll()

        def flip(router, link, header, payload):
            if header.kind.name != "DATA":
                return None
            return [(header, bytes((payload[0] ^ 1,)) + payload[1:])]

        plant.router.meddle = flip
        running.connection.write((b"poll",))
        await asyncio.sleep(0.1)
        assert running.gone
        found = plant.b.agent.of("security.tamper")
        assert len(found) == 1
        assert found[0]["who"] == "hmi-a"
        assert found[0]["circuit"] == plant.b.agent.of("circuit.close")[0]["circuit"]

    story(test)


def test_what_rules_have_refused_is_recorded_as_what_it_was():
    """They know only whether there is a grant, and learn of a new one a moment late."""

    async def test(plant: Plant):
        plant.a.calling.refused("hmi-a", "plc-b.modbus", 0)
        denied = plant.a.agent.of("circuit.open", "denied")
        assert [one["reason"] for one in denied] == [
            "no conduit allows hmi-a to reach plc-b.modbus"
        ]
        plant.allow()
        plant.a.calling.refused("hmi-a", "plc-b.modbus", 0)
        denied = plant.a.agent.of("circuit.open", "denied")
        assert [one["reason"] for one in denied[1:]] == [LATE]
        assert plant.a.permits.uses() == {("hmi-a", "plc-b.modbus", 0)}

    story(test)
