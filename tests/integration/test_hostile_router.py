"""A router that lies about who calls, what is asked for, and where it goes.

Played with real links between two real edges. Each lie is refused or found, and the asset hears nothing of it.
"""

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.circuit.host import HOST_RANDOM, HostHandshake
from overlay.errors import Code
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.wire.bodies import Open, OpenIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind
from tests.support.honest import OTHER_SERVICE, STRICT_SERVICE, until
from tests.support.hostile import HostilePlant, Impostor, changed, echoed, reworded
from tests.support.pki import Pki

BOTH = pytest.mark.parametrize("later", [False, True], ids=["first circuit", "later circuit"])


# --- who calls (C-02, G-01, I-01) -----------------------------------------------------------------


def impostors(plant: HostilePlant) -> dict[str, Credentials]:
    pki = plant.pki
    return {
        "the router": plant.router.credentials,
        "a router of the edge's name": pki.node(Role.ROUTER, "edge-a"),
        "another edge": pki.edge("edge-x"),
        "another key of the edge": pki.node(Role.EDGE, "edge-a", number=1),
        "an older enrolment": pki.node(Role.EDGE, "edge-a", generation=0),
        "a controller": plant.controller,
        "another plant": Pki("other").edge("edge-a"),
        "nobody": Credentials.newcomer(pki.anchor, pki.key("nobody")),
    }


@pytest.mark.parametrize(
    "who",
    [
        "the router", "a router of the edge's name", "another edge", "another key of the edge",
        "an older enrolment", "a controller", "another plant", "nobody",
    ],
)  # fmt: skip
async def test_nobody_opens_in_the_name_of_an_edge(who: str):
    """The host sees the caller's own certificate, and the grant names its key (C-02, G-01)."""
    async with HostilePlant() as plant:
        grant = plant.grant()
        stream = await plant.a.dial(grant=grant)  # which the router has seen
        credentials = impostors(plant)[who]
        if (
            who == "another plant"
        ):  # it trusts itself only; the host's certificate is not the question here
            credentials = Credentials(
                plant.pki.anchor, credentials.key, credentials.chain, credentials.leaf
            )
        impostor = Impostor(plant.router, "edge-b", credentials)
        assert await impostor.open(grant, enrol=who == "nobody") is Kind.REFUSE
        assert plant.router.refusals("edge-b")[-1].code == Code.NOT_TRUSTED
        assert plant.b.noticed() == {"refused": 1}
        assert plant.b.denied == [plant.b.security[0][1]]
        assert len(plant.asset.told) == 1
        assert await echoed(stream, b"and the real one goes on")


async def test_who_calls_is_in_the_certificate_and_not_in_the_path():
    """`path` lies outside of what is sealed, and nothing is decided by it (C-10, I-01)."""
    async with HostilePlant() as plant:

        def rename(router, link, header, payload):
            if header.kind is Kind.OPEN and link.name == "edge-a":
                return [
                    (header, encode(changed(decode(Open, payload), path=("edge-x", "router-9"))))
                ]
            return None

        plant.router.meddle = rename
        await plant.a.dial()
        hosted = plant.b.circuits()[0]
        assert hosted.peer is not None
        assert hosted.peer.identity.name == "edge-a"
        assert hosted.grant is not None
        assert hosted.grant.via == "edge-a"


@pytest.mark.parametrize("who", ["the router", "another edge", "a controller", "another plant"])
async def test_nobody_answers_in_the_name_of_the_host(who: str):
    """A circuit does not come up with anybody but a permitted host (C-02)."""
    async with HostilePlant() as plant:
        credentials = impostors(plant)[who]

        def answer(router, link, header, payload):
            if header.kind is not Kind.OPEN:
                return []
            body = decode(Open, payload)
            handshake = HostHandshake(
                credentials, body, decode(OpenIntent, body.intent), None, bytes(HOST_RANDOM),
                plant_now=plant.now(), admit=lambda _: None,
            )  # fmt: skip
            link.send(Kind.ACCEPT, header.circuit, handshake.accept)
            return []

        plant.router.meddle = answer
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())
        with pytest.raises(Refused) as caught:
            await stream.ready()
        assert caught.value.code is Code.NOT_TRUSTED
        assert plant.a.noticed() == {"refused": 1}
        assert plant.asset.told == []
        assert plant.router.passed(Kind.DATA, "edge-a") == []


async def test_only_a_controller_answers_for_the_control_service():
    """An edge that is given `_control` refuses it, and a router with a certificate of its own is not believed (C-02)."""
    async with HostilePlant() as plant:
        link = plant.router.links["edge-b"]
        before = len(plant.a.security)
        plant.router.links["controller"] = link
        with pytest.raises(Refused):
            await plant.a.endpoint.dial("_control")
        del plant.router.links["controller"]
        assert plant.b.carried == 0
        assert plant.b.denied == []  # `_control` attempts are no circuits of services
        assert len(plant.a.security) == before


# --- what is asked for (C-09 to C-12, G-01) ---------------------------------------------------------


def swaps(plant: HostilePlant) -> dict[str, dict]:
    other = plant.grant(service=OTHER_SERVICE)
    strict = plant.grant(service=STRICT_SERVICE)
    return {
        "grant": {"grant": other},
        "service": {"service": OTHER_SERVICE},
        "grant and service": {"grant": other, "service": OTHER_SERVICE},
        "longer grant": {"grant": plant.grant(end=plant.now() + 10**15, conduit="c2")},
        "integrity": {"integrity": 1},
        "grant, service and integrity": {
            "grant": strict,
            "service": STRICT_SERVICE,
            "integrity": 1,
        },
        "transport": {"transport": 1},
        "port": {"port": plant.asset.port + 1},
        "another host": {"host": "edge-x"},
        "randomness": {"random": bytes(32)},
        "circuit": {"circuit": b"c" * 16},
        "number": {"number": 1000},
    }


