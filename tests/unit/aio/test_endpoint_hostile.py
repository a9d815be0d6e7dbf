"""A hostile router between two honest edges, and a caller that is not who it must be: everything is refused, found or bounded."""

import asyncio
import contextlib
from hashlib import sha256

import pytest

from overlay import limits
from overlay.aio.circuit_roles import Refused
from overlay.crypto.circuit_keys import early_seal
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS, STRICT, Open, OpenIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Flag, Header, Kind
from tests.support.circuits import MINUTE, Node, Plant
from tests.support.pki import NOW
from tests.unit.aio.test_endpoint import story


def flip(payload: bytes, place: int = 0) -> bytes:
    return payload[:place] + bytes((payload[place] ^ 1,)) + payload[place + 1 :]


class Once:
    """Meddles with the first frame of a kind that goes one way."""

    def __init__(self, kind: Kind, towards: str, change) -> None:
        self.kind = kind
        self.towards = towards
        self.change = change
        self.done = False

    def __call__(self, router, link, header, payload):
        if self.done or header.kind is not self.kind or link.name == self.towards:
            return None
        self.done = True
        return self.change(header, payload)


CHANGES = {
    "flipped": lambda h, p: [(h, flip(p))],
    "tag flipped": lambda h, p: [(h, flip(p, len(p) - 1))],
    "repeated": lambda h, p: [(h, p), (h, p)],
    "renumbered": lambda h, p: [(h._replace(sequence=h.sequence + 1), p)],
    "other flags": lambda h, p: [(h._replace(flags=h.flags ^ Flag.SIGNED), p)],
    "shortened": lambda h, p: [(h._replace(length=h.length - 1), p[:-1])],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("integrity", [0, 1])
@pytest.mark.parametrize("towards", ["edge-a", "edge-b"])
def test_a_data_frame_that_is(change, integrity, towards):
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant(integrity=integrity))
        plant.router.meddle = Once(Kind.DATA, towards, CHANGES[change])
        await stream.write(b"first")
        await asyncio.sleep(0.05)
        victim = plant.a if towards == "edge-a" else plant.b
        assert plant.router.meddle.done
        assert [code for code, _ in victim.security] == [Code.TAMPER]
        assert (await stream.closed).code is Code.TAMPER
        assert (await plant.b.hosted[0].closed).code is Code.TAMPER

    story(test)


@pytest.mark.parametrize("kind", [Kind.CHECKPOINT, Kind.CLOSE, Kind.CREDIT])
@pytest.mark.parametrize("change", ["flipped", "tag flipped", "repeated"])
def test_another_frame_that_is_changed(kind, change):
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.router.meddle = Once(kind, "edge-b", CHANGES[change])
        await stream.write(b"first")
        await stream.read()
        await asyncio.sleep(0.3)
        stream.end()
        await asyncio.sleep(0.3)
        assert plant.router.meddle.done
        codes = {code for code, _ in plant.b.security}
        assert codes
        assert codes <= {Code.TAMPER, Code.PROTOCOL}

    story(test)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CHECKPOINT])
def test_a_dropped_frame_is_found_by_the_next(kind):
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.router.meddle = Once(kind, "edge-b", lambda h, p: [])
        await stream.write(b"one")
        await asyncio.sleep(0.2)
        with contextlib.suppress(ConnectionResetError):
            await stream.write(b"two")
        assert (await stream.closed).code is Code.TAMPER
        assert "skips" in plant.b.security[0][1] or "expected" in plant.b.security[0][1]

    story(test)


def test_reordered_frames_are_found():
    async def test(plant: Plant):
        held = []

        def swap(router, link, header, payload):
            if header.kind is not Kind.DATA:
                return None
            held.append((header, payload))
            return held[::-1] if len(held) == 2 else []

        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.router.meddle = swap
        await stream.write(b"one")
        await stream.write(b"two")
        assert (await stream.closed).code is Code.TAMPER
        assert (await plant.b.hosted[0].closed).bytes_in == 0

    story(test)


