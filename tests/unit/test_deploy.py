"""The systemd units start our commands, with the sandbox that deploy/README.md promises."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.needs import need_program, need_root

ROOT = Path(__file__).parents[2]
DROP_INS = ROOT / "deploy/systemd/ferrule-edge.service.d"
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))

HARDENED = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "StateDirectoryMode": "0700",
    "UMask": "0077",
    "LimitCORE": "0",
    "Restart": "always",
}

KEYS = {
    "controller": {"dir", "api", "log-format"},
    "router": {"dir", "listen", "metrics", "workers", "log-format"},
    "edge": {"dir", "proxy", "records", "lanes", "circuit-memory", "metrics", "log-format"},
}


def settings(unit: Path) -> dict[str, str]:
    lines = [line for line in unit.read_text().splitlines() if re.match(r"\w+=", line)]
    return dict(line.split("=", maxsplit=1) for line in lines)


def test_each_program_has_a_unit():
    assert {unit.stem for unit in UNITS} == {f"ferrule-{name}" for name in KEYS}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_our_command_in_its_sandbox(unit: Path):
    found = settings(unit)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    command, verb, option, config = found["ExecStart"].split()
    assert Path(command).name == unit.stem
    assert unit.stem in scripts
    assert (verb, option) == ("run", "--config")
    assert (ROOT / "deploy/examples" / Path(config).name).is_file()
    assert found["User"] == found["StateDirectory"] == unit.stem
    assert f" {unit.stem} " in (ROOT / "deploy/systemd/ferrule.sysusers").read_text()
    assert {key: found.get(key) for key in HARDENED} == HARDENED


def exposed(unit: Path, threshold: int) -> str:
    """What systemd finds too much of; drop-ins count that lie beside the unit. Empty: nothing."""
    run = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr if run.returncode else ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_little_exposure(unit: Path, tmp_path: Path):
    assert exposed(Path(shutil.copy(unit, tmp_path)), 20) == ""


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path):
    """Drop-ins, too. Its program is none of this machine."""
    drop_ins = unit.with_name(f"{unit.name}.d")
    if drop_ins.is_dir():
        shutil.copytree(drop_ins, tmp_path / drop_ins.name)
    text = re.sub(r"(?m)^ExecStart=/opt/\S+", "ExecStart=/bin/true", unit.read_text())
    (tmp_path / unit.name).write_text(text)
    run = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit.name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not [
        line for line in run.stderr.splitlines() if str(tmp_path) in line or unit.name in line
    ]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_an_edge_that_intercepts_is_exposed_a_little_more():
    unit = ROOT / "deploy/systemd/ferrule-edge.service"
    assert exposed(unit, 22) == ""
    given = settings(DROP_INS / "intercept.conf")
    assert given["AmbientCapabilities"] == given["CapabilityBoundingSet"]
    assert given["AmbientCapabilities"].split() == ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"]


def test_the_service_may_write_resolv_conf_and_only_while_it_runs(tmp_path: Path):
    """The commands of the drop-in, with a file and a user that are there."""
    need_root()
    need_program("setfacl", "acl")
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    path.chmod(0o644)

    def do(key: str) -> str:
        flags, command = re.fullmatch(
            r"([-+]+)(/.*)", settings(DROP_INS / "resolv-conf.conf")[key]
        ).groups()  # type: ignore[union-attr]
        assert set(flags) == set("-+"), "as root, and a host without it is served all the same"
        *words, file = command.replace("ferrule-edge", "65534").split()
        assert file == "/etc/resolv.conf"
        subprocess.run([*words, str(path)], check=True)
        show = ["getfacl", "--omit-header", "--numeric", "--absolute-names", str(path)]
        return subprocess.run(show, check=True, capture_output=True, text=True).stdout

    assert settings(DROP_INS / "resolv-conf.conf")["ReadWritePaths"] == "-/etc/resolv.conf"
    before = subprocess.run(["stat", "-c", "%U %G", path], check=True, capture_output=True).stdout
    assert "user:65534:rw-" in do("ExecStartPre")
    assert "65534" not in do("ExecStopPost")
    assert (
        subprocess.run(["stat", "-c", "%U %G", path], check=True, capture_output=True).stdout
        == before
    )


@pytest.mark.parametrize("program", sorted(KEYS))
def test_an_example_shows_every_key_and_no_other(program: str):
    text = (ROOT / f"deploy/examples/{program}.toml").read_text()
    shown = set(re.findall(r"^(?:# )?([a-z-]+) = ", text, re.MULTILINE))
    assert shown == KEYS[program]
    loaded = tomllib.loads(text)
    assert set(loaded) <= KEYS[program]
    assert loaded["dir"] == f"/var/lib/ferrule-{program}"
