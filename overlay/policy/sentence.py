"""Conduits as sentences: `hmi-a to plc-b over modbus for 2h`, or `hmi-a > plc-b.modbus > 2h`.

Reading a sentence needs no plant; whether what it names exists is asked with `check_ends`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from overlay.errors import InputError
from overlay.policy.model import Plant
from overlay.policy.names import (
    TAG_PREFIX,
    hint,
    known_protocol,
    parse_name,
    parse_principal,
    shown,
    with_article,
)
from overlay.policy.times import parse_duration

MAX_SENTENCE = 1024
_EXAMPLE = "write it as: hmi-a to plc-b over modbus for 2h, or as: hmi-a > plc-b.modbus > 2h"
_AROUND_DOT = re.compile(r"\s*\.\s*")


class Sentence(NamedTuple):
    """What was said; names are canonical.

    `duration` in seconds (0: none said), `until` the TIME as it was typed (empty: none said), never both.
    """

    who: str
    to: str
    protocol: str
    duration: int = 0
    until: str = ""


def parse_sentence(words: Sequence[str]) -> Sentence:
    """Read the words of a sentence, as one text or cut by a shell; `WHO TO PROTOCOL` alone is one, too.

    Raises:
        InputError: a part is missing, left over or not what it should be; the text says which.
    """
    text = " ".join(words).strip()
    if len(text) > MAX_SENTENCE:
        raise InputError(f"that is too long for a sentence: {_EXAMPLE}")
    if not text:
        raise InputError(f"say who may reach what: {_EXAMPLE}")
    return _with_arrows(text) if ">" in text else _with_words(text.split())


def _with_arrows(text: str) -> Sentence:
    who, _, rest = text.partition(">")
    target, arrow, limit = (part.strip() for part in rest.partition(">"))
    if not target or ">" in limit or (arrow and not limit):
        raise InputError(f"{shown(text)} is not a sentence: {_EXAMPLE}")
    to, protocol = _split_target(_AROUND_DOT.sub(".", target))
    if not protocol:
        example = f"{parse_principal(to, 'name')}.modbus"
        raise InputError(f"{shown(target)} lacks a protocol: write {example}, for example")
    tail = limit.split()
    if len(tail) >= 1 and tail[0].lower() not in {"for", "until"}:
        tail.insert(0, "for")
    return _sentence(who, to, protocol, tail)


def _with_words(words: list[str]) -> Sentence:
    who, *rest = words
    if rest and rest[0].lower() == "to":  # something that is named "to" is written with it, too
        del rest[0]
    if not rest:
        raise InputError(f"{shown(who)} may reach what? {_EXAMPLE}")
    to, protocol = _split_target(rest.pop(0))
    if not protocol:
        if rest and rest[0].lower() == "over":
            del rest[0]
        if not rest or rest[0].lower() in {"for", "until"}:
            raise InputError(f"over which protocol may {shown(who)} reach {shown(to)}? {_EXAMPLE}")
        protocol = rest.pop(0)
    return _sentence(who, to, protocol, rest)


def _split_target(text: str) -> tuple[str, str]:
    """`plc-b.modbus` as asset and protocol; without a dot the protocol is empty."""
    to, dot, protocol = text.rpartition(".")
    return (to, protocol) if dot else (text, "")


def _sentence(who: str, to: str, protocol: str, tail: list[str]) -> Sentence:
    name, slash, port = protocol.partition("/")
    if slash:
        name = parse_name(name, "protocol")
        raise InputError(
            f"write {name} without {shown('/' + port)}: the port belongs to the service, "
            f"ferrule add service ASSET {name} --port N"
        )
    said = Sentence(
        parse_principal(who, "name"), parse_principal(to, "name"), parse_name(protocol, "protocol")
    )
    if not tail:
        return said
    match tail[0].lower(), tail[1:]:
        case "for", [_, *_] as parts:
            return said._replace(duration=parse_duration("".join(parts)))
        case "until", [_, *_] as parts:
            return said._replace(until=" ".join(parts))
        case ("for" | "until") as word, []:
            raise InputError(f"{word} when? write for 2h, or until friday 18:00")
        case _:
            raise InputError(f"{shown(' '.join(tail))} is left over: {_EXAMPLE}")


def check_ends(plant: Plant, who: str, to: str, protocol: str) -> None:
    """Whether a conduit can be written for these (canonical) names in this plant.

    Raises:
        InputError: a name or tag that nothing has, a thing that cannot reach or be reached, an unknown protocol.
    """
    _check_end(plant, who, "reach anything", ("asset", "edge", "user", "zone", "tag"))
    _check_end(plant, to, "be reached", ("asset", "edge", "zone", "tag"))
    known_protocol(protocol, (service.protocol for service in plant.services))


def _check_end(plant: Plant, name: str, does: str, kinds: tuple[str, ...]) -> None:
    kind = plant.kind(name)
    if kind in kinds:
        return
    if kind:
        raise InputError(
            f"{name} is {with_article(kind)} and cannot {does}: name an asset, edge, zone or tag"
        )
    near = hint(name, plant.every_name())
    if name.startswith(TAG_PREFIX):
        tag = name.removeprefix(TAG_PREFIX)
        otherwise = f"give it to one first: ferrule set asset NAME tag={tag}"
        raise InputError(f"no asset has the tag {shown(tag)}: {near or otherwise}")
    otherwise = "see ferrule ls asset, ls edge and ls zone"
    raise InputError(f"nothing in this plant is named {shown(name)}: {near or otherwise}")
