"""The real router against an edge that sends what it must not, with the certificate of an edge of the plant.

What only an attacker sends costs the link (L-20, L-33), what is a matter of policy is refused (G-01, F-12); both are
recorded under the name of the link. Circuits of others go on, and no hosting edge hears anything of it.
"""

from collections.abc import Callable

import pytest

from overlay import limits
from overlay.errors import Code
from overlay.fabric.authority import Authority, FabricMap, Kill, Revocation, RouterEntry
from overlay.identity.trust import Credentials
from overlay.wire.bodies import Attach, Hello, Publish, Resume, ResumeIntent
from overlay.wire.codec import encode
from overlay.wire.header import Flag, Kind
from tests.support.honest import OTHER_SERVICE, SERVICE, until
from tests.support.honest_router import HonestRouterPlant, HostileEdge
from tests.support.hostile import MINUTE, echoed, intent_of, refusal
from tests.support.meddling import flip
from tests.support.pki import NOW, Pki

Crime = Callable[[HonestRouterPlant, HostileEdge], object]


async def honest_circuit(plant: HonestRouterPlant):
    c = plant.edges["edge-c"]
    grant = plant.grant(caller=plant.keys["edge-c"], who="hmi-c")
    stream = await c.call(grant)
    assert await echoed(stream, b"poll")
    return stream


def resume(plant: HonestRouterPlant, edge: HostileEdge, path: tuple[str, ...]) -> bytes:
    intent = ResumeIntent(b"c" * 16, b"a" * 16, 0, "edge-b", SERVICE, plant.grant())
    return encode(Resume(encode(intent), bytes(30), (), path))


def control(edge: HostileEdge, body) -> None:
    edge.put(Kind.CONTROL, 0, encode(body))


def falling(plant: HonestRouterPlant, edge: HostileEdge) -> None:
    for number in (2001, 1999):
        edge.put(Kind.OPEN, number, edge.opening(plant.grant()))


CRIMES: dict[str, Crime] = {
    "an even number": lambda plant, edge: edge.put(Kind.OPEN, 1000, edge.opening(plant.grant())),
    "a RESUME with an even number": lambda plant, edge: edge.put(
        Kind.RESUME, 1000, resume(plant, edge, ("edge-a",))
    ),
    "a number that does not rise": falling,
    "a number that was never opened": lambda plant, edge: edge.put(Kind.DATA, 999, bytes(40)),
    "a frame of a circuit towards others": lambda plant, edge: edge.put(Kind.DATA, 2, bytes(40)),
    "ACCEPT of a circuit that it does not host": lambda plant, edge: edge.put(
        Kind.ACCEPT, 2, bytes(40)
    ),
    "ACCEPT of its own circuit": lambda plant, edge: edge.put(
        Kind.ACCEPT, edge.open(plant.grant()), bytes(40)
    ),
    "READY of its own circuit": lambda plant, edge: edge.put(
        Kind.READY, edge.open(plant.grant()), bytes(40)
    ),
    "REFUSE of its own circuit": lambda plant, edge: edge.put(
        Kind.REFUSE, edge.open(plant.grant()), refusal(Code.NORMAL)
    ),
    "an OPEN in another's name": lambda plant, edge: edge.open(plant.grant(), ("edge-c",)),
    "an OPEN without a path": lambda plant, edge: edge.open(plant.grant(), ()),
    "an OPEN that claims a router": lambda plant, edge: edge.open(
        plant.grant(), ("edge-a", "router-9")
    ),
    "a RESUME in another's name": lambda plant, edge: edge.put(
        Kind.RESUME, 1001, resume(plant, edge, ("edge-b",))
    ),
    "an OPEN that does not decode": lambda plant, edge: edge.put(Kind.OPEN, 1001, b"\xc1"),
    "a RESUME that does not decode": lambda plant, edge: edge.put(Kind.RESUME, 1001, b""),
    "a publication": lambda plant, edge: control(edge, Publish(plant.authority(version=9))),
    "a forged publication": lambda plant, edge: control(
        edge, Publish(plant.sign(Authority(9, NOW, (), (), ()), edge.credentials))
    ),
    "another Hello": lambda plant, edge: control(edge, Hello(bytes(16), 0, 1, "x")),
    "control that does not decode": lambda plant, edge: edge.put(Kind.CONTROL, 0, b"\xc1"),
    "an attachment of another": lambda plant, edge: control(
        edge, Attach((edge.attachment("router-1", node="edge-b"),))
    ),
    "an attachment of another, truly signed": lambda plant, edge: control(
        edge,
        Attach((HostileEdge(plant, plant.keys["edge-b"]).attachment("router-9", boot=1 << 40),)),
    ),
    "an attachment of another, truly signed and old": lambda plant, edge: control(
        edge, Attach((HostileEdge(plant, plant.keys["edge-b"]).attachment("router-9", boot=0),))
    ),
    "more than one attachment": lambda plant, edge: control(
        edge, Attach((edge.attachment("router-1"), edge.attachment("router-1")))
    ),
    "no attachment": lambda plant, edge: control(edge, Attach(())),
    "an attachment that is not signed": lambda plant, edge: control(
        edge, Attach((flip(edge.attachment("router-1"), 60),))
    ),
    "an attachment that does not decode": lambda plant, edge: control(edge, Attach((b"\xc1",))),
    "a ping of a circuit": lambda plant, edge: edge.put(Kind.PING, 1, bytes(8)),
}


