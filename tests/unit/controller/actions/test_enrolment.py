"""Tokens and leaves: E-01 to E-08, each rule and its negative."""

import pytest

from controller.actions import requests as r
from controller.actions.enrolment import REFUSED, RENEWALS_EVERY
from controller.pki import NODE_LIFE
from overlay import limits
from overlay.audit.event import EventName, Outcome
from overlay.errors import TrustError
from overlay.identity.certificate import Identity, Leaf, Role, make_csr, read_leaf
from overlay.identity.enrolment import Token, proof, token_key
from overlay.identity.keys import SigningKey
from overlay.identity.trust import verify_chain
from tests.support.controllers import ADMIN, EXPORTER, Controller, Mill
from tests.support.pki import NOW, SECOND, Pki


async def router_token(made: Controller) -> Token:
    added = await made.actions.add_router(ADMIN, r.NewRouter(name="r1", address="192.0.2.1:1"))
    return Token.parse(added.token)


def key(number: int = 1) -> SigningKey:
    return SigningKey.generate(bytes([number]) * 32)


async def redeem(made: Controller, token: Token, by: SigningKey, **change) -> Leaf:
    csr = change.get("csr", make_csr(by))
    secret = change.get("secret", token.secret)
    role = change.get("role", token.role)
    exporter = change.get("exporter", EXPORTER)
    given = change.get("proof", proof(token_key(secret), role, exporter, csr))
    chain = await made.actions.redeem_token(
        change.get("id", token.id), csr, given, EXPORTER, change.get("peer", by.public)
    )
    return verify_chain(chain, made.actions.anchor, made.actions.now())


async def test_a_token_gives_a_leaf_for_its_name_and_role(made: Controller):
    leaf = await redeem(made, await router_token(made), key())
    assert leaf.identity == Identity("mill", Role.ROUTER, "r1")
    assert (leaf.public, leaf.generation) == (key().public, 1)
    assert leaf.not_after == NOW + NODE_LIFE
    (last,) = await made.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.outcome, last.via) == ("node.enrol", "done", "r1")


@pytest.mark.parametrize(
    "change",
    [
        {"id": b"x" * 16},
        {"secret": b"x" * 32},
        {"role": Role.EDGE},
        {"exporter": b"x" * 32},
        {"proof": b"x" * 32},
        {"csr": make_csr(key(9)), "peer": key(1).public},
        {"csr": b"no request"},
        {"peer": key(9).public},
    ],
    ids="+".join,
)  # fmt: skip
async def test_what_does_not_hold_is_refused_with_one_text_and_recorded(made: Controller, change):
    token = await router_token(made)
    with pytest.raises(TrustError) as caught:
        await redeem(made, token, key(), **change)
    assert str(caught.value) == REFUSED
    (last,) = await made.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.outcome) == ("node.enrol", "denied")
    assert last.reason != REFUSED  # the log says which rule
    await redeem(made, token, key())  # nothing was burnt


async def test_an_expired_token_is_refused(made: Controller):
    token = await router_token(made)
    made.pass_(limits.TOKEN_LIFE)
    with pytest.raises(TrustError, match=REFUSED):
        await redeem(made, token, key())


async def test_the_first_key_may_repeat_and_no_other_may_use_it(made: Controller):
    token = await router_token(made)
    first = await redeem(made, token, key(1))
    again = await redeem(made, token, key(1))
    assert (again.generation, again.public) == (first.generation, first.public)
    with pytest.raises(TrustError, match=REFUSED):
        await redeem(made, token, key(2))


async def test_the_first_link_spends_the_token(made: Controller):
    token = await router_token(made)
    leaf = await redeem(made, token, key())
    assert [(one.enrolled, one.newcomer) for one in await made.actions.routers_to_dial()] == [
        (True, True)
    ]
    await made.actions.node_connected(leaf, "0.1.0", 1)
    with pytest.raises(TrustError, match=REFUSED):
        await redeem(made, token, key())
    assert [(one.enrolled, one.newcomer) for one in await made.actions.routers_to_dial()] == [
        (True, False)
    ]


async def test_each_redeemed_token_raises_the_generation(made: Controller):  # E-06
    generations = [(await redeem(made, await router_token(made), key(1))).generation]
    for number in (2, 3):
        text = (await made.actions.make_token(ADMIN, "router", "r1")).token
        generations.append((await redeem(made, Token.parse(text), key(number))).generation)
    assert generations == [1, 2, 3]


