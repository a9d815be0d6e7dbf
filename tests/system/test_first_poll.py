"""The first poll: denied at once and audited, allowed by a sentence, seen, limited, ended."""

import contextlib
import time
from pathlib import Path

import pytest

from deploy.demo.plant import Plant, until
from deploy.demo.ports import free_port
from tests.support.records import TIME, attempts, search, tally
from tests.support.seen import idle, live, lone_session
from tests.support.traffic import AT_ONCE, HELLO, Caller, Echo, assert_refused_at_once, reachable

pytestmark = pytest.mark.timeout(300)

ADDRESS = "127.0.0.77"


@pytest.fixture(scope="module")
def secret(plant: Plant) -> int:
    """A second service, at an address that nothing else uses, without any conduit."""
    return plant.offer(free_port(), asset="plc-x", protocol="hidden", address=ADDRESS)


def allow(plant: Plant, port: int, *options: str) -> str:
    """Allow hmi-a to plc-b.echo and wait until it works; the conduit's id."""
    conduit: str = plant.json("allow", "hmi-a", "plc-b", "echo", *options)["id"]
    until(lambda: reachable(port), 5, "an allowed connection")
    return conduit


def test_without_a_conduit_the_attempt_is_refused_at_once_and_recorded(
    calm: Plant, port: int, echo: Echo
):
    before = tally(attempts(calm, "plc-b.echo", "denied"))
    connections = echo.connections
    assert_refused_at_once(port)
    until(lambda: tally(attempts(calm, "plc-b.echo", "denied")) == before + 1, 5, "the record")
    record = attempts(calm, "plc-b.echo", "denied")[-1]
    assert record["who"] == "hmi-a"
    assert record["via"] == record["node"] == "edge-a"
    assert record["asset"] == "plc-b"
    assert record["service"] == "plc-b.echo"
    assert record["address"] == f"127.0.0.1:{echo.port}"
    assert len(record["reason"].split()) > 2
    assert not record["conduit"]
    assert TIME.fullmatch(record["time"])
    assert echo.connections == connections, "somebody dialled the asset"


def test_every_attempt_counts_once(calm: Plant, port: int):
    before = tally(attempts(calm, "plc-b.echo", "denied"))
    for _ in range(20):
        assert_refused_at_once(port)
    until(lambda: tally(attempts(calm, "plc-b.echo", "denied")) >= before + 20, 10, "20 attempts")
    assert tally(attempts(calm, "plc-b.echo", "denied")) == before + 20


def test_an_edge_knows_no_more_of_an_ungranted_service_than_its_listener_says(
    calm: Plant, port: int, secret: int
):
    allow(calm, port)
    until(lambda: b"plc-x.hidden" in kept_by(calm, "edge-a"), 5, "its own listener to be kept")
    kept = kept_by(calm, "edge-a")
    assert ADDRESS.encode() not in kept
    assert b"plc-x" not in kept.replace(b"plc-x.hidden", b"")


def kept_by(plant: Plant, name: str) -> bytes:
    """All that a program has on disk; a file may be replaced meanwhile."""
    kept = b""
    for path in Path(plant.path(name)).rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            kept += path.read_bytes() if path.is_file() else b""
    return kept


def test_why_explains_both_answers_check_by_check(calm: Plant, port: int):
    denied = calm.json("why", "hmi-a", "plc-b", "echo")
    assert denied["allowed"] is False
    assert denied["conduit"] is None
    assert any(not check["ok"] for check in denied["checks"])
    conduit = allow(calm, port)
    allowed = calm.json("why", "hmi-a", "plc-b", "echo")
    assert allowed["allowed"] is True
    assert allowed["conduit"] == conduit
    for check in (*denied["checks"], *allowed["checks"]):
        assert set(check) >= {"check", "ok", "text"}
        assert len(check["text"].split()) > 2
    assert all(check["ok"] for check in allowed["checks"])


def test_the_live_session_says_who_how_and_where(calm: Plant, port: int, echo: Echo):
    conduit = allow(calm, port)
    with lone_session(calm, port, echo) as (caller, session):
        caller.echo(b"x" * 1000)
        assert session["who"] == "hmi-a"
        assert session["via"] == "edge-a"
        assert session["asset"] == "plc-b"
        assert session["service"] == "plc-b.echo"
        assert session["address"] == f"127.0.0.1:{echo.port}"
        assert session["path"] == ["edge-a", "router-1", "edge-b"]
        assert session["conduit"] == conduit
        assert session["key_exchange"] == "X25519MLKEM768"
        assert session["integrity"] == "normal"
        assert session["ended"] is None
        assert TIME.fullmatch(session["started"])
    idle(calm)
    (ended,) = [each for each in calm.json("sessions", "--history") if each["id"] == session["id"]]
    assert TIME.fullmatch(ended["ended"])
    assert ended["bytes_in"] == ended["bytes_out"] == 1000 + len(HELLO)


