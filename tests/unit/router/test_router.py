"""What a router lets pass, and what it refuses (L-20 to L-34, F-10 to F-13)."""

import json

import pytest

from overlay.errors import Code
from overlay.identity.certificate import Role
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from overlay.wire.bodies import Attach, Load, Publish
from overlay.wire.header import Flag, Kind
from router import switch as module
from tests.support.fabrics import MINUTE, Fabric
from tests.support.pki import DAY, Pki
from tests.support.routers import circuit, facts, kill, plant, settle
from tests.support.simulation import EPOCH

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


def test_what_finds_no_way_is_in_no_audit_of_a_router(story):
    """U-06: the caller's edge records it, once for all routers that it asked, and not what it says again and again."""

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
        assert a.last_code() == Code.NO_ROUTE
        assert fabric.recorded("circuit.open") == []

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
        record = fabric.recorded(event, "denied")[-1]
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