def test_an_open_with_data_that_is_replayed_executes_nothing():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"write coil")
        opens = [(h, p) for link, h, p in plant.router.seen if h.kind is Kind.OPEN]
        onward = plant.router.links["edge-b"]
        replies = []
        plant.router.meddle = lambda r, link, h, p: replies.append((h, p))
        for _, payload in opens:
            for _ in range(3):
                onward.send(Kind.OPEN, onward.next_circuit(), payload)
        await asyncio.sleep(0.1)
        accepts = {p for h, p in replies if h.kind is Kind.ACCEPT}
        assert len([h for h, _ in replies if h.kind is Kind.ACCEPT]) == 6
        assert accepts == {p for link, h, p in plant.router.seen[:20] if h.kind is Kind.ACCEPT}
        assert len(plant.b.incoming) == 2
        await stream.write(b".")
        assert plant.b.hosted[1].bytes_in == 11 or await stream.read()
        # after a restart of the host there is no association: refused, with or without a handshake in it
        plant.b = Node(plant, "edge-b", plant.b.credentials, boot=2)
        onward = plant.router.attach(plant.b.endpoint, plant.b.leaf)
        await plant.up()
        plant.router.meddle = None
        for _, payload in opens:
            onward.send(Kind.OPEN, onward.next_circuit(), payload)
        await asyncio.sleep(5)
        assert plant.b.incoming == []
        assert plant.b.endpoint.live() == []

    story(test)


def test_an_open_that_is_changed_executes_nothing_and_is_a_security_event():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"write coil")
        _, payload = [(h, p) for _, h, p in plant.router.seen if h.kind is Kind.OPEN][1]
        body = decode(Open, payload)
        intent = decode(OpenIntent, body.intent)
        other = plant.grant(service="plc-b.web")
        onward = plant.router.links["edge-b"]
        forged = [
            Open(body.intent, b"", flip(body.early)),  # other early data for a used number
            Open(encode(change(intent, number=7)), b"", body.early),  # a fresh number
            Open(
                encode(change(intent, grant=other, service="plc-b.web", number=8)), b"", body.early
            ),  # a swapped grant
            Open(encode(change(intent, number=9, random=bytes(32))), b"", body.early),
            Open(encode(change(intent, number=10)), b"", bytes(16)),
            Open(encode(change(intent, number=11)), b"", b""),
        ]
        for one in forged:
            onward.send(Kind.OPEN, onward.next_circuit(), encode(one))
        await asyncio.sleep(0.1)
        assert len(plant.b.incoming) == 2
        assert len(plant.b.security) == len(forged)
        # and none of the numbers is burnt
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"next")

    story(test)


def test_an_open_that_is_older_than_the_window_executes_nothing_and_only_a_forged_one_is_an_alarm(
    monkeypatch: pytest.MonkeyPatch,
):
    """C-15: one that lost its way comes late without anybody's fault, and a router that keeps one gains nothing."""
    monkeypatch.setattr(limits, "CIRCUIT_NUMBER_WINDOW", 4)

    async def test(plant: Plant):
        for number in range(6):
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"%d" % number)
        opens = [p for _, h, p in plant.router.seen if h.kind is Kind.OPEN]
        first, second = (decode(Open, one) for one in opens[:2])
        intent = decode(OpenIntent, second.intent)
        onward = plant.router.links["edge-b"]
        numbers = [onward.next_circuit() for _ in range(2)]
        for number, late in zip(numbers, opens, strict=False):
            onward.send(Kind.OPEN, number, late)
        await asyncio.sleep(0.1)
        assert plant.b.security == []
        assert plant.b.endpoint.resumed().late == 2
        answers = [(h.kind, h.circuit) for _, h, _ in plant.router.seen if h.circuit in numbers]
        assert answers[-2:] == [(Kind.RESET, number) for number in numbers]
        forged = [
            Open(second.intent, b"", flip(second.early)),
            Open(encode(change(intent, random=bytes(32))), b"", second.early),
            Open(second.intent, b"", b""),
            Open(second.intent, first.flight, b""),
            Open(first.intent, b"", bytes(16)),
        ]
        for one in forged:
            onward.send(Kind.OPEN, onward.next_circuit(), encode(one))
        await asyncio.sleep(0.1)
        assert [code for code, _ in plant.b.security] == [
            Code.TAMPER, Code.TAMPER, Code.TAMPER, Code.PROTOCOL, Code.TAMPER,
        ]  # fmt: skip
        assert plant.b.endpoint.resumed().late == 2
        assert len(plant.b.incoming) == 6

    story(test)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"transport": DATAGRAMS}, "early data in a circuit for datagrams"),
        ({"integrity": STRICT}, "early data in strict integrity"),
    ],
)
def test_early_data_where_there_must_be_none_is_refused_and_delivered_to_nobody(
    kind: dict[str, int], reason: str
):
    """C-12, C-44."""

    async def test(plant: Plant):
        grant = plant.grant(**kind)
        transport = kind.get("transport", 0)
        await plant.a.endpoint.dial("plc-b.modbus", grant, transport=transport)
        association = plant.a.endpoint._callers.find(("edge-b",))
        assert association is not None
        _, payload = next((h, p) for _, h, p in plant.router.seen if h.kind is Kind.OPEN)
        intent = decode(OpenIntent, decode(Open, payload).intent)
        said = encode(change(intent, circuit=bytes(16), number=1))
        sealed = early_seal(association.secret, intent.random, sha256(said).digest(), b"write coil")
        onward = plant.router.links["edge-b"]
        onward.send(Kind.OPEN, onward.next_circuit(), encode(Open(said, b"", sealed)))
        await asyncio.sleep(0.1)
        assert plant.b.security == [(Code.PROTOCOL, reason)]
        assert plant.b.declined[-1].reason == reason
        assert len(plant.b.incoming) == 1

    story(test)


