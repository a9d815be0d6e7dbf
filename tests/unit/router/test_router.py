"""A router as a whole, over the simulated network: what passes, what is refused, what is cut (L-20 to L-34, F-10 to F-13)."""

import asyncio
import json

import pytest

from overlay import limits
from overlay.errors import Code
from overlay.fabric.authority import Kill, Revocation, Withdrawal
from overlay.identity.certificate import Role
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from overlay.wire.bodies import Attach, Load, Publish, Refusal, Resume
from overlay.wire.codec import decode
from overlay.wire.header import Flag, Kind
from router import switch as module
from router.forwarding import Table
from tests.support.fabrics import MINUTE, STATUS, Fabric, Peer
from tests.support.pki import DAY, Pki
from tests.support.simulated_network import SimulatedConnection
from tests.support.simulation import EPOCH, Simulation

SETTLE = 0.3


@pytest.fixture
def story(monkeypatch):
    """Runs `await tell(fabric)` in a simulation with one router, r1."""

    def run(tell, seed: int = 0, routers: tuple[str, ...] = ("r1",)):
        sim = Simulation(seed)
        fabric = Fabric(sim, monkeypatch)

        async def told():
            for name in routers:
                await fabric.router(name)
            return await tell(fabric)

        return sim.run(told())

    return run


async def settle() -> None:
    await asyncio.sleep(SETTLE)


async def plant(fabric: Fabric) -> tuple[Peer, Peer, Peer]:
    """A controller, the calling and the hosting edge at r1."""
    controller = await fabric.peer(
        "controller", "r1", role=Role.CONTROLLER, credentials=fabric.controller
    )
    return controller, await fabric.peer("edge-a", "r1"), await fabric.peer("edge-b", "r1")


async def circuit(fabric: Fabric, a: Peer, b: Peer, **grant) -> tuple[int, int]:
    """A circuit that is answered; its number at both edges."""
    number = a.open(fabric.grant(**grant))
    await settle()
    there, _ = b.opened()
    b.link.send(Kind.ACCEPT, there, b"accepted")
    await settle()
    assert a.got(Kind.ACCEPT)[-1] == (number, b"accepted")
    return number, there


def kill(level: str, name: str = "") -> Kill:
    return Kill(b"k" * 16, level, name, "smoke", 0, 0)


async def facts(fabric: Fabric, path: str = "/status", host: str = "r1") -> str:
    """What the status server says."""
    got = bytearray()
    done = asyncio.Event()

    class Reader:
        memory = memoryview(bytearray(65_536))

        def buffer(self):
            return self.memory

        def received(self, count):
            got.extend(self.memory[:count])

        def ended(self):
            done.set()

        def writable(self): ...

        def lost(self, error): ...

    machine = fabric.sim.host(host)

    async def ask() -> None:
        connection = await machine.world.net.connect("127.0.0.1", STATUS)
        connection.start(Reader())
        connection.write([f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()])
        await done.wait()
        connection.close()

    await machine.task(ask())
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    return body.decode()


# --- what passes ------------------------------------------------------------------------------------


def test_frames_of_a_circuit_pass_unchanged_in_both_directions(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b)
        _, body = b.opened()
        assert (body.route, body.path) == (("edge-b",), ("edge-a", "r1"))
        assert (body.flight, body.early) == (b"flight", b"early")
        big = bytes(range(256)) * 1024
        a.link.send(Kind.DATA, number, big, sequence=7, flags=Flag.SIGNED)
        a.link.send(Kind.CHECKPOINT, number, b"check", sequence=8)
        b.link.send(Kind.CREDIT, there, b"credit", sequence=9)
        b.link.send(Kind.DATAGRAM, there, b"gram", sequence=1)
        b.link.send(Kind.CLOSE, there, b"close", sequence=2)
        await settle()
        assert b.notes.frames[-2:] == [
            (Kind.DATA, there, 7, big), (Kind.CHECKPOINT, there, 8, b"check")
        ]  # fmt: skip
        assert {frame[0] for frame in a.notes.frames} >= {Kind.CREDIT, Kind.DATAGRAM, Kind.CLOSE}
        a.link.reset(number, Code.NORMAL, "done")
        await settle()
        assert b.last_code(Kind.RESET) == Code.NORMAL
        assert json.loads(await facts(fabric))["circuits"] == 0
        assert a.link.circuits == b.link.circuits == 0

    story(tell)


