"""Finding routes, and decoding what comes with them: one documented refusal, whatever is sent."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.actions import requests as r
from controller.api.handlers import TailQuery
from controller.api.problem import ApiError, ProblemCode
from controller.api.route import PREFIX, Table, decode_body, decode_query
from controller.api.routes import ROUTES

TABLE = Table(ROUTES)


def refused(code: ProblemCode, method: str, path: str) -> str:
    with pytest.raises(ApiError) as caught:
        TABLE.find(method, path)
    assert caught.value.code is code
    return caught.value.detail


def test_every_route_is_found_under_its_own_path():
    for route in ROUTES:
        path = route.path.replace("{", "x-").replace("}", "")
        found, _ = TABLE.find(route.method, PREFIX + path)
        assert found is route


def test_names_and_methods_are_unique():
    assert len({route.name for route in ROUTES}) == len(ROUTES)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_fixed_parts_win_over_names():
    assert TABLE.find("GET", f"{PREFIX}/sessions/follow")[0].name == "follow_sessions"
    assert TABLE.find("GET", f"{PREFIX}/sessions/4711")[1] == {"id": "4711"}


def test_a_part_is_decoded_once():
    name = "edge-a:[::1]:1502/udp %41"
    _, parts = TABLE.find("GET", f"{PREFIX}/listeners/{quote(name, safe='')}")
    assert parts == {"name": name}


def test_only_login_needs_no_login():
    assert [route.name for route in ROUTES if route.open] == ["login"]
    assert TABLE.find_open("POST", f"{PREFIX}/login") is not None
    assert TABLE.find_open("GET", f"{PREFIX}/login") is None
    assert TABLE.find_open("POST", f"{PREFIX}/login/") is None
    assert TABLE.find_open("POST", f"{PREFIX}/zones") is None


def test_what_is_not_there_and_what_is_not_done():
    assert "GET or POST" in refused(ProblemCode.METHOD, "PUT", f"{PREFIX}/zones")
    for path in (
        "/",
        "/api/v1",
        "/api/v2/zones",
        f"{PREFIX}/zoo",
        f"{PREFIX}/zones/",
        f"{PREFIX}//",
    ):
        refused(ProblemCode.NO_ROUTE, "GET", path)
    refused(ProblemCode.NO_ROUTE, "GET", PREFIX + "/x" * 5000)
    refused(ProblemCode.BAD_REQUEST, "GET", f"{PREFIX}/zones/%ff")


@given(st.text(max_size=200))
def test_any_path_is_a_route_or_a_refusal(path: str):
    for raw in (path, f"{PREFIX}/{path}", f"{PREFIX}/zones/{path}"):
        try:
            TABLE.find("GET", raw)
        except ApiError:
            continue


@given(st.binary(max_size=300))
def test_any_body_is_decoded_or_refused(raw: bytes):
    for kind in (r.Login, r.Allow, r.Changes):
        with pytest.raises(ApiError) as caught:
            decode_body(kind, raw)
            raise ApiError(ProblemCode.BAD_REQUEST, "decoded")
        assert caught.value.code is ProblemCode.BAD_REQUEST
        assert "\n" not in caught.value.detail


def test_a_body_nested_beyond_reason_is_refused():
    with pytest.raises(ApiError, match="body"):
        decode_body(r.Changes, b'{"changes":' + b"[" * 100_000)


def test_an_unknown_field_is_refused_and_named():
    with pytest.raises(ApiError, match="unknown field read_onyl"):
        decode_body(r.Allow, b'{"sentence": "a to b over modbus", "read_onyl": true}')


def test_query_parameters_are_typed():
    assert decode_query(TailQuery, [("limit", "7")]) == TailQuery(limit=7)
    for pairs in ([("limit", "seven")], [("limit", "0")], [("lmit", "7")], [("limit", "7")] * 2):
        with pytest.raises(ApiError):
            decode_query(TailQuery, pairs)
