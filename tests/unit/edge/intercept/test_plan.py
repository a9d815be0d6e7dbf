"""Whom the rules of a mode let through: who has a grant, and never fewer."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.grants import Use
from edge.intercept import plan, steering
from edge.intercept.plan import (
    Allowed,
    Behind,
    Places,
    Plan,
    Served,
    conflicts,
    forwarded_assets,
)
from edge.intercept.table import Table
from overlay.control.messages import (
    Assignments,
    BehindEntry,
    HostedEntry,
    InterceptEntry,
    ServicePorts,
)
from overlay.policy.interception import Pools, Prefix
from overlay.wire.bodies import DATAGRAMS, STREAM

POOLS = Pools.of(("100.64.0.0/24", "fd00:1::/112"), bytes(32))
TPROXY = 2
MAC = bytes.fromhex("001b1baabbcc")
BEHIND = (
    BehindEntry("hmi-a", "10.0.0.1"),
    BehindEntry("hmi-a", "fd00::1"),
    BehindEntry("hmi-b", "10.0.0.2", MAC.hex(":")),
    BehindEntry("hmi-c", "10.0.0.2"),
    BehindEntry("hmi-d", "", MAC.hex(":")),
)
SERVICES = (
    ServicePorts("plc.modbus", 502, 502, STREAM),
    ServicePorts("plc.many", 5000, 5999, STREAM),
    ServicePorts("plc.video", 5000, 5000, DATAGRAMS),
)
TABLE = Table(
    (
        InterceptEntry("plc", 20, SERVICES, "edge-a", TPROXY, ("192.168.1.0/24",)),
        InterceptEntry("plc", 20, SERVICES[:1], "hmi-a", TPROXY, ("192.168.1.5/32",), exact=True),
    ),
    BEHIND, POOLS, "edge-a",
)  # fmt: skip
WHOS = ("hmi-a", "hmi-b", "hmi-c", "hmi-d", "edge-a")
SENDERS = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1")
PLACES = ("100.64.0.20", "192.168.1.5", "192.168.1.9", "fd00:1::14")


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def made(uses: set[Use]) -> Plan:
    return Places(TABLE, "tproxy", {TPROXY}, frozenset()).plan(uses)


def passes(found: Plan, transport: int, port: int, to: str, source: bytes, mac: bytes) -> bool:
    """As the rules of `steering` read it: only the longest prefix that serves the port counts."""
    assert found.allowed is not None
    address = ipaddress.ip_address(to)

    def fits(one: Served) -> bool:
        return (
            one.transport == transport
            and one.prefix.holds(address)
            and one.port <= port <= one.port_end
        )

    longest = max((one.prefix.length for one in found.served if fits(one)), default=-1)
    return any(
        one.served.prefix.length == longest
        and fits(one.served)
        and one.source in (source, mac, mac + source)
        for one in found.allowed
    )


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.tuples(st.sampled_from(WHOS), st.sampled_from(SERVICES))),
    st.sampled_from(PLACES),
    st.sampled_from((502, 5000, 5500, 80)),
    st.sampled_from((STREAM, DATAGRAMS)),
    st.sampled_from((*SENDERS, "")),
    st.sampled_from((MAC, b"\2" * 6)),
)
def test_what_the_table_would_allow_is_never_refused_and_who_has_no_grant_is(
    granted: set[tuple[str, ServicePorts]], to: str, port: int, transport: int, sender: str, mac: bytes
):  # fmt: skip
    uses = {(who, one.service, one.transport) for who, one in granted}
    source = packed(sender) if sender else b""
    verdict = TABLE.match(transport, packed(to), port, source or None, mac if sender else None)
    may = bool(verdict.who) and (verdict.who, verdict.service, transport) in uses
    fits = not sender or (":" in sender) == (":" in to)
    passed = passes(made(uses), transport, port, to, source, mac if sender else b"none")
    if may and fits:
        assert passed
    if not any(service == verdict.service for _, service, _ in uses):
        assert not passed


def test_a_sender_is_let_through_once_for_each_place_and_only_by_its_own_version():
    found = made({("hmi-a", "plc.modbus", STREAM), ("hmi-d", "plc.modbus", STREAM)})
    assert found.allowed is not None
    assert len(found.allowed) == len(set(found.allowed))
    for source, served in found.allowed:
        size = 4 if served.prefix.version == 4 else 16
        assert len(source) in (6, 0, size)
    host = Allowed(b"", Served(Prefix.of(ipaddress.ip_network("192.168.1.5/32")), STREAM, 502, 502))
    assert host in found.allowed, "programs of the host count as hmi-a there"
    assert not any(one.source == b"" and one.served.prefix.length == 24 for one in found.allowed), (
        "and as edge-a elsewhere"
    )


def test_who_is_known_by_both_addresses_is_let_through_with_both_and_not_with_one():
    """And not behind a router, whose hardware address what it forwards has."""
    found = made({("hmi-b", "plc.modbus", STREAM)})
    source = packed("10.0.0.2")
    for mac, passed in ((MAC, True), (b"\2" * 6, False), (b"none", False)):
        assert passes(found, STREAM, 502, "192.168.1.9", source, mac) is passed
    assert not passes(found, STREAM, 502, "192.168.1.9", packed("10.0.0.3"), MAC)


def test_without_grants_nobody_is_let_through_and_what_is_not_caught_is_not_in_it():
    assert made(set()).allowed == ()
    out = frozenset({Prefix.of(ipaddress.ip_network("192.168.1.0/24"))})
    found = Places(TABLE, "tproxy", {TPROXY}, out).plan({("hmi-a", "plc.many", STREAM)})
    assert found.allowed
    assert all(one.served.prefix.length != 24 for one in found.allowed)
    assert Places(TABLE, "redirect", {3}, frozenset()).plan(()).served == ()


def test_what_belongs_to_two_modes_with_rules_is_refused_by_one_which_leaves_the_others_places_alone():
    """The pool: by neither, what nobody serves there would take the host's own way, unseen."""
    entries = [
        InterceptEntry(
            f"plc-{mode}", 16 + mode, SERVICES, "edge-a", mode, (f"192.168.{mode}.5/32",)
        )
        for mode in (2, 3)
    ]
    table = Table(entries, BEHIND, POOLS, "edge-a")
    pools = {str(POOLS.v4), str(POOLS.v6)}
    first = Places(table, "tproxy", {2}, frozenset()).plan(())
    second = Places(table, "redirect", {3}, frozenset(), {2}).plan(())
    assert {str(one) for one in first.alone} == {"192.168.2.5"}
    assert {str(one) for one in second.alone} == {"192.168.3.5"} | pools
    assert set(second.beside) == set(first.served)
    assert first.beside == ()
    rules = steering.redirect(second, steering.Layout(second), 4000, steering.Marks.of("ferrule0"))
    caught = rules.hooks.partition("chain own")[0]
    left = [line for line in caught.splitlines() if "@beside" in line]
    assert len(left) == 4, "of both versions, ports and ranges of them"
    assert all(line.endswith(" return") for line in left)
    assert caught.rindex("@beside") < caught.index("@alone")
    elements = dict(rules.elements)
    assert elements["beside4_32"] == (
        "100.64.0.18 . tcp . 502", "100.64.0.18 . udp . 5000",
        "192.168.2.5 . tcp . 502", "192.168.2.5 . udp . 5000",
    )  # fmt: skip