def test_no_program_can_ask_for_early_datagrams():
    async def test(plant: Plant):
        with pytest.raises(ValueError, match="datagrams cannot be early"):
            plant.a.endpoint.open(
                "plc-b.modbus", plant.grant(transport=DATAGRAMS), early=b"x", transport=DATAGRAMS
            )
        assert plant.router.seen == []

    story(test)


def change(intent: OpenIntent, **changes) -> OpenIntent:
    fields = {name: getattr(intent, name) for name in intent.__struct_fields__}
    return OpenIntent(**(fields | changes))


def test_a_router_cannot_forge_acknowledgements_ends_or_credit():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        link, number = next(hop for hop in plant.router.table if hop[0].name == "edge-a")
        credit = next(p for one, h, p in plant.router.seen if h.kind is Kind.CREDIT)
        for kind, payload in (
            (Kind.CREDIT, credit[:32]),
            (Kind.CLOSE, bytes(129)),
            (Kind.READY, bytes(30)),
        ):
            link.put(Header(kind, 0, len(payload), number, 50), payload)
        assert (await stream.closed).code is Code.TAMPER
        assert len(plant.a.security) == 1  # the first ends it

    story(test)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"service": "plc-b.web"}, Code.BAD_GRANT),
        ({"via": "edge-c"}, Code.BAD_GRANT),
        ({"caller_key": bytes(32)}, Code.BAD_GRANT),
        ({"transport": 1}, Code.BAD_GRANT),
        ({"end": NOW - MINUTE}, Code.EXPIRED),
        ({"hold_until": NOW - MINUTE}, Code.STALE),
        ({"not_before": NOW + MINUTE}, Code.EXPIRED),
    ],
)
def test_a_caller_refuses_to_use_a_grant_that_does_not_hold(changes, code):
    async def test(plant: Plant):
        grant = plant.grant(**changes)
        with pytest.raises(Refused) as caught:
            plant.a.endpoint.open("plc-b.modbus", grant)
        assert caught.value.code is code
        assert plant.router.seen == []

    story(test)


def bold(node: Node) -> None:
    """This caller does not check what it asks for."""
    node.endpoint.check = lambda grant, **rest: None


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"caller_key": bytes(32)}, {Code.NO_ROUTE, Code.NOT_TRUSTED}),
        ({"via": "edge-c"}, {Code.NO_ROUTE, Code.NOT_TRUSTED}),
        ({"generation": 7}, {Code.NO_ROUTE, Code.NOT_TRUSTED}),
        ({"hosts": ("edge-c",)}, {Code.BAD_GRANT}),
        ({"end": NOW - MINUTE}, {Code.EXPIRED}),
        ({"hold_until": NOW - MINUTE}, {Code.STALE}),
    ],
)
def test_a_host_refuses_a_caller_with_a_grant_that_does_not_hold(changes, codes):
    async def test(plant: Plant):
        bold(plant.a)
        plant.router.meddle = to_edge_b
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant(**changes))
        assert caught.value.code in codes
        assert plant.b.incoming == []
        assert plant.b.declined
        assert plant.b.declined[0].service == "plc-b.modbus"

    story(test)


