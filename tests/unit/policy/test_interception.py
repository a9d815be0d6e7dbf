"""Rules of interception: what is a prefix, what is a pool, what contradicts what."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InputError
from overlay.policy.interception import POOL, Pools, Rule, explain, parse_prefix, settle
from overlay.wire.bodies import DATAGRAMS, STREAM

ROOT = bytes(range(32))
NET = parse_prefix("192.168.1.0/24")


def rule(service: str, first: int, last: int | None = None, *, exact: bool = False) -> Rule:
    return Rule(NET, STREAM, first, last or first, exact, service)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.168.1.20", "192.168.1.20"),
        (" 192.168.1.0/24 ", "192.168.1.0/24"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fd00::/64", "fd00::/64"),
    ],
)
def test_addresses_and_subnets_are_prefixes(text: str, canonical: str):
    assert str(parse_prefix(text)) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "plc-b", "192.168.1.20/24", "0.0.0.0/0", "127.0.0.1", "224.0.0.1", "::1", "fe80::1",
     "ff02::1", "255.255.255.255", "::ffff:10.0.0.1", "192.168.1", "1.2.3.4/33", "::/0",
     "126.0.0.0/7", "224.0.0.0/3", "168.0.0.0/6", "128.0.0.0/1", "::/1", "fe80::/9", "2001:db8::1%eth0"],
)  # fmt: skip
def test_what_cannot_be_intercepted_is_refused(text: str):
    with pytest.raises(InputError):
        parse_prefix(text)


@given(st.text(max_size=60))
def test_any_text_is_a_prefix_or_one_documented_error(text: str):
    try:
        prefix = parse_prefix(text)
    except InputError:
        return
    assert parse_prefix(str(prefix)) == prefix


def test_pools_have_defaults_and_a_prefix_of_the_plants_own():
    pools = Pools.of((), ROOT)
    assert str(pools.v4) == POOL
    assert pools.v6.prefixlen == 64
    assert pools.v6.network_address in ipaddress.ip_network("fd00::/8")
    assert pools.v6 != Pools.of((), bytes(32)).v6
    assert str(pools.addresses(16)[0]) == str(pools.prefixes(16)[0]) == "100.64.0.16"
    assert str(pools.addresses(16)[1]) == str(pools.prefixes(16)[1])
    assert int(pools.addresses(16)[1]) - int(pools.v6.network_address) == 16


def test_pools_are_chosen_one_of_each_kind():
    pools = Pools.of(("fd12::/64", "198.18.0.0/16"), ROOT)
    assert (str(pools.v4), str(pools.v6)) == ("198.18.0.0/16", "fd12::/64")
    assert pools.holds(65_534)
    assert not pools.holds(65_535)
    assert not pools.holds(0)
    for texts in (("10.0.0.0/30",), ("fd00::/120",), ("10.0.0.0/8", "11.0.0.0/8"), ("x",)):
        with pytest.raises(InputError):
            Pools.of(texts, ROOT)


def test_equal_rank_and_a_common_port_contradict():
    rules = [rule("b.s7", 102), rule("a.mms", 102), rule("a.other", 103)]
    kept, lost = settle(rules)
    assert {rules[place].service for place in kept} == {"a.mms", "a.other"}
    assert [(rules[one].service, rules[two].service) for one, two in lost] == [("a.mms", "b.s7")]
    assert explain(rules[1], rules[0]) == (
        "a.mms and b.s7 would both be intercepted at 192.168.1.0/24 tcp port 102, "
        "and nothing tells them apart there"
    )


def test_ranges_of_one_width_contradict_where_they_overlap_in_part():
    rules = [rule("a.x", 100, 199), rule("b.x", 150, 249), rule("c.x", 200, 299)]
    assert settle(rules) == ([0, 2], [(0, 1)])


@pytest.mark.parametrize(
    "other",
    [
        rule("b.x", 100, 150),  # fewer ports
        rule("b.x", 100, 199, exact=True),  # made for this service
        rule("b.x", 200, 299),  # other ports
        rule("b.x", 100, 199)._replace(transport=DATAGRAMS),
        rule("b.x", 100, 199)._replace(prefix=parse_prefix("192.168.1.1")),
    ],
)
def test_another_rank_or_another_place_does_not_contradict(other: Rule):
    assert settle([rule("a.x", 100, 199), other]) == ([0, 1], [])


def test_one_service_twice_is_said_so():
    assert "intercepted twice" in explain(rule("a.x", 1), rule("a.x", 1))
