"""The hosting edge alone against whoever calls: no router stands in the way, since here the router is in on it.

Wrong identity, no grant, a grant for another key, service, host or plant, one that has ended or is void: refused before
the asset is touched, and recorded (C-02, G-01, G-02, A-05, U-06).
"""

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.audit.event import EventName, Outcome
from overlay.errors import Code
from overlay.fabric.authority import Authority, Kill, Revocation, Withdrawal
from overlay.identity.certificate import Role
from overlay.wire.bodies import Publish
from overlay.wire.header import Kind
from tests.support.honest import OTHER_SERVICE, SERVICE, until
from tests.support.hostile import MINUTE, HostilePlant, Impostor, echoed
from tests.support.meddling import flip
from tests.support.pki import NOW, Pki


def grants(plant: HostilePlant) -> dict[str, bytes]:
    pki = plant.pki
    other = Pki("other")
    good = plant.grant()
    return {
        "none": b"",
        "rubbish": b"\xc1" * 40,
        "for another key": plant.grant(caller_key=bytes(32)),
        "for another edge": plant.grant(caller=pki.edge("edge-x")),
        "for another enrolment": plant.grant(generation=2),
        "for another service": plant.grant(service=OTHER_SERVICE),
        "for another host": plant.grant(hosts=("edge-c",)),
        "for datagrams": plant.grant(transport=1),
        "for strict integrity": plant.grant(integrity=1),
        "of another plant": plant.grant(signer=other.controller(), caller=other.edge("edge-a")),
        "by another plant's controller for this edge": plant.grant(signer=other.controller()),
        "signed by the edge itself": plant.grant(signer=plant.keys["edge-a"]),
        "signed by the router": plant.grant(signer=plant.router.credentials),
        "changed": flip(good, good.index(b"hmi-a")),
        "with another signature": flip(good, len(good) - 8),
        "not yet valid": plant.grant(not_before=NOW + 10 * MINUTE),
        "of a conduit that ended": plant.grant(end=NOW - MINUTE),
        "past its hold": plant.grant(hold_until=NOW - MINUTE),
    }


EXPECTED = {
    "none": (Code.PROTOCOL, "refused"),
    "rubbish": (Code.PROTOCOL, "refused"),
    "for another key": (Code.NOT_TRUSTED, "refused"),
    "for another edge": (Code.NOT_TRUSTED, "refused"),
    "for another enrolment": (Code.NOT_TRUSTED, "refused"),
    "for another service": (Code.BAD_GRANT, "refused"),
    "for another host": (Code.BAD_GRANT, "refused"),
    "for datagrams": (Code.BAD_GRANT, "refused"),
    "for strict integrity": (Code.BAD_GRANT, "refused"),
    "of another plant": (Code.NOT_TRUSTED, "refused"),
    "by another plant's controller for this edge": (Code.NOT_TRUSTED, "refused"),
    "signed by the edge itself": (Code.NOT_TRUSTED, "refused"),
    "signed by the router": (Code.NOT_TRUSTED, "refused"),
    "changed": (Code.NOT_TRUSTED, "refused"),
    "with another signature": (Code.NOT_TRUSTED, "refused"),
    "not yet valid": (Code.EXPIRED, ""),
    "of a conduit that ended": (Code.EXPIRED, ""),
    "past its hold": (Code.STALE, ""),
}


async def knows(plant: HostilePlant, name: str) -> None:
    """Edge-b has a verified certificate of this node, as it would have after a circuit or an attachment."""
    credentials = plant.router.credentials if name == "router" else plant.keys["edge-a"]
    plant.b.agent.signers.learn(credentials.chain, plant.now())


@pytest.mark.parametrize("what", EXPECTED)
async def test_a_grant_that_does_not_hold(what: str):
    async with HostilePlant() as plant:
        await knows(plant, "edge-a")  # so that nothing fails only because the signer is not known
        await knows(plant, "router")
        impostor = Impostor(plant.router, "edge-b", plant.keys["edge-a"])
        assert await impostor.open(grants(plant)[what]) is Kind.REFUSE
        code, noticed = EXPECTED[what]
        assert plant.router.refusals("edge-b")[-1].code == code
        assert plant.b.noticed() == ({noticed: 1} if noticed else {})
        assert len(plant.b.denied) == 1
        assert plant.b.carried == 0
        assert plant.asset.told == []
        event = plant.b.events(EventName.CIRCUIT_OPEN)[0]
        assert event[1] is Outcome.DENIED
        assert event[2]["service"] == SERVICE
        assert event[2]["reason"]


