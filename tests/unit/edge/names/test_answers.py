"""Answers to queries: names, wildcards, reverse names, what does not exist for whom; and whatever a stranger may send."""

import ipaddress
import struct

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.names.answers import MAX_UDP_ANSWER, Other, Zone, failure, question
from overlay.policy.interception import Pools

POOLS = Pools.of(("100.64.0.0/10", "fd00:1::/64"), bytes(32))
STRANGER = b"\x0a\x00\x00\x01"


class Names:
    """plc-b is at 16, for programs of this host only; both is for everybody."""

    def __init__(self) -> None:
        self.numbers = {"plc-b": 16, "both": 17}

    def addresses(self, asset, source):
        if asset not in self.numbers or (source == STRANGER and asset != "both"):
            return ()
        return POOLS.addresses(self.numbers[asset])

    def asset_at(self, address, source):
        for name in self.numbers:
            if address in self.addresses(name, source):
                return name
        return ""


ZONE = Zone("mill.internal", POOLS, Names())


def ask(name: str, kind: str = "A", source: bytes | None = None, *, datagram: bool = True):
    query = dns.message.make_query(name, kind)
    found = ZONE.answer(query.to_wire(), source, datagram=datagram)
    if isinstance(found, Other):
        return found
    reply = dns.message.from_wire(found)
    assert query.is_response(reply)
    return reply


def texts(reply) -> list[str]:
    return [str(one) for rrset in reply.answer for one in rrset]


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("plc-b.mill.internal", "A", ["100.64.0.16"]),
        ("PLC-B.Mill.Internal.", "AAAA", ["fd00:1::10"]),
        ("modbus.plc-b.mill.internal", "A", ["100.64.0.16"]),
        ("www.deep.plc-b.mill.internal", "AAAA", ["fd00:1::10"]),
        ("plc-b.mill.internal", "ANY", ["100.64.0.16", "fd00:1::10"]),
        ("16.0.64.100.in-addr.arpa", "PTR", ["plc-b.mill.internal."]),
        (ipaddress.ip_address("fd00:1::10").reverse_pointer, "PTR", ["plc-b.mill.internal."]),
    ],
)
def test_names_of_assets_are_answered(name: str, kind: str, answer: list[str]):
    reply = ask(name, kind)
    assert reply.rcode() == dns.rcode.NOERROR
    assert texts(reply) == answer
    assert reply.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("mill.internal", "A", dns.rcode.NOERROR),
        ("plc-b.mill.internal", "MX", dns.rcode.NOERROR),
        ("plc-b.mill.internal", "HTTPS", dns.rcode.NOERROR),
        ("16.0.64.100.in-addr.arpa", "A", dns.rcode.NOERROR),
        ("nobody.mill.internal", "A", dns.rcode.NXDOMAIN),
        ("99.0.64.100.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
    ],
)
def test_what_is_ours_and_is_not_there_is_said_with_how_long_that_holds(name, kind, rcode):
    reply = ask(name, kind)
    assert (reply.rcode(), reply.answer) == (rcode, [])
    assert [one.rdtype for one in reply.authority] == [dns.rdatatype.SOA]


@pytest.mark.parametrize(
    "name",
    ["example.com", "internal", "xmill.internal", "mill.internal.example", "1.1.1.1.in-addr.arpa",
     "0.64.100.in-addr.arpa", ".", "x.16.0.64.100.in-addr.arpa"],
)  # fmt: skip
def test_other_names_are_somebody_elses(name: str):
    assert ask(name) is Other.FORWARD


@pytest.mark.parametrize(
    ("kind", "version", "answer"),
    [("A", 4, ["100.64.0.16"]), ("AAAA", 4, []), ("A", 6, []), ("AAAA", 6, ["fd00:1::10"]),
     ("ANY", 6, ["fd00:1::10"])],
)  # fmt: skip
def test_where_a_version_of_ip_leads_nowhere_an_asset_exists_without_it(kind, version, answer):
    zone = Zone("mill.internal", POOLS, Names(), frozenset((version,)))
    query = dns.message.make_query("plc-b.mill.internal", kind)
    found = zone.answer(query.to_wire(), None, datagram=True)
    assert isinstance(found, bytes)
    reply = dns.message.from_wire(found)
    assert (reply.rcode(), texts(reply)) == (dns.rcode.NOERROR, answer)