@pytest.mark.parametrize("crime", CRIMES)
async def test_what_only_an_attacker_sends_costs_its_link(crime: str):
    """L-20, L-30, L-33, A-10, F-10."""
    async with HonestRouterPlant() as plant:
        stream = await honest_circuit(plant)
        authority = plant.real.agent.state.authority.held
        heard = len(plant.asset.told)
        CRIMES[crime](plant, plant.hostile)
        await until(lambda: plant.hostile.link.over)
        assert plant.hostile.link.end[0] is Code.PROTOCOL
        await until(lambda: plant.real.security)
        assert plant.real.noticed() == {"refused": 1}
        assert plant.real.security[0][1]["via"] == "edge-a"
        assert plant.real.agent.state.authority.held is authority
        assert await echoed(stream, b"untouched")
        assert len(plant.asset.told) == heard
        assert plant.b.carried == 1
        again = plant.edges["edge-c"]
        assert await echoed(
            await again.dial(grant=plant.grant(caller=plant.keys["edge-c"])), b"and reachable"
        )


async def test_an_attachment_that_never_ends_is_not_taken():
    """F-10: it may come from a wrong clock, so it costs nothing but itself."""
    async with HonestRouterPlant() as plant:
        control(plant.hostile, Attach((plant.hostile.attachment("router-1", until=NOW + 10**12),)))
        fabric = plant.real.router.fabric
        assert fabric is not None
        await until(lambda: fabric.ignored == 1)
        held = fabric.attachments.get("edge-a", plant.now())
        assert held is None or held.body.until < NOW + 2 * MINUTE
        assert not plant.hostile.link.over


async def test_a_number_of_the_router_is_not_the_edges_also_when_it_is_free_again():
    """L-20, L-33: the wrong parity stays wrong."""
    async with HonestRouterPlant() as plant:
        grant = plant.grant(caller=plant.keys["edge-c"], hosts=("edge-a",))
        c = plant.edges["edge-c"]
        attempt = c.endpoint.open(SERVICE, grant)
        await until(lambda: plant.hostile.got(Kind.OPEN))
        number, _ = plant.hostile.got(Kind.OPEN)[0]
        assert number % 2 == 0
        attempt.abort(Code.NORMAL, "")
        await until(lambda: plant.hostile.got(Kind.RESET))
        plant.hostile.put(Kind.RESET, number, refusal(Code.NORMAL))
        plant.hostile.put(Kind.OPEN, number, plant.hostile.opening(plant.grant()))
        await until(lambda: plant.hostile.link.over)
        assert plant.hostile.link.end[0] is Code.PROTOCOL
        assert plant.real.noticed() == {"refused": 1}


