"""`ferrule` against the real API with the real actions on a real store; only the nodes are played by the test."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.actions import requests as r
from controller.cli import account, audit, output
from controller.cli.main import run
from overlay.audit.event import EventName, Outcome
from tests.support.api import Api, eventually, running
from tests.support.controllers import ADMIN, PASSWORD, Mill, controller, mill
from tests.support.words import sentence

CIRCUIT = "ab" * 16
SESSION_KEYS = (
    "id who via asset service address path conduit started ended end_reason bytes_in bytes_out"
    " key_exchange integrity"
)
RECORD_KEYS = "seq time event outcome who via asset service address conduit reason node count hash"


@dataclass
class Ferrule:
    """The command line, as a person has it."""

    api: Api
    plant: Mill
    folder: Path
    capsys: pytest.CaptureFixture[str]

    async def run(self, *words: str, code: int = 0) -> str:
        """What it prints; its exit code must be `code`, and with another than 0 stderr has one sentence."""
        self.capsys.readouterr()
        found = await asyncio.to_thread(run, words)
        out, err = self.capsys.readouterr()
        assert found == code, (words, out, err)
        if code:
            return sentence(err)
        assert err == ""
        return out

    async def json(self, *words: str, code: int = 0) -> Any:
        self.capsys.readouterr()
        found = await asyncio.to_thread(run, [*words, "--json"])
        out, _ = self.capsys.readouterr()
        assert found == code, (words, out)
        return json.loads(out)

    async def login(self, *words: str, code: int = 0) -> str:
        url = f"https://127.0.0.1:{self.api.port}"
        file = str(self.folder / "password")
        return await self.run(
            "login", url, "--user", "ada", "--password-file", file, *words, code=code
        )

    async def opens(self, conduit: str, circuit: str = CIRCUIT) -> None:
        edge = self.plant.edge_b
        detail = {"path": ["edge-a", "router-1", "edge-b"], "key_exchange": "X25519MLKEM768"}
        event = edge.event(
            EventName.CIRCUIT_OPEN, Outcome.ALLOWED, who="hmi-a", via="edge-a", asset="plc-b",
            service="plc-b.modbus", address="192.168.1.20:502", conduit=conduit, circuit=circuit,
            detail=json.dumps(detail),
        )  # fmt: skip
        await self.plant.actions.record_events(edge.leaf, edge.numbers, [event])


@pytest.fixture
async def ferrule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Ferrule]:
    for name in ("FERRULE_URL", "FERRULE_TOKEN", "FERRULE_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FERRULE_HOME", str(tmp_path / "home"))
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "wrong").write_text("wrong\n")
    async with controller(tmp_path) as made:
        plant = await mill(made)
        async with running(tmp_path / "api", made.actions) as api:
            found = Ferrule(api, plant, tmp_path, capsys)
            await found.login("--ca", str(api.ca))
            yield found


def has(found: dict[str, Any], keys: str) -> None:
    assert set(keys.split()) <= set(found)


async def test_login_keeps_what_it_needs(ferrule: Ferrule, monkeypatch: pytest.MonkeyPatch):
    file = ferrule.folder / "home/session.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "mill as ada (admin)" in await ferrule.login()  # the certificate is pinned from before
    token = (await ferrule.login("--print-token")).strip()
    assert json.loads(file.read_text())["token"] != token
    await ferrule.run("logout")
    assert "ferrule login" in await ferrule.run("ls", "edge", code=1)
    monkeypatch.setenv("FERRULE_URL", f"https://127.0.0.1:{ferrule.api.port}")
    monkeypatch.setenv("FERRULE_TOKEN", token)
    monkeypatch.setenv("FERRULE_CA", str(ferrule.api.ca))
    assert len(await ferrule.json("ls", "edge")) == 2
    assert token not in (await ferrule.json("status")).__repr__()


async def test_wrong_passwords_are_refused_and_then_lock(ferrule: Ferrule):
    url = f"https://127.0.0.1:{ferrule.api.port}"
    words = ["login", url, "--user", "ada", "--password-file", str(ferrule.folder / "wrong")]
    for _ in range(5):
        assert "wrong name or password" in await ferrule.run(*words, code=1)
    assert "locked for" in await ferrule.run(*words, code=1)
    assert len(await ferrule.json("ls", "edge")) == 2  # whoever is logged in stays so


async def test_login_waits_for_a_controller_that_is_just_starting(
    ferrule: Ferrule, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(account, "RETRY", 0.05)
    port = ferrule.api.port
    await ferrule.api.server.close()
    waiting = asyncio.create_task(ferrule.login())
    await asyncio.sleep(0.2)
    await ferrule.api.server.start("127.0.0.1", port)
    assert "mill as ada" in await waiting
    await ferrule.api.server.close()
    monkeypatch.setattr(account, "PATIENCE", 0.1)
    assert "nothing listens" in await ferrule.login(code=1)


async def test_inventory(ferrule: Ferrule):
    token = ferrule.folder / "edge-c.token"
    zone = await ferrule.json("add", "zone", "cell-3", "--level", "1", "--sl", "2")
    assert zone == {"name": "cell-3", "level": 1, "sl": 2, "parent": None}
    edge = await ferrule.json(
        "add", "edge", "edge-c", "--zone", "cell-3", "--token-out", str(token)
    )
    assert (edge["name"], edge["token_file"]) == ("edge-c", str(token))
    assert "token" not in edge
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text().startswith("ferrule-token-1.")
    assert len(token.read_text().splitlines()) == 1
    first = token.read_text()
    await ferrule.run("token", "edge", "edge-c", "--token-out", str(token))
    fresh = token.read_text()
    assert fresh != first
    for taken, words in [
        (["token", "edge", "edge-b"], "holds the token of edge edge-c"),
        (
            ["add", "router", "edge-c", "--address", "192.0.2.9:8441"],
            "holds the token of edge edge-c",
        ),
    ]:
        said = await ferrule.run(*taken, "--token-out", str(token), code=2)
        assert words in said, "another machine waits for it"
        assert token.read_text() == fresh
    notes = ferrule.folder / "notes"
    notes.write_text("to do")
    assert "no token" in await ferrule.run(
        "token", "edge", "edge-b", "--token-out", str(notes), code=2
    )
    assert notes.read_text() == "to do"
    token = ferrule.folder / "router-2.token"
    router = await ferrule.json(
        "add", "router", "router-2", "--address", "192.0.2.9:8441", "--dials", "router-1",
        "--token-out", str(token),
    )  # fmt: skip
    assert router["dials"] == ["router-1"]
    asset = await ferrule.json(
        "add", "asset", "drive-1", "--edge", "edge-c:1", "--edge", "edge-b:2", "--address",
        "192.168.1.30", "--tag", "line-2",
    )  # fmt: skip
    assert [one["priority"] for one in asset["edges"]] == [1, 2]
    service = await ferrule.json(
        "add", "service", "drive-1", "telemetry", "--port", "9000", "--transport", "udp"
    )
    assert (service["name"], service["port"], service["transport"]) == (
        "drive-1.telemetry",
        9000,
        "udp",
    )
    listener = await ferrule.json(
        "add", "listener", "edge-a", "plc-b.modbus", "--listen", "127.0.0.1:1502", "--as", "hmi-a"
    )
    assert listener["as"] == "hmi-a"
    for kind in ("zone", "router", "edge", "asset", "service", "listener"):
        names = [one["name"] for one in await ferrule.json("ls", kind)]
        assert names == sorted(names)
        shown = await ferrule.json("show", kind, names[0])
        assert shown["name"] == names[0]
        assert names[0] in await ferrule.run("ls", kind)
        assert names[0] in await ferrule.run("show", kind, names[0])
    changed = await ferrule.json(
        "set", "asset", "drive-1", "address=192.168.1.31", "tag=a", "tag=b"
    )
    assert (changed["address"], changed["tags"]) == ("192.168.1.31", ["a", "b"])
    assert (await ferrule.json("set", "asset", "drive-1", "tag="))["tags"] == []
    removed = await ferrule.json("rm", "listener", listener["name"])
    assert removed == {"kind": "listener", "name": listener["name"]}


async def test_what_cannot_be_is_refused_and_changes_nothing(ferrule: Ferrule):
    token = ferrule.folder / "x.token"
    before = [
        await ferrule.json("ls", kind) for kind in ("zone", "edge", "asset", "conduit", "kill")
    ]
    for code, words in [
        (1, ["show", "edge", "nobody"]),
        (1, ["add", "edge", "edge-a", "--token-out", str(token)]),
        (2, ["add", "edge", "edge_c!", "--token-out", str(token)]),
        (1, ["add", "edge", "edge-c", "--zone", "nowhere", "--token-out", str(token)]),
        (1, ["add", "asset", "drive", "--edge", "nobody"]),
        (2, ["add", "asset", "drive", "--edge", "edge-a:first"]),
        (2, ["add", "asset", "drive", "--edge", "edge-a", "--address", "somewhere"]),
        (2, ["add", "service", "plc-b", "unheard-of"]),
        (2, ["set", "edge", "edge-a", "colour=red"]),
        (1, ["rm", "edge", "edge-a"]),
        (1, ["rm", "conduit", "c999"]),
        (1, ["deny", "c999"]),
        (2, ["allow", "hmi-a", "plc-b", "modbus", "--for", "soon"]),
        (2, ["allow", "hmi-a", "plc-b", "modbus", "--until", "last year"]),
        (2, ["allow", "hmi-a", "plc-b", "modbus", "--away", "maybe"]),
        (2, ["allow", "hmi-a > plc-b.modbus > 2h > 3h"]),
        (1, ["kill", "identity", "nobody"]),
        (1, ["kill", "session", "nothing"]),
        (1, ["show", "session", "nothing"]),
        (1, ["drain", "router", "edge-a"]),
        (1, ["revoke", "edge", "nobody", "--reason", "x"]),
        (2, ["audit", "search", "--outcome", "maybe"]),
        (2, ["audit", "search", "--since", "whenever"]),
        (1, ["audit", "prove", "100000"]),
    ]:
        found = await asyncio.to_thread(run, words)
        out, err = ferrule.capsys.readouterr()
        sentence(err)
        assert (found, out) == (code, ""), (words, err)
    assert before == [
        await ferrule.json("ls", kind) for kind in ("zone", "edge", "asset", "conduit", "kill")
    ]
    assert not token.exists()
    assert [name for name in os.listdir(ferrule.folder) if "token" in name] == []


async def test_allow_why_and_deny(ferrule: Ferrule):
    found = await ferrule.json("why", "hmi-a", "plc-b", "modbus")
    has(found, "allowed conduit checks")
    assert not found["allowed"]
    assert any(not check["ok"] and check["text"] and check["check"] for check in found["checks"])
    assert "denied" in await ferrule.run("why", "hmi-a", "plc-b", "modbus")

    effect = await ferrule.json("allow", "hmi-a", "plc-b", "modbus", "--for", "2h", "--dry-run")
    assert set(effect) == {"opens", "closes", "cuts"}
    assert effect["opens"][0]["service"] == "plc-b.modbus"
    said = await ferrule.run("allow", "hmi-a", "plc-b", "modbus", "--dry-run")
    assert "would open" in said
    assert "dry run" in said
    assert await ferrule.json("ls", "conduit") == []

    made = await ferrule.json(
        "allow", "hmi-a", "plc-b", "modbus", "--for", "2h", "--reason", "commissioning", "--strict",
        "--max-session", "30m", "--away", "close",
    )  # fmt: skip
    assert isinstance(made["id"], str)
    assert (made["strict"], made["max_session"], made["away"]) == (True, 1800, "close")
    assert (await ferrule.json("why", "hmi-a", "plc-b", "modbus"))["conduit"] == made["id"]
    assert made["id"] in await ferrule.run("ls", "conduit")
    assert (await ferrule.json("deny", made["id"]))["ended"] == [made["id"]]

    await ferrule.run("allow", "hmi-a", "to", "plc-b", "over", "modbus", "for", "1h")
    assert "no end" in await ferrule.run("allow", "hmi-a > plc-b.modbus", "--reason", "for ever")
    ended = await ferrule.json("deny", "hmi-a", "plc-b", "modbus")
    assert len(ended["ended"]) == 2
    assert not (await ferrule.json("why", "hmi-a", "plc-b", "modbus"))["allowed"]
    said = await ferrule.run("allow", "hmi-a", "plc-b", "s7")
    assert "not open yet: plc-b does not offer s7" in said
    assert "ferrule add service plc-b s7" in said
    short = await ferrule.json("allow", "hmi-a > plc-b.modbus > 6s")
    assert await ferrule.run("rm", "conduit", short["id"])


async def test_deny_says_what_still_allows_it(ferrule: Ferrule):
    await ferrule.run("add", "zone", "cell-3")
    await ferrule.run("set", "asset", "plc-b", "zone=cell-3")
    wide = await ferrule.json("allow", "hmi-a", "cell-3", "modbus")
    narrow = await ferrule.json("allow", "hmi-a", "plc-b", "modbus")
    assert wide["id"] in await ferrule.run("deny", narrow["id"], code=1)
    assert await ferrule.json("deny", wide["id"])


async def test_kill_restore_and_revoke(ferrule: Ferrule):
    for target in (["service", "plc-b.modbus"], ["identity", "edge-a"], ["plant"]):
        level, name = target[0], target[1] if len(target) > 1 else ""
        kill = await ferrule.json("kill", *target, "--reason", "drill", "--for", "1h", "--yes")
        has(kill, "id level name reason by since until")
        assert (kill["level"], kill["name"], kill["reason"]) == (level, name, "drill")
        assert kill["id"] in json.dumps(await ferrule.json("ls", "kill"))
        assert kill["id"] in await ferrule.run("ls", "kill")
        assert (await ferrule.json("restore", *target, "--reason", "over"))["restored"] == [
            kill["id"]
        ]
    assert await ferrule.json("ls", "kill") == []
    said = await ferrule.run("kill", "identity", "hmi-a")
    assert "until it is restored" in said
    assert await ferrule.run("restore", "identity", "hmi-a")
    (again,) = [await ferrule.json("kill", "identity", "hmi-a")]
    assert await ferrule.json("rm", "kill", again["id"])
    revoked = await ferrule.json("revoke", "edge", "edge-a", "--reason", "stolen")
    assert (revoked["kind"], revoked["name"], revoked["generation"]) == ("edge", "edge-a", 1)
    states = {one["name"]: one["state"] for one in (await ferrule.json("status"))["edges"]}
    assert states["edge-a"] == "revoked"


async def test_sessions(ferrule: Ferrule):
    conduit = (await ferrule.json("allow", "hmi-a", "plc-b", "modbus"))["id"]
    assert await ferrule.json("sessions") == []
    assert "no live sessions" in await ferrule.run("sessions")
    await ferrule.opens(conduit)
    (found,) = await ferrule.json("sessions")
    has(found, SESSION_KEYS)
    assert isinstance(found["id"], str)
    assert (found["who"], found["via"], found["ended"]) == ("hmi-a", "edge-a", None)
    assert found["path"] == ["edge-a", "router-1", "edge-b"]
    assert await ferrule.json("ls", "session") == [found]
    assert await ferrule.json("show", "session", found["id"]) == found
    assert "edge-a > router-1 > edge-b" in await ferrule.run("sessions")
    killed = await ferrule.json("kill", "session", found["id"], "--reason", "drill", "--yes")
    assert killed["id"] == found["id"]
    assert await ferrule.json("why", "hmi-a", "plc-b", "modbus")


async def test_audit(ferrule: Ferrule):
    event = ferrule.plant.edge_a.event(
        EventName.CIRCUIT_OPEN, Outcome.DENIED, who="hmi-a", via="edge-a", service="plc-b.modbus",
        reason="no grant",
    )  # fmt: skip
    await ferrule.plant.actions.record_events(ferrule.plant.edge_a.leaf, 1, [event])
    await ferrule.run("allow", "hmi-a", "plc-b", "modbus")
    records = await ferrule.json("audit", "tail", "--limit", "3")
    assert [one["seq"] for one in records] == sorted(one["seq"] for one in records)
    assert len(records) == 3
    has(records[0], RECORD_KEYS)
    denied = await ferrule.json(
        "audit", "search", "--who", "hmi-a", "--service", "plc-b.modbus", "--outcome", "denied",
        "--since", "1h",
    )  # fmt: skip
    assert [(one["event"], one["reason"], one["address"]) for one in denied] == [
        ("circuit.open", "no grant", "192.168.1.20:502")
    ]
    assert "no grant" in await ferrule.run("audit", "search", "--outcome", "denied")
    assert "no records" in await ferrule.run("audit", "search", "--who", "nobody-at-all")
    verified = await ferrule.json("audit", "verify")
    has(verified, "ok records first last signed_by problems")
    assert verified["ok"]
    assert "whole" in await ferrule.run("audit", "verify")
    proof = await ferrule.json("audit", "prove", str(denied[0]["seq"]))
    assert proof["hash"] == denied[0]["hash"]
    assert "is in the log" in await ferrule.run("audit", "prove", "1")


async def test_an_export_verifies_offline_and_only_under_the_plants_root(
    ferrule: Ferrule, tmp_path: Path
):
    file = tmp_path / "audit.jsonl"
    made = await ferrule.json("audit", "export", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = file.read_text().splitlines()
    assert made == {"file": str(file), "records": len(lines) - 1}
    await ferrule.api.server.close()
    root = ferrule.plant.controller.directory / "api-ca.pem"
    found = await ferrule.json("audit", "verify", "--file", str(file))
    assert (found["ok"], found["records"]) == (True, len(lines) - 1)
    assert await ferrule.json("audit", "verify", "--file", str(file), "--ca", str(root)) == found
    other = ferrule.api.ca  # the stand-in for another plant's root
    bad = await ferrule.json("audit", "verify", "--file", str(file), "--ca", str(other), code=1)
    assert not bad["ok"]
    half = len(lines) // 2
    changed = [line.replace('"ada"', '"bob"') for line in lines]
    assert changed != lines
    for text in (
        lines[:half] + lines[half + 1 :],
        lines[:half],
        [*lines[:half], lines[half + 1], lines[half], *lines[half + 2 :]],
        [*lines, lines[0]],
        [*lines, lines[-1]],
        changed,
        ["{}", *lines],
        ["nonsense"],
        [],
        [lines[-1]],
    ):
        file.write_text("".join(line + "\n" for line in text))
        bad = await ferrule.json("audit", "verify", "--file", str(file), code=1)
        assert not bad["ok"]
        assert bad["problems"]
    await ferrule.run("audit", "verify", "--file", str(tmp_path / "missing"), code=2)
    (tmp_path / "home/session.json").unlink()
    assert "--ca" in await ferrule.run("audit", "verify", "--file", str(file), code=1)


async def test_a_proof_that_lies_is_found(ferrule: Ferrule, monkeypatch: pytest.MonkeyPatch):
    true = await ferrule.json("audit", "prove", "2")
    other = await ferrule.json("audit", "prove", "3")
    for change in (
        {"hash": other["hash"]},
        {"record": other["record"]},
        {"path": other["path"]},
        {"path": true["path"][:-1]},
        {"path": ["zz"]},
        {"size": true["size"] + 1},
        {"root": "00" * 32},
        {"signed_by": "somebody"},
        {"head": "{}"},
        {"record": true["record"].replace('"seq":2', '"seq":1')},
        {"record": None},
    ):

        class Liar:
            def __init__(self, proof: dict[str, Any]) -> None:
                self.proof = proof

            def get(self, *_: str) -> dict[str, Any]:
                return self.proof

        with monkeypatch.context() as patch:
            patch.setattr(audit, "client", lambda proof={**true, **change}: Liar(proof))
            assert "does not hold" in await ferrule.run("audit", "prove", "2", code=1)


async def test_status_waits(ferrule: Ferrule, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(account, "WAIT_AT_ONCE", 0.2)
    actions = ferrule.plant.actions
    for edge in (ferrule.plant.edge_a, ferrule.plant.edge_b):
        actions.node_links(edge.leaf.identity.name, ["router-1"])
    found = await ferrule.json("status", "--wait", "5s")
    has(found, "plant controllers routers edges")
    assert found["plant"] == "mill"
    for kind in ("controllers", "routers", "edges"):
        has(found[kind][0], "name state since version")
        assert {one["state"] for one in found[kind]} == {"connected"}
    assert "router-1" in await ferrule.run("status")
    await actions.node_disconnected(ferrule.plant.edge_b.leaf, "gone")
    said = await ferrule.run("status", "--wait", "1s", code=1)
    assert "edge edge-b" in said
    waiting = asyncio.create_task(ferrule.run("status", "--wait", "20s"))
    await asyncio.sleep(0.3)
    await ferrule.plant.edge_b.connect()
    actions.node_links("edge-b", ["router-1"])
    assert "edge-b" in await waiting


async def test_following_the_audit_survives_a_restart_of_the_api(
    ferrule: Ferrule, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(audit, "RETRY", 0.1)
    actions = ferrule.plant.actions
    seen: list[int] = []

    class Enough(Exception):
        pass

    def line(record: dict[str, Any]) -> None:
        seen.append(record["seq"])
        if len(seen) == 5:
            raise Enough

    monkeypatch.setattr(output, "as_line", line)
    following = asyncio.create_task(
        asyncio.to_thread(run, ["audit", "tail", "--follow", "--limit", "2", "--json"])
    )
    await eventually(lambda: len(seen) == 2)
    await actions.add_zone(ADMIN, r.NewZone(name="one"))
    await eventually(lambda: len(seen) == 3)
    port = ferrule.api.port
    await ferrule.api.server.close()
    await ferrule.api.server.start("127.0.0.1", port)
    await actions.add_zone(ADMIN, r.NewZone(name="two"))
    await eventually(lambda: len(seen) == 4)
    await actions.add_zone(ADMIN, r.NewZone(name="three"))
    await following
    assert seen == list(range(seen[0], seen[0] + 5))