EXPECTED = {
    # what is swapped: (what the host notices in a first circuit, in a later one, the code it refuses with, in both)
    "grant": ("refused", "refused", Code.BAD_GRANT, Code.BAD_GRANT),
    "service": ("refused", "refused", Code.BAD_GRANT, Code.BAD_GRANT),
    "grant and service": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
    "longer grant": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
    "integrity": ("refused", "refused", Code.BAD_GRANT, Code.BAD_GRANT),
    "grant, service and integrity": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
    "transport": ("refused", "refused", Code.BAD_GRANT, Code.BAD_GRANT),
    "port": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
    "another host": ("refused", "refused", Code.NOT_TRUSTED, Code.NOT_TRUSTED),
    "randomness": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
    "circuit": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
    "number": ("refused", "tamper", Code.NOT_TRUSTED, Code.TAMPER),
}


@BOTH
@pytest.mark.parametrize("what", EXPECTED)
async def test_nothing_in_an_open_can_be_swapped(what: str, later: bool):
    """Both ends' keys are bound to the hash of the intent, and early data to its tag (C-10 to C-12)."""
    async with HostilePlant() as plant:
        if later:
            await plant.a.dial()
        swap = swaps(plant)[what]
        plant.router.links["edge-x"] = plant.router.links["edge-b"]

        def meddle(router, link, header, payload):
            if header.kind is Kind.OPEN and link.name == "edge-a":
                return [(header, reworded(payload, **swap))]
            return None

        plant.router.meddle = meddle
        with pytest.raises(Refused):
            await plant.a.dial(early=b"write coil")
        kinds = EXPECTED[what]
        assert set(plant.b.noticed()) == {kinds[later]}
        assert {one.code for one in plant.router.refusals("edge-b")} == {kinds[2 + later]}
        assert plant.asset.told == [b""] * later
        assert plant.b.carried == later
        plant.router.meddle = (
            None  # and nothing is spoilt by it: no number is burnt, no handshake blocked
        )
        assert await echoed(await plant.a.dial(early=b""), b"honest")


async def test_an_open_for_another_association_opens_nothing():
    """An association that the host does not know means a fresh one, and nothing that may have been said is said again (C-16)."""
    async with HostilePlant() as plant:
        await plant.a.dial()

        def meddle(router, link, header, payload):
            if header.kind is Kind.OPEN and link.name == "edge-a" and decode(Open, payload).early:
                return [(header, reworded(payload, association=b"x" * 16))]
            return None

        plant.router.meddle = meddle
        with pytest.raises(Refused) as caught:
            await plant.a.dial(early=b"write coil")
        assert caught.value.code is Code.RESTARTED
        assert plant.asset.told == [b""]
        stream = await plant.a.dial()  # without data a handshake follows at once
        assert await echoed(stream, b"again")


async def test_strict_integrity_is_not_lost_on_the_way():
    """A strict circuit takes no unsigned frame and no early data (C-44)."""
    async with HostilePlant() as plant:
        await plant.a.dial()
        stream = await plant.a.dial(STRICT_SERVICE, early=b"write coil ")
        await stream.write(b"7")
        await until(lambda: plant.asset.told[-1] == b"write coil 7")
        opening = plant.router.passed(Kind.OPEN, "edge-a")[-1][1]
        assert len(decode(Open, opening).early) == 16  # the tag alone

        def unsigned(router, link, header, payload):
            if header.kind is Kind.DATA and link.name == "edge-a":
                return [(header._replace(flags=0, length=header.length - 64), payload[:-64])]
            return None

        plant.router.meddle = unsigned
        told = bytes(plant.asset.told[-1])
        await stream.write(b"unsigned")
        assert (await stream.closed).code is Code.TAMPER
        assert plant.b.noticed() == {"tamper": 1}
        assert plant.asset.told[-1] == told


# --- where it goes (C-02, F-11) ---------------------------------------------------------------------


async def test_a_circuit_that_is_sent_to_another_host_is_refused_there():
    """The grant says who may host (G-01)."""
    async with HostilePlant(edges=("edge-a", "edge-b", "edge-c")) as plant:
        c = plant.edges["edge-c"]
        plant.router.links["edge-b"] = plant.router.links["edge-c"]
        with pytest.raises(Refused):
            await plant.a.dial()
        assert c.noticed() == {"refused": 1}
        assert plant.router.refusals("edge-c")[-1].code == Code.BAD_GRANT
        assert plant.asset.told == []


async def test_a_later_circuit_stays_with_the_host_of_its_association():
    """Every OPEN of an association names its host (C-04), also where the grant permits several."""
    async with HostilePlant(edges=("edge-a", "edge-b", "edge-c")) as plant:
        c = plant.edges["edge-c"]
        grant = plant.grant(hosts=("edge-b", "edge-c"))
        await plant.a.dial(grant=grant)
        assert plant.b.carried == 1
        plant.router.links["edge-b"] = plant.router.links["edge-c"]
        with pytest.raises(Refused):
            await plant.a.dial(grant=grant, early=b"write coil")
        assert c.noticed() == {"refused": 1}
        assert "for edge-b, not for edge-c" in c.security[0][1]
        assert c.carried == 0
        assert plant.asset.told == [b""]
