"""Logins and the things of the plant: made, shown, changed, removed; names in any case; sessions that survive."""

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.plant import PASSWORD, Plant, listening, until
from deploy.demo.ports import free_port
from tests.support.records import search
from tests.support.traffic import reachable
from tests.support.words import sentence

pytestmark = pytest.mark.timeout(300)


def elsewhere(
    plant: Plant, home: Path, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `ferrule` as somebody with another home folder."""
    honest = dict(plant.environment)
    plant.environment |= {"FERRULE_HOME": str(home), **variables}
    try:
        return plant.call("ferrule", *words)
    finally:
        plant.environment.clear()
        plant.environment |= honest


def login(plant: Plant, *words: str, user: str = "ada", password: str = "") -> list[str]:
    """The words of a login to this plant."""
    ca = plant.path("controller/api-ca.pem")
    url = f"https://127.0.0.1:{plant.api_port}"
    file = password or plant.path("password")
    return ["login", url, "--user", user, "--password-file", file, "--ca", ca, *words]


# --- logins ------------------------------------------------------------------------------------------
def test_a_login_is_kept_for_its_owner_alone_and_ends_with_logout(plant: Plant, tmp_path: Path):
    assert elsewhere(plant, tmp_path, "status").returncode == 1
    made = elsewhere(plant, tmp_path, *login(plant, "--json"))
    assert made.returncode == 0
    assert "token" not in json.loads(made.stdout), "it stays in the file"
    (kept,) = tmp_path.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert PASSWORD not in kept.read_text()
    assert elsewhere(plant, tmp_path, "status").returncode == 0
    token = json.loads(kept.read_text())["token"]
    assert elsewhere(plant, tmp_path, "logout").returncode == 0
    result = elsewhere(plant, tmp_path, "status")
    assert result.returncode == 1
    assert "login" in sentence(result.stderr)
    url, ca = f"https://127.0.0.1:{plant.api_port}", plant.path("controller/api-ca.pem")
    used = elsewhere(plant, tmp_path, "status", FERRULE_URL=url, FERRULE_TOKEN=token, FERRULE_CA=ca)
    assert used.returncode == 1, "the token of a session that was ended"


def test_scripts_use_a_token_without_a_home(plant: Plant, tmp_path: Path):
    made = elsewhere(plant, tmp_path, *login(plant, "--print-token"))
    token = made.stdout.strip()
    assert made.returncode == 0
    assert list(tmp_path.iterdir()) == []
    url, ca = f"https://127.0.0.1:{plant.api_port}", plant.path("controller/api-ca.pem")
    used = elsewhere(plant, tmp_path, "status", FERRULE_URL=url, FERRULE_TOKEN=token, FERRULE_CA=ca)
    assert used.returncode == 0, used.stderr
    wrong = elsewhere(
        plant, tmp_path, "status", FERRULE_URL=url, FERRULE_TOKEN="x" * 43, FERRULE_CA=ca
    )
    assert wrong.returncode == 1
    sentence(wrong.stderr)


@pytest.mark.parametrize("user", ["ada", "nobody"])
def test_a_wrong_password_and_a_wrong_name_get_the_same_answer(
    plant: Plant, tmp_path: Path, user: str
):
    wrong = tmp_path / "wrong"
    wrong.write_text("open sesame\n")
    home = tmp_path / "home"
    result = elsewhere(plant, home, *login(plant, user=user, password=str(wrong)))
    assert result.returncode == 1
    said = sentence(result.stderr)
    assert user not in said
    assert "password" in said
    assert not home.exists()
    denied = [each for each in search(plant) if each["event"] == "user.login"]
    assert denied[-1]["outcome"] in ("denied", "failed")


def test_an_address_that_is_no_controller_and_a_foreign_certificate_are_said(
    plant: Plant, tmp_path: Path
):
    nobody = elsewhere(plant, tmp_path / "home", *[
        word.replace(str(plant.api_port), str(free_port())) for word in login(plant)
    ])  # fmt: skip
    assert nobody.returncode == 1
    assert "refused" in sentence(nobody.stderr).lower()
    words = login(plant)
    untrusted = elsewhere(plant, tmp_path / "home", *words[: words.index("--ca")])
    assert untrusted.returncode == 1
    assert "--ca" in sentence(untrusted.stderr)


def test_a_login_survives_a_restart_of_the_controller(plant: Plant):
    assert plant.terminate("controller") == 0
    plant.start_again("controller")
    plant.ferrule_when_up("status")


# --- things ------------------------------------------------------------------------------------------
def test_zones_are_made_shown_changed_and_removed(plant: Plant):
    made = plant.json("add", "zone", "Line-1", "--level", "2", "--sl", "3")
    assert (made["name"], made["level"], made["sl"]) == ("line-1", 2, 3)
    plant.ferrule("add", "zone", "cell-1", "--parent", "LINE-1")
    assert plant.json("show", "zone", "CELL-1")["parent"] == "line-1"
    assert plant.call("ferrule", "rm", "zone", "line-1").returncode == 1, "it has a child"
    assert plant.json("set", "zone", "cell-1", "level=1", "parent=")["parent"] is None
    assert plant.json("show", "zone", "cell-1")["level"] == 1
    for name in ("cell-1", "line-1"):
        assert plant.json("rm", "zone", name)["name"] == name
    assert plant.json("ls", "zone") == []


def test_a_token_file_is_for_its_owner_and_never_half_there(plant: Plant):
    path = Path(plant.path("edge-z.token"))
    made = plant.json("add", "edge", "edge-z", "--token-out", str(path))
    assert made["name"] == "edge-z"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_text()
    plant.ferrule("token", "edge", "edge-z", "--token-out", str(path))
    assert path.read_text() != first
    assert plant.json("show", "edge", "edge-z")["state"] == "waiting"
    plant.ferrule("rm", "edge", "edge-z")
    assert plant.call("ferrule", "show", "edge", "edge-z").returncode == 1


def test_an_asset_moves_to_another_address_and_connections_follow(
    calm: Plant, port: int, echo: Any
):
    calm.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")
    changed = calm.json(
        "set", "asset", "plc-b", "address=127.0.0.5", "mac=00:11:22:33:44:55", "tag=a", "tag=b"
    )
    assert changed["address"] == "127.0.0.5"
    assert changed["mac"] == "00:11:22:33:44:55"
    assert changed["tags"] == ["a", "b"]
    until(lambda: not reachable(port), 5, "the new address to count: nobody listens there")
    calm.ferrule("set", "asset", "plc-b", "address=127.0.0.1", "mac=", "tag=")
    until(lambda: reachable(port), 5, "the old address to count again")


def test_known_protocols_bring_their_port_and_others_need_one(plant: Plant, port: int):
    assert port
    for protocol, number in (
        ("modbus", 502),
        ("s7", 102),
        ("opcua", 4840),
        ("ssh", 22),
        ("https", 443),
    ):
        made = plant.json("add", "service", "plc-b", protocol)
        assert (made["name"], made["port"], made["transport"]) == (
            f"plc-b.{protocol}",
            number,
            "tcp",
        )
        plant.ferrule("rm", "service", made["name"])
    made = plant.json(
        "add", "service", "plc-b", "ranged", "--port", "9000-9010", "--transport", "udp"
    )
    assert (made["port"], made["port_end"], made["transport"]) == (9000, 9010, "udp")
    plant.ferrule("rm", "service", "plc-b.ranged")


def test_a_removed_listener_closes_and_a_service_in_use_cannot_be_removed(plant: Plant, port: int):
    extra = free_port()
    made = plant.json(
        "add", "listener", "edge-a", "plc-b.echo", "--listen", f"127.0.0.1:{extra}", "--as", "hmi-a"
    )
    until(lambda: listening(extra), 5, "the listener")
    refused = plant.call("ferrule", "rm", "service", "plc-b.echo")
    assert refused.returncode == 1
    assert "listener" in sentence(refused.stderr)
    plant.ferrule("rm", "listener", made["name"])
    until(lambda: not listening(extra), 5, "its end")


def test_a_listener_without_an_asset_counts_as_the_edge_itself(calm: Plant, port: int):
    own = free_port()
    made = calm.json("add", "listener", "edge-a", "plc-b.echo", "--listen", f"127.0.0.1:{own}")
    assert made["as"] is None
    until(lambda: listening(own), 5, "the listener")
    calm.ferrule("allow", "edge-a", "plc-b", "echo")
    until(lambda: reachable(own), 5, "a connection of the edge itself")
    assert not reachable(port), "hmi-a was not allowed"
    until(lambda: _allowed(calm) == ("edge-a", "edge-a"), 5, "the record of it")
    calm.ferrule("rm", "listener", made["name"])


def _allowed(plant: Plant) -> tuple[str, str] | None:
    """Who was allowed last, and by which edge."""
    found = search(plant, service="plc-b.echo", outcome="allowed")
    return (found[-1]["who"], found[-1]["via"]) if found else None


def _routers(plant: Plant) -> dict[str, str]:
    return {router["name"]: router["state"] for router in plant.json("status")["routers"]}


def test_a_new_router_carries_circuits_and_an_old_one_can_be_revoked(calm: Plant, port: int):
    name, router_port = "router-2", free_port()
    calm.router_ports[name] = router_port
    calm.ferrule("add", "router", name, "--address", f"127.0.0.1:{router_port}", "--token-out", calm.path(f"{name}.token"))  # fmt: skip
    calm.start_router(name)
    calm.connected()
    calm.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")
    until(lambda: len(calm.local("edge-a")["routers"]) == 2, 10, "links to both routers")
    calm.ferrule("revoke", "router", "router-1", "--reason", "replaced")
    wanted = {"router-1": "revoked", "router-2": "connected"}
    until(lambda: _routers(calm) == wanted, 10, "the revoked router, and the other one as before")
    until(lambda: reachable(port), 10, "a connection through the other router")
    assert calm.json("ls", "router")
    calm.connected()