def openings(plant: HonestRouterPlant) -> dict[str, dict]:
    pki = plant.pki
    good = plant.grant()
    return {
        "without a grant": {"grant": b""},
        "with a grant for another edge": {"grant": plant.grant(caller=plant.keys["edge-c"])},
        "with a grant for another enrolment": {"grant": plant.grant(generation=0)},
        "for another service": {"grant": good, "service": OTHER_SERVICE},
        "for another host": {"grant": good, "host": "edge-c"},
        "for another transport": {"grant": good, "transport": 1},
        "for another integrity": {"grant": good, "integrity": 1},
        "with a changed grant": {"grant": flip(good, good.index(b"hmi-a"))},
        "with rubbish": {"grant": b"\xc1" * 40},
        "with a grant of its own making": {"grant": plant.grant(signer=plant.keys["edge-a"])},
        "with a grant of another plant": {"grant": plant.grant(signer=Pki("other").controller())},
        "with a grant that has ended": {"grant": plant.grant(end=NOW - MINUTE)},
        "with a grant past its hold": {"grant": plant.grant(hold_until=NOW - MINUTE)},
        "before its time": {"grant": plant.grant(not_before=NOW + 10 * MINUTE)},
        "to nobody": {"grant": plant.grant(hosts=("edge-x",))},
        "to the controller": {"grant": b"", "service": "_control"},
        "to a controller that is an edge": {"grant": b"", "service": "_control", "host": "edge-b"},
        "to associate without a grant": {"grant": b"", "service": "_associate"},
        "to associate with another's": {"grant": plant.grant(caller=pki.edge("edge-x")), "service": "_associate"},
    }  # fmt: skip


EXPECTED = {
    # the opening: (what it is told, whether that is a security event)
    "without a grant": (Code.NO_GRANT, False),
    "with a grant for another edge": (Code.BAD_GRANT, True),
    "with a grant for another enrolment": (Code.BAD_GRANT, True),
    "for another service": (Code.BAD_GRANT, True),
    "for another host": (Code.BAD_GRANT, True),
    "for another transport": (Code.BAD_GRANT, True),
    "for another integrity": (Code.BAD_GRANT, True),
    "with a changed grant": (Code.BAD_GRANT, True),
    "with rubbish": (Code.BAD_GRANT, True),
    "with a grant of its own making": (Code.BAD_GRANT, True),
    "with a grant of another plant": (Code.BAD_GRANT, True),
    "with a grant that has ended": (Code.EXPIRED, False),
    "with a grant past its hold": (Code.STALE, False),
    "before its time": (Code.EXPIRED, False),
    "to nobody": (Code.NO_ROUTE, False),
    "to the controller": (Code.NO_ROUTE, False),
    "to a controller that is an edge": (Code.NO_ROUTE, False),
    "to associate without a grant": (Code.NO_GRANT, False),
    "to associate with another's": (Code.BAD_GRANT, True),
}