def test_of_more_pairs_than_the_limit_the_rules_know_none_and_leave_it_to_the_edge(monkeypatch):
    """Never a part of them: who is left out would be refused."""
    uses = {(who, one.service, one.transport) for who in WHOS for one in SERVICES}
    known = made(uses).allowed
    assert known is not None
    monkeypatch.setattr(plan, "ALLOWED", len(known))
    assert made(uses).allowed == known
    monkeypatch.setattr(plan, "ALLOWED", len(known) - 1)
    found = made(uses)
    assert found.allowed is None
    assert len(found.served) == len(made(set()).served)
    made_ = steering.tproxy(found, steering.Layout(found), 4000, steering.Marks.of("ferrule0"))
    assert "@served4_32 goto steer" in made_.hooks
    assert "gate4_32" not in made_.sets


def test_a_resolver_of_the_host_that_is_caught_is_said_and_one_that_is_meant_is_not():
    """Nothing is left out for it: a whole subnet may be what is intercepted."""
    inside, outside, edge = map(ipaddress.ip_address, ("192.168.1.53", "192.0.2.1", "100.64.0.1"))

    def said(table: Table, *resolvers: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
        out, found = conflicts(table, (), (), resolvers)
        assert not out
        return [*found.values()]

    (text,) = said(TABLE, inside, outside)
    assert text.startswith(
        "192.168.1.53 is the address of a resolver of this host and lies in 192.168.1.0/24"
    )
    assert said(TABLE, outside, edge) == [], "the edge's own resolver is in the pool"
    stub = ipaddress.ip_address("127.0.0.53")
    assert said(TABLE, stub) == []
    dns = (ServicePorts("plc.dns", 53, 53, DATAGRAMS),)
    meant = Table(
        (InterceptEntry("plc", 20, dns, "edge-a", TPROXY, ("192.168.1.53/32",)),), (), POOLS, "edge-a"
    )  # fmt: skip
    assert said(meant, inside) == []


def test_devices_are_what_sends_through_this_host():
    behind = (
        *BEHIND, BehindEntry("plc-x", "10.0.0.9"), BehindEntry("local", "127.0.0.1"), BehindEntry("own", "10.0.0.254")
    )  # fmt: skip
    hosted = (HostedEntry("plc-x.modbus", "plc-x", "10.0.0.9", 502, 502, STREAM),)
    told = Assignments(1, b"", (), hosted, (), behind)
    found = forwarded_assets(told, [ipaddress.ip_address("10.0.0.254")])
    assert found.names == ("hmi-a", "hmi-b", "hmi-c", "hmi-d")
    assert found.addresses == ("", "10.0.0.1", "10.0.0.2", "fd00::1"), "of one nobody knows where"
    assert forwarded_assets(Assignments(1, b"", (), ()), ()) == Behind()
    many = tuple(BehindEntry(f"d-{n}", f"10.1.0.{n}") for n in range(plan.TOLD + 1))
    found = forwarded_assets(Assignments(1, b"", (), (), (), many), ())
    assert len(found.names) == plan.TOLD + 1
    assert (len(found.addresses), found.addresses[0]) == (plan.TOLD + 1, ""), "and others"
