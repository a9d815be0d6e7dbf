"""Answers to DNS queries for names of assets. Pure.

An asset is ASSET.DOMAIN, for example `plc-b.mill.internal`; so is every name below it, for example
`modbus.plc-b.mill.internal`, since a device may know itself by several names. Its addresses are those of the pools; PTR
leads back. What whoever asks has no grant for does not exist for it. All other names are others'. RFC 1035, 2308,
6761, 6891, 8482.
"""

import ipaddress
import struct
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from overlay.policy.interception import Address, Pools

DNS_PORT = 53
TTL = 30
"""Seconds: an asset keeps its address, but whether it may be known changes with grants."""
NEGATIVE_TTL = 5
MAX_QUERY = 4096
"""Bytes of a query; of a longer datagram the rest is not looked at, and a longer one over TCP ends the connection."""
MAX_UDP_ANSWER = 1232
"""What passes everywhere without fragments (DNS flag day 2020)."""
_PLAIN_UDP_ANSWER = 512
_MAX_NAME = 255
_HEADER = struct.Struct(">HHHHHH")
_RESPONSE = 0x8000


class Directory(Protocol):
    """What names there are, for one who asks: the packed address of a device, or None for a program of this host."""

    def addresses(self, asset: str, source: bytes | None) -> Sequence[Address]:
        """The overlay addresses of an asset; none when it does not exist for whoever asks."""
        ...

    def asset_at(self, address: Address, source: bytes | None) -> str:
        """The asset at an overlay address; empty when there is none for whoever asks."""
        ...


class Other(Enum):
    """What is not answered here."""

    FORWARD = "somebody else's name"
    IGNORE = "no query"


class Zone:
    """The names below one domain, and the reverse names of the pools.

    Args:
        versions: of IP, in which this host leads to the assets: of another one an asset has no address here.
    """

    def __init__(
        self,
        domain: str,
        pools: Pools,
        directory: Directory,
        versions: frozenset[int] = frozenset((4, 6)),
    ) -> None:
        self.domain = domain.lower().rstrip(".")
        self._origin = dns.name.from_text(self.domain)
        self._labels = tuple(reversed(self.domain.encode().split(b".")))
        self.pools = pools
        self._directory = directory
        self._versions = versions

    def answer(self, query: bytes, source: bytes | None, *, datagram: bool) -> bytes | Other:
        """The answer to a query, as it came over the wire; or that it is not answered here.

        Args:
            query: at most `MAX_QUERY` bytes are looked at.
            source: who asks.
            datagram: over UDP, so that the answer has to be short.
        """
        if len(query) < _HEADER.size or query[2] & 0x80:
            return Other.IGNORE
        labels = question(query)
        if labels is None or not self._is_ours(labels):
            return Other.FORWARD
        try:
            asked = dns.message.from_wire(query, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return failure(query, dns.rcode.FORMERR)
        if len(asked.question) != 1:  # an answer would say them all again (RFC 9619)
            return failure(query, dns.rcode.FORMERR)
        return self._answer(asked, source, datagram=datagram)

    def _is_ours(self, labels: tuple[bytes, ...]) -> bool:
        reverse = tuple(reversed(labels))
        if reverse[: len(self._labels)] == self._labels:
            return True
        address = _reversed_address(labels)
        return address is not None and self.pools.contain(address)

    def _answer(self, asked: dns.message.Message, source: bytes | None, *, datagram: bool) -> bytes:
        reply = dns.message.make_response(
            asked, recursion_available=True, our_payload=MAX_UDP_ANSWER
        )
        reply.flags |= dns.flags.AA
        if asked.opcode() != dns.opcode.QUERY:
            reply.set_rcode(dns.rcode.NOTIMP)
        elif asked.edns > 0:
            reply.set_rcode(dns.rcode.BADVERS)
        elif asked.question[0].rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
            reply.set_rcode(dns.rcode.REFUSED)
        else:
            self._fill(reply, asked.question[0], source)
        longest = 65_535
        if datagram:
            longest = min(MAX_UDP_ANSWER, max(_PLAIN_UDP_ANSWER, asked.payload or 0))
        try:
            return reply.to_wire(max_size=longest)
        except dns.exception.TooBig:
            short = dns.message.make_response(asked, recursion_available=True)
            short.flags |= dns.flags.TC | dns.flags.AA
            return short.to_wire(max_size=65_535)

    def _fill(
        self, reply: dns.message.Message, question_: dns.rrset.RRset, source: bytes | None
    ) -> None:
        name, kind = question_.name, question_.rdtype
        if name.is_subdomain(self._origin):
            exists, found = self._forward(name, kind, source)
        else:
            exists, found = self._reverse(name, kind, source)
        if found:
            rrset = dns.rrset.from_rdata_list(name, TTL, found[:1])
            for one in found:
                if one.rdtype != rrset.rdtype:
                    reply.answer.append(dns.rrset.from_rdata_list(name, TTL, [one]))
            reply.answer.insert(0, rrset)
            return
        if not exists:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        soa = f"{self._origin} nobody.{self._origin} 1 3600 600 86400 {NEGATIVE_TTL}"
        reply.authority.append(
            dns.rrset.from_text(
                self._origin, NEGATIVE_TTL, dns.rdataclass.IN, dns.rdatatype.SOA, soa
            )
        )

    def _forward(
        self, name: dns.name.Name, kind: int, source: bytes | None
    ) -> tuple[bool, list[dns.rdata.Rdata]]:
        labels = name.relativize(self._origin).labels
        if not labels:
            return True, []
        asset = labels[-1].decode("latin-1").lower()
        addresses = self._directory.addresses(asset, source)
        wanted = {dns.rdatatype.A: (4,), dns.rdatatype.AAAA: (6,), dns.rdatatype.ANY: (4, 6)}
        versions = wanted.get(dns.rdatatype.RdataType.make(kind), ())
        found = [
            dns.rdata.from_text(
                dns.rdataclass.IN,
                dns.rdatatype.A if one.version == 4 else dns.rdatatype.AAAA,
                str(one),
            )
            for one in addresses
            if one.version in versions and one.version in self._versions
        ]
        return bool(addresses), found

    def _reverse(
        self, name: dns.name.Name, kind: int, source: bytes | None
    ) -> tuple[bool, list[dns.rdata.Rdata]]:
        address = _reversed_address(tuple(label.lower() for label in name.labels[:-1]))
        asset = "" if address is None else self._directory.asset_at(address, source)
        if not asset or kind not in (dns.rdatatype.PTR, dns.rdatatype.ANY):
            return bool(asset), []
        text = f"{asset}.{self.domain}."
        return True, [dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.PTR, text)]