def to_edge_b(router, link, header, payload):
    """A router that sends every circuit to edge-b, whoever may host it."""
    if header.kind is Kind.OPEN and link.name != "edge-b":
        onward = router.links["edge-b"]
        number = onward.next_circuit()
        router.table[(link, header.circuit)] = (onward, number)
        router.table[(onward, number)] = (link, header.circuit)
        onward.send(Kind.OPEN, number, payload)
        return []
    return None


@pytest.mark.parametrize("who", ["edge", "other plant", "router", "nobody"])
def test_a_host_refuses_a_grant_that_no_controller_of_its_plant_signed(who):
    async def test(plant: Plant):
        from tests.support.pki import Pki

        signer = {
            "edge": plant.a.credentials,
            "router": plant.routers[0].credentials,
            "other plant": Pki("other").controller(),
            "nobody": plant.controller,
        }[who]
        grant = plant.grant(signer=signer)
        if who == "nobody":
            grant = flip(grant, 60)
        verified = plant.a.endpoint.verified
        plant.a.endpoint.verified = lambda data: (
            verified(plant.grant()) if data == grant else verified(data)
        )
        plant.router.meddle = to_edge_b
        bold(plant.a)
        with pytest.raises(Refused):
            await plant.a.endpoint.dial("plc-b.modbus", grant)
        assert plant.b.incoming == []
        assert plant.b.security

    story(test)


def test_a_caller_refuses_a_host_that_the_grant_does_not_name():
    async def test(plant: Plant):
        c = Node(plant, "edge-c", plant.pki.edge("edge-c"))
        bold(c)
        plant.router.links["edge-b"] = plant.router.attach(c.endpoint, c.leaf)
        await plant.up()
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert caught.value.code is Code.NOT_TRUSTED
        assert plant.a.security
        assert c.incoming == []

    story(test)


def test_a_revoked_peer_is_refused_from_either_side_also_within_an_association():
    async def test(plant: Plant):
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.b.revoked.add("edge-a")
        with pytest.raises(Refused):
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.b.revoked.clear()
        plant.a.revoked.add("edge-b")
        with pytest.raises(Refused):
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert len(plant.b.incoming) == 1

    story(test)


def test_a_host_that_is_revoked_while_it_answers_gets_no_circuit_within_an_association():
    async def test(plant: Plant):
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())
        plant.a.revoked.add("edge-b")
        plant.a.endpoint.forget(lambda leaf: leaf.identity.name == "edge-b")
        with pytest.raises(Refused) as caught:
            await stream.ready()
        assert caught.value.code is Code.NOT_TRUSTED
        assert not stream.is_open
        assert [code for code, *_ in plant.a.security] == [Code.NOT_TRUSTED]

    story(test)


def test_what_came_along_is_not_delivered_when_the_circuit_is_cut_as_it_opens():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"first")
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"hello")
        stream.on_opened = lambda: stream.abort(Code.KILLED, "killed while it was opening")
        assert (await stream.closed).code is Code.KILLED
        with pytest.raises(ConnectionResetError):
            await stream.read()

    story(test)


@pytest.mark.parametrize("when", ["before its OPEN comes", "while the asset is dialed"])
def test_a_circuit_that_is_killed_before_it_is_open_is_not_accepted(when: str):
    async def test(plant: Plant):
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())

        def kill_and_accept(incoming):
            plant.b.authority.killed.add(stream.circuit_id)
            plant.b.accept(incoming)

        if when == "before its OPEN comes":
            plant.b.authority.killed.add(stream.circuit_id)
        else:
            plant.b.serve = kill_and_accept
        with pytest.raises(Refused) as caught:
            await stream.ready()
        assert caught.value.code is Code.KILLED
        assert plant.b.hosted == []
        assert len(plant.b.incoming) == (when != "before its OPEN comes")
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())

    story(test)


