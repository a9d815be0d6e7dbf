"""Allowing, denying, explaining; what grants follow."""

import pytest

from controller.actions import conduits
from controller.actions import requests as r
from controller.actions.conduits import GRACE
from controller.actions.errors import Conflict, Invalid, NotFound, TooMany, Unsupported
from overlay import limits
from overlay.audit.event import EventName, Outcome
from overlay.errors import InputError
from overlay.fabric.authority import Authority
from overlay.identity.certificate import Role
from overlay.identity.trust import open_signed
from overlay.policy.grant import Grant
from tests.support.controllers import ADMIN, Mill, Node
from tests.support.pki import NOW, SECOND

MODBUS = ("hmi-a", "plc-b", "modbus")


def allow(**options) -> r.Allow:
    return r.Allow(**({"who": "hmi-a", "to": "plc-b", "protocol": "modbus"} | options))


async def allowed(plant: Mill) -> bool:
    return (await plant.actions.why(ADMIN, *MODBUS)).allowed


async def grants(plant: Mill, node: Node) -> list[Grant]:
    signed = await plant.actions.sign_grants(await plant.actions.grants_for(node.leaf))
    signers, now = plant.actions.signers, plant.actions.now()
    return [open_signed(Grant, one, signers, now, role=Role.CONTROLLER)[0] for one in signed]


async def authority(plant: Mill) -> Authority:
    signed = await plant.actions.authority()
    return open_signed(
        Authority, signed, plant.actions.signers, plant.actions.now(), role=Role.CONTROLLER
    )[0]


async def opened(plant: Mill, conduit: str, circuit: str = "ab" * 16) -> None:
    """The hosting edge reports a circuit of `hmi-a`."""
    event = plant.edge_b.event(
        EventName.CIRCUIT_OPEN, Outcome.ALLOWED, who="hmi-a", via="edge-a", asset="plc-b",
        service="plc-b.modbus", address="192.168.1.20:502", conduit=conduit, circuit=circuit,
    )  # fmt: skip
    await plant.actions.record_events(plant.edge_b.leaf, plant.edge_b.numbers, [event])


async def test_nothing_is_allowed_until_somebody_allows_it(plant: Mill):
    assert not await allowed(plant)
    assert await grants(plant, plant.edge_a) == []
    made = await plant.actions.allow(ADMIN, allow(for_="2h", reason="commissioning"))
    assert await allowed(plant)
    assert (made.id, made.by, made.reason) == ("c1", "ada", "commissioning")
    assert made.until == "2027-01-15T10:00:00.000000Z"
    assert made.away == "hold:8h"
    (grant,) = await grants(plant, plant.edge_a)
    end = NOW + 7200 * SECOND
    assert (grant.who, grant.via, grant.service) == ("hmi-a", "edge-a", "plc-b.modbus")
    assert grant.hosts == ("edge-b",)
    assert grant.caller_key == plant.edge_a.leaf.key_id
    assert (grant.conduit, grant.generation, grant.end) == ("c1", 1, end)
    assert grant.refresh_by == NOW + int(limits.REFRESH_BY) * SECOND
    assert grant.hold_until == end  # the conduit's end caps the hold
    assert grant.not_before < NOW
    assert await grants(plant, plant.edge_b) == []
    assert await grants(plant, plant.router) == []


async def test_a_plant_has_so_many_conduits_in_force(plant: Mill, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conduits, "CONDUITS", 1)
    first = await plant.actions.allow(ADMIN, allow(to="plc-b"))
    with pytest.raises(TooMany, match="at most 1 conduits in force"):
        await plant.actions.allow(ADMIN, allow(who="edge-a"))
    assert await allowed(plant), "what was allowed is so"
    await plant.actions.deny(ADMIN, r.Deny(conduit=first.id))
    await plant.actions.allow(ADMIN, allow(who="edge-a"))


async def test_a_refreshed_grant_replaces_the_older_one(plant: Mill):
    await plant.actions.allow(ADMIN, allow())
    (first,) = await grants(plant, plant.edge_a)
    plant.controller.pass_(300)
    (second,) = await grants(plant, plant.edge_a)
    assert second.id == first.id
    assert second.refresh_by == first.refresh_by + 300 * SECOND
    assert (second.end, second.hold_until) == (
        0,
        second.refresh_by + int(limits.DEFAULT_HOLD) * SECOND,
    )


@pytest.mark.parametrize(
    ("request_", "end"),
    [
        (r.Allow(sentence="hmi-a to plc-b over modbus for 2h"), "2027-01-15T10:00:00.000000Z"),
        (r.Allow(sentence="HMI-A > plc-b.Modbus > 1h30m"), "2027-01-15T09:30:00.000000Z"),
        (allow(until="18:00"), "2027-01-15T18:00:00.000000Z"),
        (allow(until="friday 18:00"), "2027-01-15T18:00:00.000000Z"),
        (allow(until="2027-02-01T00:00:00+01:00"), "2027-01-31T23:00:00.000000Z"),
        (allow(), None),
    ],
)
async def test_sentences_and_ends(plant: Mill, request_: r.Allow, end: str | None):
    made = await plant.actions.allow(ADMIN, request_)
    assert (made.who, made.to, made.protocol) == MODBUS
    assert made.until == end
    assert ("no end" in made.text) is (end is None)


