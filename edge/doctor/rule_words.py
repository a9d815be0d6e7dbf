"""A rule of nftables in words, from what `nft -j` prints; short, for people who look for it. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

FEW = 4
"""Elements of a set that are shown."""


def in_words(expressions: Iterable[Any]) -> str:
    """All of a rule but its counters and comments."""
    return " ".join(filter(None, map(_words, expressions)))


def _words(expression: Any) -> str:
    ((kind, body),) = expression.items()
    if kind == "match":
        operator = "" if body["op"] in ("==", "in") else f"{body['op']} "
        return f"{_left(body['left'])} {operator}{_right(body['right'])}"
    if kind in ("jump", "goto"):
        return f"{kind} {body['target']}"
    if kind == "xt":
        return f"({(body or {}).get('name', 'an extension')} of iptables)"
    if kind == "vmap":
        return f"{_left(body['key'])} vmap {_right(body['data'])}"
    return "" if kind == "counter" else kind


def _left(left: Any) -> str:
    if not isinstance(left, dict) or not left:
        return str(left)
    ((kind, body),) = left.items()
    if kind == "concat":
        return " . ".join(map(_left, body))
    if kind == "&":
        return f"{_left(body[0])} & {_right(body[1])}"
    if kind == "payload":
        return " ".join(str(body[one]) for one in ("protocol", "field") if one in body)
    if kind == "fib":
        return f"fib {' . '.join(body.get('flags', ()))} {body.get('result', '')}"
    name = str(body.get("key", "")) if isinstance(body, dict) else ""
    return name if name in ("iif", "oif", "iifname", "oifname") else f"{kind} {name}".strip()


def _right(right: Any) -> str:
    if isinstance(right, list):
        return ",".join(map(_right, right))
    if not isinstance(right, dict) or not right:
        return str(right)
    ((kind, body),) = right.items()
    if kind == "range":
        return "-".join(map(_right, body))
    if kind == "prefix":
        return f"{body['addr']}/{body['len']}"
    if kind == "set":
        return "{ " + ", ".join(map(_right, _first(body))) + " }"
    return " . ".join(map(_right, body)) if kind == "concat" else kind


def _first(some: Iterable[Any]) -> Iterator[Any]:
    """A few, so that it stays readable."""
    for at, one in enumerate(some):
        if at == FEW:
            yield "..."
            return
        yield one