def test_a_grant_is_replaced_by_an_equal_one_only():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        host = plant.b.hosted[0]
        better = plant.grant(end=NOW + 60 * MINUTE, conduit="c-2")
        stream.refresh(better)
        await asyncio.sleep(0.01)
        assert host.grant.conduit == stream.grant.conduit == "c-2"
        with pytest.raises(Refused):
            stream.refresh(plant.grant(who="hmi-b"))
        # a caller that sends it all the same loses the circuit
        stream.core.refresh(plant.grant(who="hmi-b"))
        stream._flush()
        assert (await stream.closed).code is Code.BAD_GRANT
        assert plant.b.security[0][0] is Code.BAD_GRANT

    story(test)


def test_a_router_cannot_change_a_refreshed_grant():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        other = plant.grant(conduit="c-9")

        def swap(router, link, header, payload):
            if header.flags & Flag.GRANT:
                changed = payload[:32] + other
                return [(header._replace(length=len(changed)), changed)]
            return None

        plant.router.meddle = swap
        stream.refresh(plant.grant(conduit="c-2"))
        assert (await stream.closed).code is Code.TAMPER

    story(test)


def test_one_handshake_at_a_time_for_a_grant_and_three_seconds_for_it():
    async def test(plant: Plant):
        def stall(router, link, header, payload):
            return [] if header.kind is Kind.CREDIT else None

        plant.router.meddle = stall
        grant = plant.grant()
        stream = plant.a.endpoint.open("plc-b.modbus", grant)
        await asyncio.sleep(0.05)
        onward = plant.router.links["edge-b"]
        _, payload = next((h, p) for _, h, p in plant.router.seen if h.kind is Kind.OPEN)
        body = decode(Open, payload)
        intent = change(decode(OpenIntent, body.intent), association=b"n" * 16, circuit=b"m" * 16)
        number = onward.next_circuit()
        onward.send(Kind.OPEN, number, encode(Open(encode(intent), body.flight, b"")))
        await asyncio.sleep(0.05)
        refused = [
            h for link, h, p in plant.router.seen if h.kind is Kind.REFUSE and h.circuit == number
        ]
        assert len(refused) == 1
        assert len(plant.b.endpoint._hosting._handshakes) == 1
        await asyncio.sleep(limits.HANDSHAKE_PER_GRANT_SECONDS)
        assert len(plant.b.endpoint._hosting._handshakes) <= 1
        with pytest.raises(Refused):
            await stream.ready()
        await asyncio.sleep(limits.HANDSHAKE_PER_GRANT_SECONDS)
        assert plant.b.endpoint._hosting._handshakes == {} == plant.b.endpoint._hosting._by_key
        assert plant.b.incoming == []

    story(test)


def test_data_before_the_handshake_is_done_is_refused():
    async def test(plant: Plant):
        def early(router, link, header, payload):
            if header.kind is Kind.CREDIT and link.name == "edge-a":
                return [(Header(Kind.DATA, 0, 30, header.circuit, 0), bytes(30))]
            return None

        plant.router.meddle = early
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())
        await asyncio.sleep(0.1)
        assert plant.b.incoming == []
        assert plant.b.security
        stream.abort(Code.NORMAL, "")

    story(test)


def test_more_data_than_credit_is_a_protocol_error():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        stream.core._sending.limit = 2 * limits.INITIAL_WINDOW
        for _ in range(5):
            stream.send(bytes(60_000))
        assert (await stream.closed).code is Code.PROTOCOL
        assert len(b"".join(plant.b.hosted[0]._inbox)) <= limits.INITIAL_WINDOW

    story(test)


def test_what_is_not_a_body_costs_its_hop_only():
    async def test(plant: Plant):
        onward = plant.router.links["edge-b"]
        for payload in (b"", b"\xc1", b"\x90" * 50, encode([1, 2, 3]), bytes(1000), b"\x91" * 4000):
            for kind in (Kind.OPEN, Kind.RESUME):
                onward.send(kind, onward.next_circuit(), payload)
        await asyncio.sleep(0.05)
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())

    story(test)


def test_only_a_controller_hosts_the_control_service():
    async def test(plant: Plant):
        plant.router.links["controller"] = plant.router.links["edge-b"]
        with pytest.raises(Refused):
            await plant.a.endpoint.dial("_control")
        assert plant.b.incoming == []

    story(test)