@pytest.mark.parametrize(
    ("request_", "error", "named"),
    [
        (allow(who="hmi-x"), InputError, "hmi-a"),
        (allow(to="plc-x"), InputError, "plc-b"),
        (allow(protocol="modbuss"), InputError, "modbus"),
        (allow(who="tag:none"), InputError, "none"),
        (allow(who="router-1"), InputError, "router"),
        (allow(who="ada"), Unsupported, "person"),
        (allow(for_="2 parsecs"), InputError, "2 parsecs"),
        (allow(for_="0s"), InputError, "0s"),
        (allow(until="yesterday 10:00"), InputError, "passed"),
        (allow(until="2h"), InputError, "--for 2h"),
        (allow(for_="2h", until="18:00"), Invalid, "not both"),
        (allow(away="maybe"), Invalid, "maybe"),
        (allow(away="hold"), Invalid, "hold:8h"),
        (allow(away="hold:x"), InputError, "x"),
        (allow(max_session="x"), InputError, "x"),
        (allow(schedule="nights"), Unsupported, "--schedule"),
        (allow(approvals=1), Unsupported, "--approvals"),
        (allow(approvals=0), Unsupported, "--approvals"),
        (allow(read_only=True), Unsupported, "--read-only"),
        (allow(sentence="hmi-a > plc-b.modbus"), Invalid, "not both"),
        (r.Allow(who="hmi-a", to="plc-b"), Invalid, "PROTOCOL"),
        (r.Allow(sentence="hmi-a to plc-b"), InputError, "protocol"),
        (r.Allow(sentence="hmi-a > plc-b.modbus > 2h", for_="1h"), Invalid, "already"),
    ],
)  # fmt: skip
async def test_what_cannot_be_allowed_is_refused_also_as_a_dry_run(
    plant: Mill, request_, error, named
):
    for action in (plant.actions.allow, plant.actions.allow_dry_run):
        with pytest.raises(error, match=named):
            await action(ADMIN, request_)
    assert await plant.actions.list_objects(ADMIN, "conduit") == []


async def test_limits_of_a_conduit_reach_the_grant(plant: Mill):
    await plant.actions.allow(ADMIN, allow(max_session="30m", away="close", strict=True))
    (grant,) = await grants(plant, plant.edge_a)
    assert (grant.max_session, grant.integrity) == (1800, 1)
    assert grant.hold_until == grant.refresh_by


async def test_a_dry_run_says_what_would_open_and_changes_nothing(plant: Mill):
    found = await plant.actions.allow_dry_run(ADMIN, allow())
    assert [(one.who, one.via, one.service, one.asset) for one in found.opens] == [
        ("hmi-a", "edge-a", "plc-b.modbus", "plc-b")
    ]
    assert (found.closes, found.cuts) == ((), ())
    assert not await allowed(plant)
    await plant.actions.allow(ADMIN, allow())
    assert (await plant.actions.allow_dry_run(ADMIN, allow())).opens == ()


async def test_deny_ends_exactly_that_conduit(plant: Mill):
    made = await plant.actions.allow(ADMIN, allow())
    before = await authority(plant)
    denied = await plant.actions.deny(ADMIN, r.Deny(conduit="C1", reason="done"))
    assert (denied.ended, denied.still) == ((made.id,), ())
    assert not await allowed(plant)
    assert await grants(plant, plant.edge_a) == []
    after = await authority(plant)
    assert after.version > before.version
    assert [(one.conduit, one.at) for one in after.withdrawn] == [(made.id, NOW)]
    with pytest.raises(Conflict, match="ended already"):
        await plant.actions.deny(ADMIN, r.Deny(conduit=made.id))
    with pytest.raises(NotFound, match="c99"):
        await plant.actions.deny(ADMIN, r.Deny(conduit="c99"))
    shown = await plant.controller.show("conduit", made.id)
    assert (shown.ended is not None, shown.end_reason) == (True, "done")
    checks = (await plant.actions.why(ADMIN, *MODBUS)).checks
    assert any("denied by ada" in check.text for check in checks)


async def test_a_withdrawal_is_listed_until_no_grant_can_hold(plant: Mill):
    await plant.actions.allow(ADMIN, allow(away="hold:1h"))
    await plant.actions.deny(ADMIN, r.Deny(who="hmi-a", to="plc-b", protocol="modbus"))
    longest = limits.REFRESH_BY + 3600
    plant.controller.pass_(longest)
    await plant.actions.tick()
    assert len((await authority(plant)).withdrawn) == 1
    version = (await authority(plant)).version
    plant.controller.pass_(120)
    await plant.actions.tick()
    last = await authority(plant)
    assert last.withdrawn == ()
    assert last.version > version


