"""Names that people give, protocols that everybody knows, and hints for what was mistyped."""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from overlay.errors import InputError
from overlay.wire.bodies import DATAGRAMS, STREAM

MAX_NAME = 63
MAX_LISTED = 8
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
TAG_PREFIX = "tag:"
TRANSPORTS = {"tcp": STREAM, "udp": DATAGRAMS}


class WellKnown(NamedTuple):
    """Where a protocol listens unless it is said otherwise; `transport` is STREAM (TCP) or DATAGRAMS (UDP)."""

    port: int
    transport: int


PROTOCOLS = {
    "ads": WellKnown(48898, STREAM),
    "bacnet": WellKnown(47808, DATAGRAMS),
    "codesys": WellKnown(11740, STREAM),
    "coap": WellKnown(5683, DATAGRAMS),
    "dnp3": WellKnown(20000, STREAM),
    "enip": WellKnown(44818, STREAM),
    "fins": WellKnown(9600, DATAGRAMS),
    "ftp": WellKnown(21, STREAM),
    "ge-srtp": WellKnown(18245, STREAM),
    "hart-ip": WellKnown(5094, STREAM),
    "http": WellKnown(80, STREAM),
    "https": WellKnown(443, STREAM),
    "iec104": WellKnown(2404, STREAM),
    "mms": WellKnown(102, STREAM),
    "modbus": WellKnown(502, STREAM),
    "mqtt": WellKnown(1883, STREAM),
    "mqtts": WellKnown(8883, STREAM),
    "mssql": WellKnown(1433, STREAM),
    "ntp": WellKnown(123, DATAGRAMS),
    "opcua": WellKnown(4840, STREAM),
    "postgresql": WellKnown(5432, STREAM),
    "rdp": WellKnown(3389, STREAM),
    "s7": WellKnown(102, STREAM),
    "smb": WellKnown(445, STREAM),
    "snmp": WellKnown(161, DATAGRAMS),
    "ssh": WellKnown(22, STREAM),
    "syslog": WellKnown(514, DATAGRAMS),
    "telnet": WellKnown(23, STREAM),
    "tftp": WellKnown(69, DATAGRAMS),
    "vnc": WellKnown(5900, STREAM),
}
"""Protocols that need no `--port`."""


def with_article(kind: str) -> str:
    """`an asset`, `a zone`."""
    return f"{'an' if kind[:1] in 'aeio' else 'a'} {kind}"


def parse_name(text: str, what: str = "name") -> str:
    """The canonical (lower-case) form of a NAME; `what` says in the error what is being named.

    Raises:
        InputError: not letters, digits and hyphens, longer than 63, or with a hyphen at either end.
    """
    name = text.strip().lower()
    if not name:
        raise InputError(
            f"the {what} is empty: use letters, digits and hyphens, at most {MAX_NAME}"
        )
    if len(name) > MAX_NAME:
        raise InputError(f"the {what} {shown(text)} has {len(name)} characters: at most {MAX_NAME}")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{shown(text)} cannot be {with_article(what)}: use letters, digits and hyphens (none at either end)"
        )
    return name


def parse_principal(text: str, what: str = "name") -> str:
    """A WHO or TO: a NAME, or `tag:NAME`; canonical form.

    Raises:
        InputError: neither.
    """
    lowered = text.strip().lower()
    if lowered.startswith(TAG_PREFIX):
        return TAG_PREFIX + parse_name(lowered.removeprefix(TAG_PREFIX), "tag")
    return parse_name(text, what)


def parse_service(text: str) -> tuple[str, str]:
    """`ASSET.PROTOCOL` as (asset, protocol).

    Raises:
        InputError: not of that form.
    """
    asset, dot, protocol = text.strip().partition(".")
    if not dot or "." in protocol:
        raise InputError(
            f"{shown(text)} is not a service: write ASSET.PROTOCOL, for example plc-b.modbus"
        )
    return parse_name(asset, "asset"), parse_name(protocol, "protocol")


def service_name(asset: str, protocol: str) -> str:
    """The service's own name."""
    return f"{asset}.{protocol}"


def parse_ports(text: str) -> tuple[int, int]:
    """`N` or `N-M` as (first, last).

    Raises:
        InputError: no port numbers 1 to 65535 in rising order.
    """
    first, dash, last = text.strip().partition("-")
    numbers = [first, last if dash else first]
    if all(number.isascii() and number.isdigit() and len(number) <= 5 for number in numbers):
        low, high = (int(number) for number in numbers)
        if 1 <= low <= high <= 65_535:
            return low, high
    raise InputError(
        f"{shown(text)} is not a port: write 502, or a range as 5000-5010 (1 to 65535)"
    )


def known_protocol(text: str, also: Iterable[str] = ()) -> str:
    """The canonical name of a protocol that is well known or among `also` (protocols that the plant's services have).

    Raises:
        InputError: it is neither; the text offers what is near.
    """
    protocol = parse_name(text, "protocol")
    here = set(also)
    if protocol in PROTOCOLS or protocol in here:
        return protocol
    raise InputError(
        f"unknown protocol {shown(text)}: "
        + (
            hint(protocol, [*PROTOCOLS, *here])
            or "use a known one (modbus, s7, opcua, ssh, …), or make a service with it first: "
            f"ferrule add service ASSET {protocol} --port N"
        )
    )


def shown(text: str) -> str:
    """Someone's text in quotes, printable and not longer than a line."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"'{clean if len(clean) <= 80 else clean[:77] + '…'}'"


def hint(wrong: str, known: Iterable[str]) -> str:
    """`did you mean modbus?`, or an empty text where nothing is near."""
    near = difflib.get_close_matches(wrong.lower(), sorted(set(known)), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def listed(names: Iterable[str], word: str = "and") -> str:
    """`a, b and c` for people; a long list is cut and says how many more there are."""
    every = list(names)
    some = every[:MAX_LISTED]
    if len(every) > MAX_LISTED:
        return f"{', '.join(some)} and {len(every) - MAX_LISTED} more"
    if len(some) < 2:
        return "".join(some)
    return f"{', '.join(some[:-1])} {word} {some[-1]}"
