"""What the documents tell people to type does what they say, word for word."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from deploy.demo.plant import COMMANDS
from tests.support.needs import missing, need_program, need_root

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/operations.md", "deploy/README.md")
FENCE = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"(?:\S*/)?(ferrule(?:-controller|-router|-edge)?)")


def blocks(page: str) -> list[str]:
    """The shell examples of a page."""
    return FENCE.findall((ROOT / page).read_text())


def by_hand() -> str:
    """The README's block that builds a plant."""
    (block,) = [block for block in blocks("README.md") if "ferrule-controller init" in block]
    return block


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a fresh checkout with its virtual environment, where files may be made."""
    fresh = subprocess.run(
        ["make", "-q", ".venv/.ready"], cwd=ROOT, check=False, capture_output=True
    )
    if fresh.returncode:
        missing("This test needs an up-to-date .venv: run `make venv`.")
    for name in ("Makefile", ".venv", "requirements", "pyproject.toml", "deploy"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def in_own_network(script: str, folder: Path, seconds: float = 240) -> str:
    """Run a bash script in a network namespace of its own, so that its fixed ports are free; what it printed.

    Every process that it leaves behind ends with it.
    """
    need_root()
    unshare = need_program("unshare", "util-linux")
    ip = need_program("ip", "iproute2")
    path = folder / "script.sh"
    path.write_text(f"set -emuo pipefail\n{ip} link set lo up\n{script}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("FERRULE_HOME", None)
    run = subprocess.run(
        [unshare, "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", str(path)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


POLL = """
import sys, time
from deploy.demo.devices import REGISTERS, Hmi
hmi = Hmi(1502)
for attempt in range(100):
    if hmi.poll().registers == REGISTERS:
        print("the poll works")
        break
    time.sleep(0.1)
hmi.close()
"""


def test_the_readmes_plant_by_hand_works_word_for_word(checkout: Path):
    ends = re.findall(
        r"`(kill %1[^`]*)`.*?`(rm -r plant)`", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert len(ends) == 1
    kill, forget = ends[0]
    looks = re.findall(
        r"`(ferrule (?:sessions|why [^`]*|audit tail))`", (ROOT / "README.md").read_text()
    )
    assert len(looks) == 3
    (checkout / "poll.py").write_text(POLL)
    block = by_hand()
    assert "plant" not in os.listdir(checkout)
    said = in_own_network(
        f"""
{ROOT}/.venv/bin/python -m deploy.demo.devices 5020 & disown
cat > block.sh <<'END'
{block}
END
cat > rest.sh <<'END'
python poll.py
{chr(10).join(looks)}
{kill}
wait
{forget}
echo all gone
END
cat block.sh rest.sh > whole.sh
sed -i '1i set -emuo pipefail' whole.sh
bash whole.sh
""",
        checkout,
    )
    assert "the poll works" in said
    assert said.rstrip().endswith("all gone")
    assert "Traceback" not in said
    assert not (checkout / "plant").exists()


def test_the_example_configurations_run_a_plant(checkout: Path):
    script = """
. .venv/bin/activate
export FERRULE_HOME=$PWD/home
printf 'correct horse battery staple 42\\n' > password
ferrule-controller init --dir controller --plant mill --admin ada --admin-password-file password
ferrule-controller run --config deploy/examples/controller.toml --dir controller 2> controller.log &
for attempt in $(seq 50); do
  ferrule login https://127.0.0.1:8440 --user ada --password-file password --ca controller/api-ca.pem && break
  sleep 0.2
done
ferrule add router router-1 --address 127.0.0.1:8441 --token-out router-1.token
ferrule-router run --config deploy/examples/router.toml --dir router-1 --token router-1.token 2> router-1.log &
ferrule add edge edge-a --token-out edge-a.token
ferrule-edge run --config deploy/examples/edge.toml --dir edge-a --token edge-a.token 2> edge-a.log &
ferrule status --wait 30s
python - <<'END'
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:9464/metrics").read().decode()[:2000])
END
kill %1 %2 %3
wait %1 %2 %3
python - <<'END'
import json
for name in ("controller", "router-1", "edge-a"):
    lines = open(f"{name}.log").read().splitlines()
    assert lines and all(isinstance(json.loads(line), dict) for line in lines), name
print("logs are JSON")
END
"""
    said = in_own_network(script, checkout)
    assert "ferrule_" in said
    assert "logs are JSON" in said


@pytest.mark.parametrize("program", ["controller", "router", "edge"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('colour = "red"\n', "colour"),
        ("dir = 7\n", "dir"),
        ("dir = [\n", "config.toml"),
        ('dir = "state"\nlisten = "127.0.0.1:1"\nlog-format = "xml"\n', "log-format"),
    ],
)
def test_a_wrong_configuration_is_wrong_usage_and_names_the_key(
    tmp_path: Path, program: str, text: str, named: str
):
    config = tmp_path / "config.toml"
    if program != "router":
        text = text.replace('listen = "127.0.0.1:1"\n', "")
    config.write_text(text)
    run = _run(f"ferrule-{program}", "run", "--config", str(config), cwd=tmp_path)
    assert run.returncode == 2
    assert named in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("program", ["controller", "router", "edge"])
def test_a_configuration_that_is_not_there_is_wrong_usage_and_named(tmp_path: Path, program: str):
    missing_file = _run(f"ferrule-{program}", "run", "--config", "none.toml", cwd=tmp_path)
    assert missing_file.returncode == 2
    assert "none.toml" in missing_file.stderr


def documented() -> list[tuple[str, str]]:
    """(page, command) for each command of ours in the shell examples, programs that keep running aside."""
    found = []
    for page in PAGES:
        if not (ROOT / page).exists():
            continue
        for line in "".join(blocks(page)).replace("\\\n", " ").splitlines():
            match = re.match(rf"\s*(?:sudo -u \S+ )?({PROGRAM.pattern}\s.*)", line)
            if match and not re.search(r"ferrule-\w+ run", line):
                found.append((page, match[1].strip().removesuffix("&").strip()))
    return found


@pytest.mark.parametrize(("page", "command"), documented(), ids=lambda value: str(value)[:60])
def test_a_documented_command_is_one_that_the_program_understands(
    tmp_path: Path, page: str, command: str
):
    """Without a plant it fails with 1, because nobody is logged in or the folder is not there: never as misused."""
    program, *words = shlex.split(command.replace("/var/lib/", f"{tmp_path}/"), comments=True)
    run = _run(Path(program).name, *words, cwd=tmp_path)
    files = any(word in run.stderr for word in ("cannot read", "cannot write", "does not exist"))
    assert run.returncode == 1 or (run.returncode == 2 and files), f"{page}: {run.stderr}"
    assert "Traceback" not in run.stderr


def _run(program: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FERRULE_HOME": str(cwd / "home")}
    return subprocess.run(
        [COMMANDS / program, *words],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