def question(query: bytes) -> tuple[bytes, ...] | None:
    """The labels of the first name that is asked for, in lower case; None where there is none that can be read.

    Cheap, because every query that is somebody else's passes here.
    """
    if len(query) < _HEADER.size or _HEADER.unpack_from(query)[2] < 1:
        return None
    labels: list[bytes] = []
    at, length = _HEADER.size, 1
    while at < len(query):
        size = query[at]
        if size == 0:
            return tuple(labels) if at + 5 <= len(query) else None
        if size > 63 or at + 1 + size >= len(query):
            return None
        length += size + 1
        if length > _MAX_NAME:
            return None
        labels.append(query[at + 1 : at + 1 + size].lower())
        at += 1 + size
    return None


def failure(query: bytes, rcode: int) -> bytes:
    """The shortest answer that says what is wrong: header only."""
    number, flags = struct.unpack_from(">HH", query)
    flags = _RESPONSE | flags & 0x7900 | 0x0080 | rcode
    return _HEADER.pack(number, flags, 0, 0, 0, 0)


def _reversed_address(labels: tuple[bytes, ...]) -> Address | None:
    """The address of a complete name below in-addr.arpa or ip6.arpa."""
    try:
        if labels[-2:] == (b"in-addr", b"arpa") and len(labels) == 6:
            return ipaddress.IPv4Address(b".".join(reversed(labels[:4])).decode("ascii"))
        if labels[-2:] == (b"ip6", b"arpa") and len(labels) == 34:
            digits = b"".join(reversed(labels[:32])).decode("ascii")
            return ipaddress.IPv6Address(bytes.fromhex(digits)) if len(digits) == 32 else None
    except ValueError:
        return None
    return None