def test_a_circuit_of_which_both_sides_said_the_last_frame_is_forgotten(story):
    """L-38: in both orders, without RESET; what a side says afterwards goes nowhere."""

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        for first, second in ((a, b), (b, a)):
            number, there = await circuit(fabric, a, b)
            on = {a: number, b: there}
            first.link.send(Kind.CLOSE, on[first], b"close", flags=Flag.LAST)
            await settle()
            assert second.notes.frames[-1] == (Kind.CLOSE, on[second], 0, b"close")
            assert not first.link.send(Kind.DATA, on[first], b"more")
            assert json.loads(await facts(fabric))["circuits"] == 1
            second.link.send(Kind.CREDIT, on[second], b"credit", flags=Flag.LAST)
            await settle()
            assert first.notes.frames[-1] == (Kind.CREDIT, on[first], 0, b"credit")
            assert json.loads(await facts(fabric))["circuits"] == 0
            assert a.link.idle
            assert b.link.idle
            assert not a.got(Kind.RESET) + b.got(Kind.RESET)

    story(tell)


def test_a_side_that_said_its_last_frame_is_cut_off_as_any_other(story):
    """A kill ends what only one side still talks on."""

    async def tell(fabric: Fabric):
        controller, a, b = await plant(fabric)
        _, there = await circuit(fabric, a, b)
        b.link.send(Kind.CLOSE, there, b"close", flags=Flag.LAST)
        await settle()
        controller.publish(fabric.authority(kills=(kill("identity", "hmi-a"),)))
        await settle()
        assert a.last_code(Kind.RESET) == b.last_code(Kind.RESET) == Code.KILLED
        await settle()
        assert a.link.idle
        assert b.link.idle

    story(tell)


