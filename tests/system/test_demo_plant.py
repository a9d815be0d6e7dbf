"""`make demo-plant` as people run it: it holds, it cleans up whatever ends it, and it says what it lacks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.plant import until
from tests.support.needs import need_program, need_root

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "deploy.demo.two_plants"]


def left(pid: int) -> list[str]:
    """Namespaces of a demo that are still there."""
    return [one.name for one in Path("/run/netns").glob(f"frp{pid}-*")]


def test_the_story_holds_and_nothing_is_left():
    need_root()
    need_program("ip", "iproute2")
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True, cwd=ROOT) as demo:
        said, _ = demo.communicate(timeout=350)
        assert demo.returncode == 0, said
    assert "Every step held" in said
    assert "✗" not in said
    assert said.count("✓") >= 20
    assert left(demo.pid) == []


def test_ctrl_c_ends_all_of_it(tmp_path: Path):
    need_root()
    told = tmp_path / "told"
    with told.open("w") as out:
        demo = subprocess.Popen(COMMAND, stdout=out, stderr=out, cwd=ROOT, start_new_session=True)
    until(lambda: "Say what is there" in told.read_text(), 60, "the story to begin")
    assert left(demo.pid)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    assert demo.wait(60) == 1
    assert "it was interrupted" in told.read_text()
    assert left(demo.pid) == []
    until(lambda: not runs(demo.pid), 5, "the last of its processes to be gone")


def runs(group: int) -> bool:
    """Whether there is still a process of this group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_root_it_says_so():
    drop = [need_program("setpriv", "util-linux"), "--reuid=65534", "--clear-groups"]
    need_root()
    done = subprocess.run([*drop, *COMMAND], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "sudo make demo-plant" in done.stderr