def test_the_receipt_of_a_finished_circuit_is_in_the_audit(calm: Plant, port: int, echo: Echo):
    allow(calm, port)
    with lone_session(calm, port, echo) as (caller, session):
        caller.echo(b"y" * 70_000)

    def closed() -> list[dict[str, object]]:
        found = search(calm, service="plc-b.echo", limit=1000)
        return [
            each
            for each in found
            if each["event"] == "circuit.close" and each["circuit"] == session["id"]
        ]

    until(closed, 5, "circuit.close")
    (record,) = closed()
    assert record["node"] == "edge-b"
    assert record["outcome"] == "done"
    assert record["detail"]


@pytest.mark.parametrize("integrity", ["normal", "strict"])
def test_bulk_arrives_whole_in_both_integrity_modes(
    calm: Plant, port: int, echo: Echo, integrity: str
):
    allow(calm, port, *(["--strict"] if integrity == "strict" else []))
    block = bytes(range(256)) * 1024
    with lone_session(calm, port, echo, 60) as (caller, session):
        for _ in range(20):
            caller.echo(block)
        assert session["integrity"] == integrity


def test_a_half_close_reaches_the_asset_and_the_answer_still_comes(calm: Plant, port: int):
    allow(calm, port)
    with Caller(port) as caller:
        caller.socket.sendall(b"last words")
        caller.socket.shutdown(1)  # SHUT_WR
        assert caller.read(10) == b"last words"
        assert caller.socket.recv(1) == b""


def test_denying_by_id_cuts_the_circuit_and_refuses_new_ones(calm: Plant, port: int):
    conduit = allow(calm, port)
    with Caller(port) as caller:
        caller.echo()
        calm.ferrule("deny", conduit)
        caller.closed_within(AT_ONCE)
    assert_refused_at_once(port)
    ends = [each for each in search(calm) if each["event"] == "conduit.deny"]
    assert ends[-1]["conduit"] == conduit


def test_denying_one_of_two_conduits_names_the_other_and_moves_the_circuit(
    calm: Plant, port: int, echo: Echo
):
    short = allow(calm, port, "--for", "1h")
    with lone_session(calm, port, echo) as (caller, _):
        longer = calm.json("allow", "hmi-a", "plc-b", "echo", "--for", "2h")["id"]
        denied = calm.call("ferrule", "deny", short)
        assert denied.returncode == 1
        assert longer in denied.stderr
        until(lambda: live(calm)[-1]["conduit"] == longer, 5, "the circuit to move")
        assert caller.works(), "equal limits: the circuit moves to the other conduit"


def test_a_conduit_that_expires_cuts_the_circuit(calm: Plant, port: int):
    begun = time.monotonic()
    allow(calm, port, "--for", "6s")
    with Caller(port) as caller:
        caller.echo()
        caller.closed_within(6 + AT_ONCE)
    assert time.monotonic() - begun > 5.5
    assert_refused_at_once(port)


def test_a_session_ends_after_its_longest_time_and_a_new_one_opens(calm: Plant, port: int):
    allow(calm, port, "--max-session", "2s")
    begun = time.monotonic()
    with Caller(port) as caller:
        caller.echo()
        caller.closed_within(2 + AT_ONCE)
    assert time.monotonic() - begun > 1.5
    assert reachable(port)


def test_an_asset_that_does_not_answer_is_said_in_the_audit(calm: Plant):
    listen = calm.offer(free_port(), asset="plc-d", protocol="dead")
    calm.ferrule("allow", "hmi-a", "plc-d", "dead")
    until(lambda: calm.json("why", "hmi-a", "plc-d", "dead")["allowed"], 5, "the conduit")
    until(lambda: _failed(calm, listen), 5, "the failed attempt's record")
    assert "refused" in _failed(calm, listen)[-1]["reason"].lower()


def _failed(plant: Plant, listen: int) -> list[dict[str, str]]:
    assert_refused_at_once(listen)
    return attempts(plant, "plc-d.dead", "failed")


def test_a_zone_and_a_tag_can_be_allowed_and_a_foreign_asset_is_not(calm: Plant, port: int):
    calm.ferrule("add", "zone", "cell-1", "--level", "1", "--sl", "2")
    calm.ferrule("set", "asset", "hmi-a", "zone=cell-1", "tag=panel")
    for who in ("cell-1", "tag:panel"):
        conduit = calm.json("allow", who, "to", "plc-b", "over", "echo")["id"]
        until(lambda: reachable(port), 5, f"a connection of {who}")
        calm.ferrule("deny", conduit)
        until(lambda: not reachable(port), 1, f"the end of {who}")
    calm.ferrule("set", "asset", "plc-b", "tag=other")
    calm.ferrule("allow", "tag:other", "plc-b", "echo")
    time.sleep(0.5)
    assert_refused_at_once(port)
    calm.ferrule("deny", "tag:other", "plc-b", "echo")
    calm.ferrule("set", "asset", "hmi-a", "zone=", "tag=")
    calm.ferrule("set", "asset", "plc-b", "tag=")
    calm.ferrule("rm", "zone", "cell-1")