async def test_a_token_is_void_when_its_node_is_removed(made: Controller):
    token = await router_token(made)
    await made.actions.remove_object(ADMIN, "router", "r1")
    with pytest.raises(TrustError, match=REFUSED):
        await redeem(made, token, key())


async def test_masses_of_refusals_do_not_fill_the_log(made: Controller):
    token = await router_token(made)
    for _ in range(40):
        with pytest.raises(TrustError):
            await redeem(made, token, key(), id=b"x" * 16)
    denied = [one for one in await made.actions.audit_tail(ADMIN) if one.outcome == "denied"]
    assert len(denied) == 10


async def test_renewal_gives_the_same_identity_and_generation_to_a_new_key(plant: Mill):
    plant.controller.pass_(86_400)
    chain = await plant.actions.renew(plant.edge_a.leaf, make_csr(key(7)))
    leaf = verify_chain(chain, plant.actions.anchor, plant.actions.now())
    assert leaf.identity == plant.edge_a.leaf.identity
    assert leaf.generation == plant.edge_a.leaf.generation
    assert leaf.public == key(7).public
    assert leaf.not_after == plant.edge_a.leaf.not_after + 86_400 * SECOND


async def test_an_expired_leaf_may_renew_and_a_revoked_one_may_not(plant: Mill):
    plant.controller.pass_(NODE_LIFE / SECOND + 10)
    await plant.actions.check_leaf(plant.edge_a.leaf)
    await plant.actions.renew(plant.edge_a.leaf, make_csr(key(7)))
    await plant.actions.revoke(ADMIN, r.Revoke(kind="edge", name="edge-b", reason="stolen"))
    with pytest.raises(TrustError, match="revoked"):
        await plant.actions.renew(plant.edge_b.leaf, make_csr(key(7)))


async def test_a_lost_answer_is_given_again_and_masses_are_refused(plant: Mill):
    plant.controller.pass_(86_400)
    first = await plant.actions.renew(plant.edge_a.leaf, make_csr(key(7)))
    assert await plant.actions.renew(plant.edge_a.leaf, make_csr(key(7))) == first
    with pytest.raises(TrustError, match="too often"):
        await plant.actions.renew(plant.edge_a.leaf, make_csr(key(8)))
    plant.controller.pass_(RENEWALS_EVERY / SECOND + 2)
    second = await plant.actions.renew(plant.edge_a.leaf, make_csr(key(8)))
    assert read_leaf(second[0]).public == key(8).public


async def test_a_request_that_is_none_is_refused(plant: Mill):
    with pytest.raises(TrustError):
        await plant.actions.renew(plant.edge_a.leaf, b"junk")


@pytest.mark.parametrize(
    ("role", "name", "generation", "named"),
    [
        (Role.EDGE, "nobody", 1, "no edge nobody"),
        (Role.ROUTER, "edge-a", 1, "no router edge-a"),
        (Role.EDGE, "edge-a", 2, "generation"),
        (Role.CONTROLLER, "edge-a", 1, "no controller edge-a"),
    ],
)
async def test_who_may_not_speak(plant: Mill, role, name, generation, named):
    leaf = Pki().node(role, name, generation=generation).leaf
    assert leaf is not None
    with pytest.raises(TrustError, match=named):
        await plant.actions.check_leaf(leaf)


async def test_during_renewal_both_keys_have_grants_and_events_of_both_are_taken(plant: Mill):
    await plant.actions.allow(ADMIN, r.Allow(who="hmi-a", to="plc-b", protocol="modbus"))
    plant.controller.pass_(86_400)
    chain = await plant.actions.renew(plant.edge_a.leaf, make_csr(key(7)))
    new = verify_chain(chain, plant.actions.anchor, plant.actions.now())
    for leaf in (plant.edge_a.leaf, new):
        assert len(await plant.actions.grants_for(leaf)) == 2
    event = plant.edge_a.event(EventName.LINK_UP, Outcome.DONE)  # signed with the old key
    await plant.actions.record_events(new, 1, [event])
    plant.controller.pass_(NODE_LIFE / SECOND - 86_400 + 60)  # the old leaf has ended
    assert len(await plant.actions.grants_for(new)) == 1
    late = plant.edge_a.event(EventName.LINK_DOWN, Outcome.DONE)
    await plant.actions.record_events(new, 2, [late])