@pytest.mark.parametrize("what", EXPECTED)
async def test_an_opening_that_may_not_be_is_refused_and_reaches_nobody(what: str):
    """G-01, G-02, F-11 to F-13: by the first router; the link and what is on it stay."""
    async with HonestRouterPlant() as plant:
        fields = openings(plant)[what]
        number = plant.hostile.open(**fields)
        said = await plant.hostile.refusal(number)
        code, security = EXPECTED[what]
        assert said.code == code
        assert said.reason
        assert plant.real.noticed() == ({"refused": 1} if security else {})
        recorded = [f for _, f in plant.real.security] + plant.real.denied
        recorded = [one for one in recorded if one["via"] == "edge-a"]
        service = fields.get("service", SERVICE)
        # What finds no way is for the caller's edge to record (U-06).
        assert [one["service"] for one in recorded] == ([] if code is Code.NO_ROUTE else [service])
        assert plant.b.security == []
        assert plant.b.denied == []
        assert plant.asset.told == []
        assert not plant.hostile.link.over


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        ({"kills": (Kill(b"k" * 16, "identity", "edge-a", "", NOW, 0),)}, Code.KILLED),
        ({"kills": (Kill(b"k" * 16, "identity", "edge-b", "", NOW, 0),)}, Code.KILLED),
        ({"kills": (Kill(b"k" * 16, "service", SERVICE, "", NOW, 0),)}, Code.KILLED),
        ({"revoked": (Revocation("edge-a", 1),)}, Code.REVOKED),
    ],
)
async def test_what_was_killed_or_revoked(lists: dict, code: Code):
    """A-04: a kill refuses circuits, a revocation ends the link and lets it not come back."""
    async with HonestRouterPlant() as plant:
        plant.real.agent.holdings.offer(plant.authority(version=2, **lists))
        if code is Code.REVOKED:
            await until(lambda: plant.hostile.link.over)
            assert plant.hostile.link.end[0] is Code.REVOKED
            with pytest.raises(Exception, match="revoked"):
                await HostileEdge(plant, plant.keys["edge-a"]).dial(plant.real)
        else:
            said = await plant.hostile.refusal(plant.hostile.open(plant.grant()))
            assert said.code == code
            assert not plant.hostile.link.over
        assert plant.asset.told == []


async def mute_host(plant: HonestRouterPlant) -> HostileEdge:
    """A hosting edge that says nothing."""
    mute = HostileEdge(plant, plant.pki.edge("edge-x"))
    await mute.dial(plant.real)
    return mute


@pytest.mark.parametrize(
    "what",
    [
        "of another",
        "of its own making",
        "for another service",
        "from the host",
        "nothing",
        "a good one",
    ],
)
async def test_a_refresh_that_is_not_one_ends_the_circuit(what: str):
    """G-03: routers check it, too; only the caller refreshes."""
    async with HonestRouterPlant() as plant:
        mute = await mute_host(plant)
        hosts = ("edge-x",)
        number = plant.hostile.open(plant.grant(hosts=hosts))
        await until(lambda: mute.got(Kind.OPEN))
        grant = {
            "of another": plant.grant(caller=plant.keys["edge-c"], hosts=hosts),
            "of its own making": plant.grant(signer=plant.keys["edge-a"], hosts=hosts),
            "for another service": plant.grant(service=OTHER_SERVICE, hosts=hosts),
            "nothing": b"",
        }.get(what, plant.grant(conduit="c2", hosts=hosts))
        payload = bytes(32) + grant
        if what == "from the host":
            mute.put(Kind.CREDIT, mute.got(Kind.OPEN)[0][0], payload, flags=int(Flag.GRANT))
        else:
            plant.hostile.put(Kind.CREDIT, number, payload, flags=int(Flag.GRANT))
        if what == "a good one":
            await until(lambda: mute.got(Kind.CREDIT))
            assert mute.got(Kind.CREDIT)[0][1] == payload
            assert plant.real.router.counts["cut"] == 0
            assert plant.real.security == []
        else:
            await until(lambda: plant.hostile.got(Kind.RESET) and mute.got(Kind.RESET))
            assert plant.real.router.counts["cut"] == 1
            assert mute.got(Kind.CREDIT) == []
            assert plant.real.noticed() == {"refused": 1}
        await mute.close()


async def test_unanswered_openings_are_bounded_and_harm_nobody():
    """L-22: beyond `OPENS_PENDING_PER_LINK` BUSY; a host that answers nobody is in it."""
    async with HonestRouterPlant() as plant:
        stream = await honest_circuit(plant)
        mute = await mute_host(plant)
        grant = plant.grant(hosts=("edge-x",))
        numbers = [plant.hostile.open(grant) for _ in range(limits.OPENS_PENDING_PER_LINK + 8)]
        await until(lambda: len(plant.hostile.got(Kind.REFUSE)) == 8)
        refused = [number for number, _ in plant.hostile.got(Kind.REFUSE)]
        assert refused == numbers[-8:]
        assert (await plant.hostile.refusal(numbers[-1])).code == Code.BUSY
        assert len(mute.got(Kind.OPEN)) == limits.OPENS_PENDING_PER_LINK
        assert await echoed(stream, b"untouched")
        assert not plant.hostile.link.over
        await mute.close()