def test_an_asset_does_not_exist_for_who_has_no_grant():
    assert ask("plc-b.mill.internal", source=STRANGER).rcode() == dns.rcode.NXDOMAIN
    assert ask("16.0.64.100.in-addr.arpa", "PTR", STRANGER).rcode() == dns.rcode.NXDOMAIN
    assert texts(ask("both.mill.internal", source=STRANGER)) == ["100.64.0.17"]


def test_what_cannot_be_done_is_refused_by_its_code():
    query = dns.message.make_query("plc-b.mill.internal", "A")
    raw = bytearray(query.to_wire())
    for change, rcode in (
        ((2, raw[2] | 0x28), dns.rcode.NOTIMP),  # opcode UPDATE, read as a query
        ((len(raw) - 1, 3), dns.rcode.REFUSED),  # class CHAOS
    ):
        changed = bytearray(raw)
        changed[change[0]] = change[1]
        found = ZONE.answer(bytes(changed), None, datagram=True)
        assert isinstance(found, bytes)
        assert found[3] & 15 in (rcode, dns.rcode.FORMERR)
    query.use_edns(edns=1)
    reply = dns.message.from_wire(ZONE.answer(query.to_wire(), None, datagram=True))  # type: ignore[arg-type]
    assert reply.rcode() == dns.rcode.BADVERS


def test_a_response_is_not_answered_and_nothing_short_is():
    query = dns.message.make_query("plc-b.mill.internal", "A")
    query.flags |= dns.flags.QR
    assert ZONE.answer(query.to_wire(), None, datagram=True) is Other.IGNORE
    assert ZONE.answer(b"\0" * 11, None, datagram=True) is Other.IGNORE


def wire(*names: tuple[bytes, ...]) -> bytes:
    """A query with these questions, none of them compressed."""
    said = (b"".join(bytes([len(one)]) + one for one in name) for name in names)
    return struct.pack(">HHHHHH", 7, 0x100, len(names), 0, 0, 0) + b"".join(
        one + b"\0\0\1\0\1" for one in said
    )


def test_many_questions_in_one_query_are_not_said_again():
    ours = b"plc-b", b"mill", b"internal"
    many = wire(*((b"%02d" % number * 30, *ours) for number in range(40)))
    found = ZONE.answer(many, None, datagram=True)
    assert isinstance(found, bytes)
    assert (len(found), found[3] & 15) == (12, dns.rcode.FORMERR)


def test_the_longest_name_fits_into_an_answer_that_everybody_takes():
    deep = (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 40, b"mill", b"internal")
    for last in (6, 7):  # a name has at most 255 bytes, the root's one included
        name = (*deep[:4], b"e" * last, *deep[4:])
        found = ZONE.answer(wire(name), None, datagram=True)
        if last == 7:
            assert found is Other.FORWARD, "it is none"
            continue
        assert isinstance(found, bytes)
        assert 255 < len(found) <= 512
        assert found[3] & 15 == dns.rcode.NXDOMAIN


def test_a_failure_is_an_answer_to_the_query():
    query = dns.message.make_query("example.com", "A")
    reply = dns.message.from_wire(failure(query.to_wire(), dns.rcode.SERVFAIL))
    assert (reply.id, reply.rcode()) == (query.id, dns.rcode.SERVFAIL)
    assert reply.flags & dns.flags.QR


@given(st.binary(max_size=600))
def test_any_bytes_are_answered_forwarded_or_ignored(data: bytes):
    found = ZONE.answer(data, None, datagram=True)
    assert isinstance(found, Other) or (12 <= len(found) <= MAX_UDP_ANSWER)


@given(st.binary(max_size=40), st.integers(0, 60), st.binary(max_size=60))
def test_any_damage_of_a_real_query_is_answered_forwarded_or_ignored(
    extra: bytes, at: int, patch: bytes
):
    raw = dns.message.make_query("plc-b.mill.internal", "A", use_edns=True).to_wire()
    data = raw[:at] + patch + raw[at + len(patch) :] + extra
    for datagram in (True, False):
        found = ZONE.answer(data, STRANGER, datagram=datagram)
        if isinstance(found, bytes):
            assert found[:2] == data[:2]
            assert found[2] & 0x80


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=6))
def test_the_quick_look_reads_every_name_as_the_library_does(labels: list[bytes]):
    try:
        wire_name = dns.name.Name([*labels, b""]).to_wire()
    except dns.name.NameTooLong:
        return
    assert wire_name is not None
    wire = struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + wire_name + b"\0\1\0\1"
    assert question(wire) == tuple(label.lower() for label in labels)
