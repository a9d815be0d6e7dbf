"""Every command of the contract: its help, its JSON keys, its exit codes, and what it says when asked wrongly."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.demo.plant import Plant, until
from tests.support.records import TIME
from tests.support.seen import lone_session
from tests.support.traffic import Echo, assert_refused_at_once, reachable
from tests.support.words import sentence

pytestmark = pytest.mark.timeout(300)

COMMANDS = [
    "ferrule", "ferrule login", "ferrule logout", "ferrule add", "ferrule add zone",
    "ferrule add router", "ferrule add edge", "ferrule add asset", "ferrule add service",
    "ferrule add listener", "ferrule token", "ferrule ls", "ferrule show", "ferrule set",
    "ferrule rm", "ferrule allow", "ferrule deny", "ferrule why", "ferrule revoke",
    "ferrule kill", "ferrule kill session", "ferrule kill identity", "ferrule kill service",
    "ferrule kill zone", "ferrule kill plant", "ferrule restore", "ferrule restore identity",
    "ferrule restore service", "ferrule restore zone", "ferrule restore plant",
    "ferrule sessions", "ferrule audit", "ferrule audit tail", "ferrule audit prove",
    "ferrule audit search", "ferrule audit verify", "ferrule audit export", "ferrule status",
    "ferrule-controller", "ferrule-controller init", "ferrule-controller run",
    "ferrule-router", "ferrule-router run", "ferrule-edge", "ferrule-edge run",
    "ferrule-edge status", "ferrule-edge kill", "ferrule-edge restore",
]  # fmt: skip

LATER = [
    "request hmi-a plc-b echo --for 1h --reason x", "approve 1", "refuse 1 --reason x",
    "apply plant.toml", "export", "doctor",
    "evidence --out evidence", "add user bob --role admin --password-file x",
    "ls user", "ls request",
    "allow hmi-a plc-b echo --read-only", "allow hmi-a plc-b echo --approvals 2",
    "allow hmi-a plc-b echo --schedule nights",
]  # fmt: skip

KINDS = ("zone", "router", "edge", "asset", "service", "listener", "conduit", "kill")


@pytest.fixture(scope="module")
def helps(plant: Plant) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each command's --help says; asked for by several at a time, because starting takes the time."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda words: plant.call(*words.split(), "--help"), COMMANDS)
        return dict(zip(COMMANDS, found, strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_of_the_command(
    helps: dict[str, subprocess.CompletedProcess[str]], command: str
):
    result = helps[command]
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "xample" in result.stdout
    assert re.search(rf"^\s+(Example: )?{re.escape(command)}\b", result.stdout, re.MULTILINE), (
        "no example"
    )


@pytest.mark.parametrize(
    "program", ["ferrule", "ferrule-controller", "ferrule-router", "ferrule-edge"]
)
def test_a_word_that_is_no_command_is_wrong_usage(plant: Plant, program: str):
    result = plant.call(program, "nonsense")
    assert result.returncode == 2
    assert "nonsense" in sentence(result.stderr)
    assert result.stdout == ""


@pytest.mark.parametrize("words", LATER)
def test_what_this_build_does_not_do_is_refused_and_says_so(asked: "Asked", words: str):
    result = asked.results[words]
    assert result.returncode == 2
    sentence(result.stderr)
    assert result.stdout == ""


WRONG = [
    # what is typed, exit code, what the sentence names
    ("add zone bad-", 2, "bad-"),
    ("add zone under_score", 2, "under_score"),
    (f"add zone {'x' * 64}", 2, "63"),
    ("add zone cell-1", 1, "cell-1"),
    ("add zone CELL-1", 1, "cell-1"),
    ("add zone edge-a", 1, "edge-a"),
    ("add zone deep --level 6", 2, "level"),
    ("add zone deep --level low", 2, "low"),
    ("add zone deep --sl 0", 2, "sl"),
    ("add zone deep --parent nowhere", 1, "nowhere"),
    ("add zone deep --colour red", 2, "--colour"),
    ("add zone", 2, "NAME"),
    ("add router r9 --address nowhere --token-out {tmp}/t", 2, "nowhere"),
    ("add router r9 --address 127.0.0.1:99999 --token-out {tmp}/t", 2, "99999"),
    ("add router r9 --token-out {tmp}/t", 2, "--address"),
    ("add router r9 --address 127.0.0.1:7000 --dials r8 --token-out {tmp}/t", 1, "r8"),
    ("add edge e9 --token-out {tmp}/missing/folder/t", 2, "missing/folder"),
    ("add edge e9 --zone nowhere --token-out {tmp}/t", 1, "nowhere"),
    ("add edge edge-a --token-out {tmp}/t", 1, "edge-a"),
    ("add edge e9", 2, "--token-out"),
    ("token edge nobody --token-out {tmp}/t", 1, "nobody"),
    ("token robot edge-a --token-out {tmp}/t", 2, "robot"),
    ("add asset a9 --edge nobody", 1, "nobody"),
    ("add asset a9", 2, "--edge"),
    ("add asset a9 --edge edge-b:first", 2, "first"),
    ("add asset a9 --edge edge-b --address plc.example", 2, "plc.example"),
    ("add asset a9 --edge edge-b --mac 12", 2, "12"),
    ("add service nobody modbus", 1, "nobody"),
    ("add service plc-b unheard-of", 2, "--port"),
    ("add service plc-b other --port 0", 2, "0"),
    ("add service plc-b other --port 90-80", 2, "90-80"),
    ("add service plc-b other --port 70000", 2, "70000"),
    ("add service plc-b other --port 80 --transport sctp", 2, "sctp"),
    ("add service plc-b echo --port 80", 1, "plc-b.echo"),
    ("add listener edge-a plc-b.nothing --listen 127.0.0.1:1", 1, "plc-b.nothing"),
    ("add listener nobody plc-b.echo --listen 127.0.0.1:1", 1, "nobody"),
    ("add listener edge-a plc-b.echo --listen somewhere", 2, "somewhere"),
    ("add listener edge-a plc-b.echo --listen 127.0.0.1:1 --as plc-b", 1, "plc-b"),
    ("add listener edge-a plc-b.echo --listen 127.0.0.1:{port}", 1, "{port}"),
    ("ls planet", 2, "planet"),
    ("show edge nobody", 1, "nobody"),
    ("set edge nobody zone=cell-1", 1, "nobody"),
    ("set edge edge-a colour=red", 2, "colour"),
    ("set edge edge-a zone", 2, "KEY=VALUE"),
    ("set zone cell-1 level=9", 2, "9"),
    ("set asset plc-b address=nowhere", 2, "nowhere"),
    ("rm zone nowhere", 1, "nowhere"),
    ("rm asset plc-b", 1, "plc-b.echo"),
    ("rm service plc-b.echo", 1, "listener"),
    ("rm edge edge-b", 1, "plc-b"),
    ("allow nobody plc-b echo", 2, "nobody"),
    ("allow hmi-a nobody echo", 2, "nobody"),
    ("allow hmi-a plc-b echo --for soon", 2, "soon"),
    ("allow hmi-a plc-b echo --for 0s", 2, "0s"),
    ("allow hmi-a plc-b echo --for 2h --until 18:00", 2, "--until"),
    ("allow hmi-a plc-b echo --until yesterday", 2, "yesterday"),
    ("allow hmi-a plc-b echo --until 2001-01-01T00:00:00Z", 2, "2001"),
    ("allow hmi-a plc-b echo --away sometimes", 2, "sometimes"),
    ("allow hmi-a plc-b echo --max-session long", 2, "long"),
    ("allow hmi-a talks to plc-b", 2, "over"),
    ("allow hmi-a", 2, "WHO"),
    ("allow", 2, "WHO"),
    ("deny no-such-conduit", 1, "no-such-conduit"),
    ("deny hmi-a plc-b echo", 1, "hmi-a"),
    ("why hmi-a plc-b", 2, "PROTOCOL"),
    ("revoke edge nobody --reason x", 1, "nobody"),
    ("revoke edge edge-a", 2, "--reason"),
    ("revoke planet earth --reason x", 2, "planet"),
    ("kill session no-such-session", 1, "no-such-session"),
    ("kill identity nobody", 1, "nobody"),
    ("kill service plc-b.nothing", 1, "plc-b.nothing"),
    ("kill zone nowhere", 1, "nowhere"),
    ("kill identity hmi-a --for ever", 2, "ever"),
    ("kill plant", 2, "--yes"),
    ("kill planet", 2, "planet"),
    ("restore identity hmi-a", 1, "hmi-a"),
    ("restore plant", 1, "plant"),
    ("audit prove 999999999", 1, "999999999"),
    ("audit prove first", 2, "first"),
    ("audit search --outcome great", 2, "great"),
    ("audit search --since nowhen", 2, "nowhen"),
    ("audit search --limit 0", 2, "limit"),
    ("audit verify --file {tmp}/none", 2, "none"),
    ("audit export {tmp}/missing/folder/export", 2, "missing/folder"),
    ("status --wait long", 2, "long"),
    ("sessions --follow --history", 2, "--history"),
    ("login http://127.0.0.1:1 --user ada --password-file {tmp}/none", 2, "https"),
    ("login https://127.0.0.1:1 --user ada --password-file {tmp}/none", 2, "none"),
    ("login {url} --user ada --password-file {tmp}/none --ca {tmp}/none", 2, "none"),
]  # fmt: skip


class Asked(NamedTuple):
    """Answers to all that was asked wrongly, and the plant's objects before and after."""

    results: dict[str, subprocess.CompletedProcess[str]]
    places: dict[str, object]
    before: dict[str, object]
    after: dict[str, object]