async def test_the_same_with_a_grant_that_does():
    """So that the refusals above are for their reasons."""
    async with HostilePlant() as plant:
        impostor = Impostor(plant.router, "edge-b", plant.keys["edge-a"])
        assert await impostor.open(plant.grant()) is Kind.READY
        assert plant.b.carried == 1
        assert plant.b.security == []


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        ({"kills": (Kill(b"k" * 16, "identity", "hmi-a", "", NOW, 0),)}, Code.KILLED),
        ({"kills": (Kill(b"k" * 16, "identity", "edge-a", "", NOW, 0),)}, Code.KILLED),
        ({"kills": (Kill(b"k" * 16, "identity", "edge-b", "", NOW, 0),)}, Code.KILLED),
        ({"kills": (Kill(b"k" * 16, "service", SERVICE, "", NOW, 0),)}, Code.KILLED),
        ({"kills": (Kill(b"k" * 16, "plant", "", "", NOW, 0),)}, Code.KILLED),
        ({"revoked": (Revocation("edge-a", 1),)}, Code.REVOKED),
        ({"withdrawn": (Withdrawal("c1", NOW),)}, Code.WITHDRAWN),
        ({"revoked": (Revocation("controller", 1),)}, Code.NOT_TRUSTED),
    ],
)
async def test_a_grant_that_is_void(lists: dict, code: Code):
    """A-04 to A-06; a circuit that runs is cut, and no other one is opened."""
    async with HostilePlant() as plant:
        grant = plant.grant()
        stream = await plant.a.call(grant)
        assert await echoed(stream, b"one.")
        signed = plant.authority(version=2, **lists)
        if code is Code.NOT_TRUSTED:  # signed by the controller that follows it
            successor = plant.pki.controller("controller-2")
            signed = plant.sign(Authority(2, plant.now(), (), lists["revoked"], ()), successor)
        plant.router.links["edge-b"].send_control(Publish(signed))
        await until(lambda: plant.b.agent.state.authority.version == 2)
        if code is not Code.NOT_TRUSTED:
            await until(lambda: not plant.b.circuits())
        impostor = Impostor(plant.router, "edge-b", plant.keys["edge-a"])
        assert await impostor.open(grant) is Kind.REFUSE
        assert plant.router.refusals("edge-b")[-1].code == code
        assert plant.asset.told == [b"one."]
        assert plant.b.carried == 1


@pytest.mark.parametrize("what", ["has ended", "is of an older enrolment", "is of another role"])
async def test_a_certificate_that_does_not_hold(what: str):
    """I-03, I-04, C-02: seen end to end, whatever the router let pass."""
    async with HostilePlant() as plant:
        credentials = {
            "has ended": plant.pki.node(Role.EDGE, "edge-a", end=NOW - MINUTE),
            "is of an older enrolment": plant.pki.node(Role.EDGE, "edge-a", generation=0),
            "is of another role": plant.pki.node(Role.CONTROLLER, "edge-a"),
        }[what]
        if what == "is of an older enrolment":
            signed = plant.authority(version=2, revoked=(Revocation("edge-a", 0),))
            plant.router.links["edge-b"].send_control(Publish(signed))
            await until(lambda: plant.b.agent.state.authority.version == 2)
        impostor = Impostor(plant.router, "edge-b", credentials)
        assert credentials.leaf is not None
        grant = plant.grant(generation=credentials.leaf.generation)
        assert await impostor.open(grant) is Kind.REFUSE
        assert plant.asset.told == []
        assert plant.b.carried == 0
        assert len(plant.b.denied) == 1


async def test_a_service_that_is_not_hosted_here_and_a_port_that_is_not_of_it():
    """C-09: refused sealed, after the caller has shown who it is; not a security event."""
    async with HostilePlant() as plant:
        plant.b.host(OTHER_SERVICE)
        impostor = Impostor(plant.router, "edge-b", plant.keys["edge-a"])
        assert await impostor.open(plant.grant()) is Kind.REFUSE
        assert impostor.answers()[-1][0].flags
        assert plant.asset.told == []
        assert plant.b.denied == ["this edge does not host plc-b.modbus"]


async def test_one_caller_cannot_take_the_places_of_all_others(monkeypatch: pytest.MonkeyPatch):
    """Each has its share of what a node hosts (`HOSTED_PER_CALLER`); beyond it BUSY, sealed, and the asset is left alone."""
    monkeypatch.setattr("overlay.aio.node_circuits.HOSTED_PER_CALLER", 8)
    async with HostilePlant() as plant:
        streams = [await plant.a.dial() for _ in range(8)]
        for service in (SERVICE, "_associate"):
            with pytest.raises(Refused) as caught:
                await plant.a.endpoint.dial(service, plant.grant())
            assert caught.value.code is Code.BUSY
        assert len(plant.asset.told) == 8
        other = Impostor(plant.router, "edge-b", plant.pki.edge("edge-x"))
        assert await other.open(plant.grant(caller=plant.pki.edge("edge-x"))) is Kind.READY
        streams[0].abort(Code.APPLICATION_RESET, "")
        await until(lambda: len(plant.b.circuits()) == 8)
        assert await echoed(await plant.a.dial(), b"again")