def test_a_refusal_of_the_host_passes_and_frees_all(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a.open(fabric.grant())
        await settle()
        there, _ = b.opened()
        b.link.send(Kind.REFUSE, there, b"sealed", flags=Flag.SEALED, sequence=3)
        await settle()
        assert a.got(Kind.REFUSE)[-1][1] == b"sealed"
        status = json.loads(await facts(fabric))
        assert (status["circuits"], a.link.circuits, b.link.circuits) == (0, 0, 0)

    story(tell)


def test_control_goes_to_a_controller_without_a_grant_and_newcomers_reach_nothing_else(story):
    async def tell(fabric: Fabric):
        controller, a, _ = await plant(fabric)
        a.open(service="_control")
        await settle()
        assert controller.opened("edge-a")[1].path == ("edge-a", "r1")
        newcomer = Credentials.newcomer(fabric.pki.anchor, SigningKey.generate(b"n" * 32))
        one = await fabric.peer("new", "r1", credentials=newcomer, enrol=True)
        one.open(service="_control", path=())
        await settle()
        assert controller.opened()[1].path == ("r1",)
        other = await fabric.peer("new", "r1", credentials=newcomer, enrol=True)
        other.open(fabric.grant(), path=())
        await settle()
        assert other.last_code() == Code.NOT_TRUSTED

    story(tell)


def test_what_is_said_again_while_controller_or_host_is_dead_fills_no_spool(story):
    """U-06. Nodes ask for a controller every few seconds, and a full spool takes no circuits (U-09)."""

    async def tell(fabric: Fabric):
        controller, a, _ = await plant(fabric)
        controller.link.close()
        await settle()
        for host in ("", "controller"):
            a.open(service="_control", host=host)
            await settle()
            assert a.last_code() == Code.NO_ROUTE
        assert fabric.recorded("circuit.open") == []
        lost = fabric.grant(hosts=("edge-z",))
        a.resume(lost, host="edge-z")
        await settle()
        assert a.last_code() == Code.NO_ROUTE
        assert fabric.recorded("circuit.open") == []
        a.open(lost)
        await settle()
        assert [one["service"] for one in fabric.recorded("circuit.open", "failed")] == [
            "plc-b.modbus"
        ]

    story(tell)


def test_newcomers_are_bounded(story, monkeypatch):
    monkeypatch.setattr(module, "NEWCOMERS", 2)

    async def tell(fabric: Fabric):
        for number in range(3):
            key = SigningKey.generate(bytes([number]) * 32)
            credentials = Credentials.newcomer(fabric.pki.anchor, key)
            if number < 2:
                await fabric.peer("new", "r1", credentials=credentials, enrol=True)
            else:
                with pytest.raises(Exception, match="too many newcomers"):
                    await fabric.peer("new", "r1", credentials=credentials, enrol=True)

    story(tell)


def test_an_expired_leaf_reaches_only_the_controller(story):
    async def tell(fabric: Fabric):
        controller, _, _ = await plant(fabric)
        controller.publish(fabric.authority())  # now the router knows that it is at least so late
        await settle()
        expired = fabric.node(Role.EDGE, "edge-old", end=EPOCH - 1_000_000)
        old = await fabric.peer("edge-old", "r1", credentials=expired, attached=False)
        old.open(service="_control")
        old.open(fabric.grant(via="edge-old"))
        await settle()
        assert controller.opened("edge-old")[1].path == ("edge-old", "r1")
        assert old.last_code() == Code.NOT_TRUSTED

    story(tell)


# --- what does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"via": "edge-c"}, Code.BAD_GRANT),
        ({"generation": 2}, Code.BAD_GRANT),
        ({"service": "plc-b.s7"}, Code.BAD_GRANT),
        ({"transport": 1}, Code.BAD_GRANT),
        ({"integrity": 1}, Code.BAD_GRANT),
        ({"not_before": EPOCH + MINUTE}, Code.EXPIRED),
        ({"end": EPOCH}, Code.EXPIRED),
        ({"hold_until": EPOCH}, Code.STALE),
        ({"hosts": ("edge-z",)}, Code.NO_ROUTE),
        ({"signer": "edge"}, Code.BAD_GRANT),
        ({"signer": "stranger"}, Code.BAD_GRANT),
    ],
)
def test_a_grant_that_does_not_hold_is_refused_at_once_and_recorded(story, changes, code):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        change = dict(changes)
        if change.get("signer") == "edge":
            change["signer"] = a.credentials
        elif change.get("signer") == "stranger":
            change["signer"] = Pki("other", start=EPOCH - DAY).controller()
        began = fabric.sim.loop.time()
        number = a.open(fabric.grant(**change))
        await a.notes.until(lambda: bool(a.got(Kind.REFUSE)))
        assert fabric.sim.loop.time() - began < 0.1
        assert a.refusals()[-1][0] == number
        assert a.last_code() == code
        assert b.got(Kind.OPEN) == []
        event = "security.refused" if code is Code.BAD_GRANT else "circuit.open"
        outcome = "failed" if code is Code.NO_ROUTE else "denied"  # nobody said no
        record = fabric.recorded(event, outcome)[-1]
        assert (record["service"], record["via"]) == ("plc-b.modbus", "edge-a")

    story(tell)