async def test_a_certificate_of_another_plant_or_of_nobody_gets_no_link():
    """L-03, I-03; a newcomer gets one that reaches nobody but a controller (E-03, L-34)."""
    async with HonestRouterPlant() as plant:
        other = Pki("other").edge("edge-a")
        other = Credentials(
            plant.pki.anchor, other.key, other.chain, other.leaf
        )  # it would take this router
        with pytest.raises(Exception, match=r"."):
            await HostileEdge(plant, other).dial(plant.real)
        await until(lambda: plant.real.security)
        assert plant.real.noticed() == {"refused": 1}
        assert set(plant.real.links) == {"edge-a", "edge-b", "edge-c"}


@pytest.mark.parametrize(
    "what", ["an attachment", "an old attachment", "rubbish", "an authority", "a map"]
)
async def test_another_router_cannot_say_where_others_are_or_what_is_void(what: str):
    """F-01, F-10, P-13, A-02: it is recorded and goes no further, and the circuit goes where it should."""
    async with HonestRouterPlant() as plant:
        liar = await HostileEdge(plant, plant.pki.router("router-9")).dial(plant.real)
        friend = await HostileEdge(plant, plant.pki.router("router-8")).dial(plant.real)
        lifting = Authority(99, plant.now(), (), (), ())
        evil = FabricMap(99, (RouterEntry("router-1", "127.0.0.1:1"),))
        lies: dict[str, Attach | Publish] = {
            "an attachment": Attach((liar.attachment("router-9", node="edge-b"),)),
            "an old attachment": Attach((liar.attachment("router-9", node="edge-b", boot=0, counter=0),)),
            "rubbish": Attach((b"\xc1", b"")),
            "an authority": Publish(plant.sign(lifting, liar.credentials)),
            "a map": Publish(plant.sign(evil, liar.credentials)),
        }  # fmt: skip
        said = lies[what]
        control(liar, said)
        await until(lambda: plant.real.security)
        assert set(plant.real.noticed()) == {"refused"}
        assert {fields["who"] for _, fields in plant.real.security} == {"router-9"}
        assert not liar.link.over
        assert await echoed(
            await plant.edges["edge-c"].call(plant.grant(caller=plant.keys["edge-c"])), b"poll"
        )
        assert plant.b.carried == 1
        assert SERVICE not in [intent_of(payload).service for _, payload in liar.got(Kind.OPEN)]
        heard = {
            one
            for body in friend.notes.bodies
            if isinstance(body, Attach)
            for one in body.attachments
        }
        heard |= {body.signed for body in friend.notes.bodies if isinstance(body, Publish)}
        assert heard.isdisjoint(said.attachments if isinstance(said, Attach) else {said.signed})
        for one in (liar, friend):
            await one.close()


async def test_one_edge_cannot_take_the_places_of_all_others(monkeypatch: pytest.MonkeyPatch):
    """`CALLS_PER_EDGE`: what it has beyond its share is refused, what others ask for is not."""
    monkeypatch.setattr("router.admission.CALLS_PER_EDGE", 8)
    async with HonestRouterPlant() as plant:
        mute = await mute_host(plant)
        grant = plant.grant(hosts=("edge-x",))
        numbers = [plant.hostile.open(grant) for _ in range(9)]
        assert (await plant.hostile.refusal(numbers[-1])).code == Code.BUSY
        assert await echoed(
            await plant.edges["edge-c"].call(plant.grant(caller=plant.keys["edge-c"])), b"poll"
        )
        plant.hostile.link.reset(numbers[0], Code.NORMAL)
        await until(lambda: mute.got(Kind.RESET))
        plant.hostile.open(grant)
        await until(lambda: len(mute.got(Kind.OPEN)) == 9)
        assert len(plant.hostile.got(Kind.REFUSE)) == 1
        await mute.close()
