"""Bodies of requests: exactly as much as a limit allows is read, and one more is refused; nothing has no limit."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from controller.actions import requests
from controller.actions.requests import (
    FOUND_AT_ONCE,
    MAX_NAME,
    MAX_PASSWORD,
    MAX_TEXT,
    POOLS,
    TAGS,
    Allow,
    Login,
    NewAsset,
    NewEdge,
    NewIntercept,
    NewRouter,
    NewZone,
    Request,
    Revoke,
    Search,
)
from overlay import limits
from overlay.policy.sentence import MAX_SENTENCE

FILLED: dict[str, tuple[type[Request], int, Any]] = {
    "a text": (NewRouter, MAX_TEXT, lambda n: {"name": "r", "address": "a" * n}),
    "a name": (NewZone, MAX_NAME, lambda n: {"name": "z" * n}),
    "a password": (Login, MAX_PASSWORD, lambda n: {"user": "ada", "password": "p" * n}),
    "a sentence": (Allow, MAX_SENTENCE, lambda n: {"sentence": "s" * n}),
    "a reason": (
        Revoke,
        limits.MAX_REASON,
        lambda n: {"kind": "edge", "name": "e", "reason": "r" * n},
    ),
    "dials": (
        NewRouter,
        limits.ROUTER_DIALS,
        lambda n: {"name": "r", "address": "a:1", "dials": ["s"] * n},
    ),
    "pools": (NewEdge, POOLS, lambda n: {"name": "e", "pools": ["10.0.0.0/8"] * n}),
    "edges": (NewAsset, limits.GRANT_HOSTS, lambda n: {"name": "a", "edges": ["e"] * n}),
    "tags": (NewAsset, TAGS, lambda n: {"name": "a", "edges": ["e"], "tags": ["t"] * n}),
    "addresses": (
        NewIntercept,
        limits.INTERCEPT_ADDRESSES,
        lambda n: {"edge": "e", "target": "a", "addresses": ["192.0.2.1"] * n},
    ),
    "found": (Search, FOUND_AT_ONCE, lambda n: {"limit": n}),
}


@pytest.mark.parametrize("what", FILLED)
def test_a_limit_is_filled_and_not_passed(what: str):
    kind, most, make = FILLED[what]
    msgspec.convert(make(most), kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(make(most + 1), kind)


def unbounded(kind: inspect.Type, path: str) -> Iterator[str]:
    """Texts, lists and numbers in a type that may be as long or large as they like."""
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from unbounded(one, path)
    elif isinstance(kind, inspect.StrType | inspect.CollectionType):
        if kind.max_length is None:
            yield path
        if isinstance(kind, inspect.CollectionType):
            yield from unbounded(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.IntType):
        if kind.le is None:
            yield path
    elif isinstance(kind, inspect.DictType):
        yield path


def test_nothing_that_is_asked_for_has_any_size():
    """But for the changes of `ferrule set`, which the body bounds, and a number that this build refuses."""
    kinds = [
        one
        for one in vars(requests).values()
        if isinstance(one, type) and issubclass(one, Request) and one is not Request
    ]
    assert len(kinds) > 15
    found = [
        path
        for kind in kinds
        for field in msgspec.structs.fields(kind)
        for path in unbounded(inspect.type_info(field.type), f"{kind.__name__}.{field.encode_name}")
    ]
    assert found == ["Changes.changes", "Allow.approvals"]