def test_no_grant_and_no_route(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        a.open()
        await settle()
        assert a.last_code() == Code.NO_GRANT
        a.open(fabric.grant(), host="edge-c")
        await settle()
        assert a.last_code() == Code.BAD_GRANT
        b.link.close()
        await settle()
        a.open(fabric.grant())
        await settle()
        assert a.last_code() == Code.NO_ROUTE

    story(tell)


def test_grants_bytes_of_a_forger(story):
    async def tell(fabric: Fabric):
        _, a, _ = await plant(fabric)
        good = bytearray(fabric.grant())
        for place in range(0, len(good), 97):
            changed = bytearray(good)
            changed[place] ^= 1
            a.open(bytes(changed))
        a.open(b"\xc1")
        await settle()
        assert {refusal.code for _, refusal in a.refusals()} == {Code.BAD_GRANT}

    story(tell)


@pytest.mark.parametrize(
    "crime",
    [
        "publish",
        "load",
        "path",
        "long path",
        "nonsense",
        "parity",
        "accept",
        "foreign attachment",
        "forged attachment",
    ],
)
def test_what_an_edge_must_not_send_costs_its_link(story, crime):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        c = await fabric.peer("edge-c", "r1")
        number, _ = await circuit(fabric, a, b)
        link = a.link
        free = lambda kind, circuit, flags=0: True  # noqa: E731
        if crime == "publish":
            link.send_control(Publish(fabric.authority()))
        elif crime == "load":
            link.send_control(Load(1))
        elif crime == "path":
            a.open(fabric.grant(), path=("edge-b",))
        elif crime == "long path":
            a.open(fabric.grant(), path=("edge-b", "edge-a"))
        elif crime == "nonsense":
            link.send(Kind.OPEN, link.next_circuit(), b"\xc1")
        elif crime == "parity":
            link._link.may_send = free  # type: ignore[method-assign]
            link.send(Kind.OPEN, 100, b"")
        elif crime == "accept":
            link._link.may_send = free  # type: ignore[method-assign]
            link.send(Kind.ACCEPT, number, b"")
        elif crime == "foreign attachment":
            link.send_control(Attach((b.attachment("r1"),)))
        else:
            b.name = "edge-a"
            link.send_control(Attach((b.attachment("r1"),)))
        await settle()
        assert a.notes.ends[0][0] is Code.PROTOCOL
        assert b.refusals(Kind.RESET)[-1][1].code == Code.PATH_LOST
        assert fabric.recorded("security.refused", "denied")[-1]["via"] == "edge-a"
        assert c.notes.ends == b.notes.ends == []  # nobody else is harmed

    story(tell)


def test_a_tampered_record_is_a_security_event(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        await circuit(fabric, a, b)
        fabric.sim.net.filter = lambda source, _, data: (
            bytes([data[0] ^ 1]) + data[1:] if source == "edge-a" else data
        )
        a.open(fabric.grant())
        await settle()
        assert fabric.recorded("security.tamper", "failed")[-1]["via"] == "edge-a"
        assert b.last_code(Kind.RESET) == Code.PATH_LOST
        assert "ferrule_router_tampered_total 1.0" in await facts(fabric, "/metrics")

    story(tell)


# --- what is cut ------------------------------------------------------------------------------------


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


# --- bounds -----------------------------------------------------------------------------------------


def test_more_than_a_window_for_one_circuit_is_against_the_rules(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, _ = await circuit(fabric, a, b)
        other, there = await circuit(fabric, a, b)
        b.link._connection.pause()
        payload = bytes(limits.MAX_DATA)
        for sequence in range((limits.MAX_WINDOW + 2 * limits.MAX_DATA) // limits.MAX_DATA + 4):
            a.link.send(Kind.DATA, number, payload, sequence=sequence)
        await a.notes.until(lambda: bool(a.got(Kind.RESET)), 2.5)
        assert a.refusals(Kind.RESET)[-1][0] == number
        assert a.last_code(Kind.RESET) == Code.PROTOCOL
        queued = json.loads(await facts(fabric))["queued_bytes"]
        assert queued < limits.MAX_DATA * 2
        b.link._connection.resume()
        a.link.send(Kind.DATA, other, b"alive")
        await settle()
        assert b.got(Kind.DATA)[-1] == (there, b"alive")

    story(tell)


def test_too_much_in_all_gives_up_the_largest_and_spares_the_others(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 2_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        big, _ = await circuit(fabric, a, b)
        small, there = await circuit(fabric, a, b)
        b.link._connection.pause()
        a.link.send(Kind.DATA, small, bytes(100_000), sequence=0)
        for sequence in range(12):
            a.link.send(Kind.DATA, big, bytes(limits.MAX_DATA), sequence=sequence)
        await a.notes.until(lambda: bool(a.got(Kind.RESET)), 2.5)
        assert a.refusals(Kind.RESET)[-1][0] == big
        assert a.last_code(Kind.RESET) == Code.PATH_LOST
        assert json.loads(await facts(fabric))["counts"]["shed"] == 1
        b.link._connection.resume()
        await settle()
        assert [number for number, data in b.got(Kind.DATA) if len(data) == 100_000] == [there]
        assert a.notes.ends == []

    story(tell)


def test_what_waits_for_circuits_that_are_over_is_given_up_first(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 2_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        over, there = await circuit(fabric, a, b)
        alive, alive_there = await circuit(fabric, a, b)
        b.link._connection.pause()
        for sequence in range(6):
            a.link.send(Kind.DATA, over, bytes(limits.MAX_DATA), sequence=sequence)
        a.link.reset(over, Code.NORMAL, "done")
        await settle()
        for sequence in range(5):
            a.link.send(Kind.DATA, alive, bytes(limits.MAX_DATA), sequence=sequence)
        await asyncio.sleep(1)
        assert json.loads(await facts(fabric))["counts"].get("shed", 0) == 0
        b.link._connection.resume()
        await settle()
        assert len([n for n, _ in b.got(Kind.DATA) if n == alive_there]) == 5
        assert b.refusals(Kind.RESET)[-1][0] == there
        assert b.link.circuits == 1

    story(tell)


def test_datagrams_are_dropped_rather_than_queued_without_end_and_the_oldest_go_first(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b)
        other, other_there = await circuit(fabric, a, b)
        b.link._connection.pause()
        for sequence in range(100):
            a.link.send_datagram(number, b"%03d" % sequence + bytes(60_000), sequence=sequence)
            await asyncio.sleep(0.01)
        a.link.send(Kind.DATA, other, b"stream", sequence=0)
        a.link.send_datagram(number, b"last", sequence=100)
        await settle()
        status = json.loads(await facts(fabric))
        assert status["queued_bytes"] <= limits.DATAGRAM_QUEUE_BYTES + 1000
        dropped = status["counts"]["datagrams_dropped"]
        assert dropped > 50
        b.link._connection.resume()
        await settle()
        got = [data[:4] for circuit, data in b.got(Kind.DATAGRAM) if circuit == there]
        assert len(got) + dropped == 101
        assert got[-1] == b"last"
        assert got[-2] == b"099\x00"
        assert got == sorted(got)
        assert b.got(Kind.DATA) == [(other_there, b"stream")]
        assert f"ferrule_router_datagrams_dropped_total {dropped}.0" in await facts(
            fabric, "/metrics"
        )

    story(tell)


def test_datagrams_that_came_together_go_on_together_and_one_that_is_alone_at_once(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b)
        datagram, close, ping = 24 + 16 + 4, 24 + 16 + 5 + 16, 24 + 16 + 8 + 16
        writes: list[int] = []
        real = SimulatedConnection.write

        def write(self: SimulatedConnection, parts) -> int:
            size = sum(map(len, parts))
            if self.other is b.link._connection and size != ping:
                writes.append(size)
            return real(self, parts)

        for count, follows in ((1, False), (5, False), (5, True)):
            b.notes.frames.clear()
            writes.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(SimulatedConnection, "write", write)
                for sequence in range(count):
                    more = follows or sequence < count - 1
                    a.link.send_datagram(number, b"poll", sequence=sequence, more=more)
                if follows:  # behind the last comes something else
                    a.link.send(Kind.CLOSE, number, b"close")
                await settle()
            assert b.got(Kind.DATAGRAM) == [(there, b"poll")] * count
            assert writes == [count * datagram + follows * close]
            assert len(b.got(Kind.CLOSE)) == follows

    story(tell)


def test_too_many_datagrams_in_all_cost_datagrams_and_no_circuit(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 1_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        circuits = [await circuit(fabric, a, b) for _ in range(8)]
        b.link._connection.pause()
        for sequence in range(10):
            for number, _ in circuits:
                a.link.send_datagram(number, bytes(50_000), sequence=sequence)
            await asyncio.sleep(0.05)
        status = json.loads(await facts(fabric))
        assert status["queued_bytes"] <= 1_000_000
        assert status["circuits"] == 8
        assert status["counts"]["datagrams_dropped"] > 20
        b.link._connection.resume()
        await settle()
        assert a.got(Kind.RESET) == b.got(Kind.RESET) == []

    story(tell)


# --- several routers --------------------------------------------------------------------------------


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


# --- status and end ---------------------------------------------------------------------------------


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