async def test_deny_by_sentence_ends_all_that_were_written_so(plant: Mill):
    await plant.actions.allow(ADMIN, allow())
    await plant.actions.allow(ADMIN, allow(for_="1h"))
    denied = await plant.actions.deny(ADMIN, r.Deny(sentence="hmi-a > plc-b.modbus"))
    assert (denied.ended, denied.still) == (("c1", "c2"), ())


async def test_deny_says_which_other_conduit_still_allows(plant: Mill):
    await plant.actions.add_zone(ADMIN, r.NewZone(name="cell"))
    await plant.actions.set_object(ADMIN, "asset", "hmi-a", r.Changes(changes={"zone": "cell"}))
    await plant.actions.allow(ADMIN, allow())
    wide = await plant.actions.allow(ADMIN, allow(who="cell"))
    denied = await plant.actions.deny(ADMIN, r.Deny(who="hmi-a", to="plc-b", protocol="modbus"))
    assert denied.still == (wide.id,)
    assert "cell > plc-b.modbus" in denied.text
    assert await allowed(plant)
    with pytest.raises(NotFound, match=wide.id):
        await plant.actions.deny(ADMIN, r.Deny(who="hmi-a", to="plc-b", protocol="modbus"))


async def test_circuits_get_a_moment_only_when_everything_stays_allowed(plant: Mill):
    first = await plant.actions.allow(ADMIN, allow())
    second = await plant.actions.allow(ADMIN, allow())
    await opened(plant, first.id)
    await plant.actions.deny(ADMIN, r.Deny(conduit=first.id))
    (moment,) = (await authority(plant)).withdrawn
    assert (moment.conduit, moment.at) == (first.id, NOW + GRACE)
    await plant.actions.deny(ADMIN, r.Deny(conduit=second.id))
    assert (await authority(plant)).withdrawn[1].at == NOW


async def test_a_circuit_cannot_move_to_other_limits(plant: Mill):
    strict = await plant.actions.allow(ADMIN, allow(strict=True))
    await plant.actions.allow(ADMIN, allow())
    await opened(plant, strict.id)
    await plant.actions.deny(ADMIN, r.Deny(conduit=strict.id))
    assert (await authority(plant)).withdrawn[0].at == NOW


async def test_deny_of_nothing_is_said(plant: Mill):
    with pytest.raises(NotFound, match="exactly hmi-a to plc-b over modbus"):
        await plant.actions.deny(ADMIN, r.Deny(who="hmi-a", to="plc-b", protocol="modbus"))
    with pytest.raises(Invalid, match="duration"):
        await plant.actions.deny(ADMIN, r.Deny(sentence="hmi-a > plc-b.modbus > 2h"))
    with pytest.raises(Invalid, match="not both"):
        await plant.actions.deny(ADMIN, r.Deny(conduit="c1", who="hmi-a"))


async def test_expiry_is_recorded_when_it_happens(plant: Mill):
    made = await plant.actions.allow(ADMIN, allow(for_="6s"))
    assert await plant.actions.tick() <= 6 * SECOND
    plant.controller.pass_(5.9)
    await plant.actions.tick()
    assert await allowed(plant)
    plant.controller.pass_(0.2)
    assert not await allowed(plant)  # whether housekeeping has been there or not
    await plant.actions.tick()
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.conduit, last.outcome) == ("conduit.expire", made.id, "done")
    assert (await authority(plant)).withdrawn == ()  # its grants ended by themselves
    shown = await plant.controller.show("conduit", made.id)
    assert shown.ended == made.until
    checks = (await plant.actions.why(ADMIN, *MODBUS)).checks
    assert any("ended" in check.text and not check.ok for check in checks)


async def test_both_making_and_ending_are_recorded_with_the_conduit(plant: Mill):
    made = await plant.actions.allow(ADMIN, allow(reason="why not"))
    await plant.actions.deny(ADMIN, r.Deny(conduit=made.id))
    records = await plant.actions.audit_search(ADMIN, r.Search(service="plc-b.modbus"))
    assert [(one.event, one.conduit, one.who) for one in records][-2:] == [
        ("conduit.allow", made.id, "ada"),
        ("conduit.deny", made.id, "ada"),
    ]
    assert records[-2].reason == "why not"


async def test_why_explains_an_edge_that_is_away(plant: Mill):
    await plant.actions.allow(ADMIN, allow())
    await plant.actions.node_disconnected(plant.edge_b.leaf, "gone")
    found = await plant.actions.why(ADMIN, *MODBUS)
    assert found.allowed
    assert any(not check.ok and "edge-b" in check.text for check in found.checks)


async def test_why_knows_the_switch_on_site(plant: Mill):
    await plant.actions.allow(ADMIN, allow())
    event = plant.edge_b.event(EventName.LOCAL_KILL, Outcome.DONE, reason="fire")
    await plant.actions.record_events(plant.edge_b.leaf, 1, [event])
    found = await plant.actions.why(ADMIN, *MODBUS)
    assert not found.allowed
    assert any("fire" in check.text for check in found.checks)
    event = plant.edge_b.event(EventName.LOCAL_RESTORE, Outcome.DONE)
    await plant.actions.record_events(plant.edge_b.leaf, 2, [event])
    assert await allowed(plant)