@pytest.fixture(scope="module")
def asked(plant: Plant, port: int, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Ask everything wrong once, several at a time: each command starts a process."""
    places = {
        "tmp": tmp_path_factory.mktemp("wrong"),
        "port": port,
        "url": f"https://127.0.0.1:{plant.api_port}",
    }
    plant.ferrule("add", "zone", "cell-1", "--level", "1")
    before = _state(plant)
    all_words = [*LATER, *(words for words, *_ in WRONG)]

    def ask(words: str) -> subprocess.CompletedProcess[str]:
        return plant.call("ferrule", *[word.format(**places) for word in words.split()])

    with ThreadPoolExecutor(4) as pool:
        results = dict(zip(all_words, pool.map(ask, all_words), strict=True))
    return Asked(results, places, before, _state(plant))


def _state(plant: Plant) -> dict[str, object]:
    return {kind: plant.json("ls", kind) for kind in KINDS}


@pytest.mark.parametrize(("words", "code", "named"), WRONG, ids=[words for words, *_ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(asked: Asked, words: str, code: int, named: str):
    result = asked.results[words]
    said = sentence(result.stderr)
    assert result.returncode == code, said
    assert named.format(**asked.places).lower() in said.lower()
    assert result.stdout == ""


def test_nothing_of_all_that_changed_anything(asked: Asked):
    assert asked.after == asked.before
    tmp = asked.places["tmp"]
    assert isinstance(tmp, Path)
    assert list(tmp.iterdir()) == [], "a file was left behind"


STATUS_KEYS = {"name", "state", "since", "version"}
SESSION_KEYS = {
    "id", "who", "via", "asset", "service", "address", "path", "conduit", "started", "ended",
    "end_reason", "bytes_in", "bytes_out", "key_exchange", "integrity",
}  # fmt: skip
RECORD_KEYS = {
    "seq", "time", "event", "outcome", "who", "via", "asset", "service", "address", "conduit",
    "reason", "node", "count", "hash",
}  # fmt: skip
KILL_KEYS = {"id", "level", "name", "reason", "by", "since", "until"}


def test_status_has_its_keys(plant: Plant):
    status = plant.json("status")
    assert set(status) >= {"plant", "controllers", "routers", "edges"}
    assert status["plant"] == "mill"
    for kind, count in (("controllers", 1), ("routers", 1), ("edges", 2)):
        assert [set(node) >= STATUS_KEYS for node in status[kind]] == [True] * count
        for node in status[kind]:
            assert node["state"] == "connected"
            assert TIME.fullmatch(node["since"])
            assert re.match(r"\d+\.\d+", node["version"])


def test_status_waits_no_longer_than_it_was_told(plant: Plant):
    plant.terminate("edge-a")
    until(lambda: _edge_a(plant) != "connected", 5, "the controller to hear of it")
    result = plant.call("ferrule", "status", "--wait", "1s", "--json")
    assert result.returncode == 1
    assert "edge-a" in sentence(result.stderr)
    plant.start_again("edge-a")
    plant.connected()


def _edge_a(plant: Plant) -> str:
    (state,) = [edge["state"] for edge in plant.json("status")["edges"] if edge["name"] == "edge-a"]
    return str(state)


def test_an_edge_says_how_it_is_without_a_controller(plant: Plant):
    until(lambda: plant.local("edge-a")["state"] == "connected", 10, "edge-a to be connected")
    local = plant.local("edge-a")
    assert set(local) >= {"name", "state", "routers", "kill"}
    assert (local["name"], local["state"], local["kill"]) == ("edge-a", "connected", None)
    assert [
        router if isinstance(router, str) else router["name"] for router in local["routers"]
    ] == ["router-1"]
    plant.run("ferrule-edge", "kill", "--dir", plant.path("edge-a"), "--reason", "test")
    killed = plant.local("edge-a")["kill"]
    assert killed["reason"] == "test"
    assert TIME.fullmatch(killed["since"])
    plant.run("ferrule-edge", "restore", "--dir", plant.path("edge-a"))
    assert plant.local("edge-a")["kill"] is None


def test_sessions_records_kills_and_reasons_have_their_keys(calm: Plant, port: int, echo: Echo):
    why = calm.json("why", "hmi-a", "plc-b", "echo")
    assert set(why) >= {"allowed", "conduit", "checks"}
    dry = calm.json("allow", "hmi-a", "plc-b", "echo", "--dry-run")
    assert set(dry) >= {"opens", "closes", "cuts"}
    assert len(dry["opens"]) == 1
    assert calm.json("ls", "conduit") == [], "a dry run changes nothing"
    conduit = calm.json("allow", "hmi-a", "plc-b", "echo", "--for", "1h", "--reason", "keys")
    assert isinstance(conduit["id"], str)
    until(lambda: reachable(port), 5, "an allowed connection")
    with lone_session(calm, port, echo) as (_, listed):
        (session,) = calm.json("sessions")
        assert session["id"] == listed["id"]
        assert set(session) >= SESSION_KEYS
        assert isinstance(session["id"], str)
        assert calm.json("show", "session", session["id"])["id"] == session["id"]
        kill = calm.json("kill", "service", "plc-b.echo", "--reason", "keys", "--for", "1h")
    assert set(kill) >= KILL_KEYS
    assert calm.json("ls", "kill") == [kill]
    assert isinstance(kill["id"], str)
    for record in calm.json("audit", "tail"):
        assert set(record) >= RECORD_KEYS
        assert record["outcome"] in ("allowed", "denied", "done", "failed")
        assert TIME.fullmatch(record["time"])


def test_a_dry_run_tells_what_would_open_and_what_would_be_cut(calm: Plant, port: int):
    assert calm.json("allow", "hmi-a", "plc-b", "echo", "--for", "1h", "--dry-run")["cuts"] == []
    text = calm.ferrule("allow", "hmi-a", "plc-b", "echo", "--dry-run")
    assert "dry run" in text
    until(lambda: not reachable(port), 5, "the end of what an earlier test has allowed")
    assert_refused_at_once(port)


SENTENCES = [
    "hmi-a to plc-b over echo for 2h",
    "hmi-a > plc-b.echo > 2h",
    "hmi-a plc-b echo",
    "hmi-a to plc-b over echo until 2099-01-01T00:00:00Z",
    "hmi-a to plc-b over echo until friday 18:00",
]


@pytest.mark.parametrize("words", SENTENCES)
@pytest.mark.parametrize("quoted", [False, True], ids=["words", "one argument"])
def test_the_sentence_forms_make_the_same_conduit(calm: Plant, words: str, quoted: bool):
    if quoted and words == "hmi-a plc-b echo":
        words = "hmi-a to plc-b over echo"
    conduit = calm.json("allow", *([words] if quoted else words.split()))
    assert (conduit["who"], conduit["to"], conduit["protocol"]) == ("hmi-a", "plc-b", "echo")
    assert (conduit["until"] is None) == ("2h" not in words and "until" not in words)
    assert calm.json("show", "conduit", conduit["id"])["id"] == conduit["id"]
    calm.ferrule("deny", "hmi-a", "plc-b", "echo")


def test_why_answers_about_names_that_nobody_has(plant: Plant):
    answer = plant.json("why", "nobody", "plc-b", "echo")
    assert answer["allowed"] is False
    assert any("nobody" in check["text"] for check in answer["checks"] if not check["ok"])


def test_allowing_without_an_end_says_so(calm: Plant):
    assert "no end" in calm.ferrule("allow", "hmi-a", "plc-b", "echo")
