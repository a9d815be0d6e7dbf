"""Split DNS with the real systemd-resolved and polkit, on a bus of their own; nothing of this machine is touched.

Installing the daemon would change how this machine resolves names, so its packages are only unpacked where it is not there.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.namespace import command_in, namespace
from tests.support.needs import missing, need_program, need_root

pytestmark = pytest.mark.timeout(120)
PACKAGES = ("systemd-resolved", "systemd", "libsystemd-shared")


def daemon(folder: Path) -> Path:
    """Where the daemon's files are."""
    if Path("/lib/systemd/systemd-resolved").exists():
        return Path("/")
    apt, dpkg, root = shutil.which("apt-get"), shutil.which("dpkg"), folder / "root"
    if apt and dpkg:
        subprocess.run([apt, "download", *PACKAGES], cwd=folder, capture_output=True, check=False)
        for package in folder.glob("*.deb"):
            subprocess.run([dpkg, "-x", str(package), str(root)], check=True)
    if not (root / "lib/systemd/systemd-resolved").exists():
        missing(f"This test needs the Debian packages {', '.join(PACKAGES)}, there or to download.")
    return root


def test_names_of_assets_go_to_the_edge_and_all_others_where_they_went_before(tmp_path: Path):
    need_root()
    need_program("dbus-daemon", "dbus-daemon")
    need_program("dig", "bind9-dnsutils")
    unshare = need_program("unshare", "util-linux")
    need_program("pkcheck", "polkitd")
    root = daemon(tmp_path)
    folder = tmp_path / "box"
    folder.mkdir()
    module = [sys.executable, "-m", "tests.support.resolved_box", str(root), str(folder)]
    with namespace("resolved") as name:
        done = subprocess.run(
            command_in(name, unshare, "--mount", "--propagation", "private", *module),
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for why in ("without a rule", "something else", "somebody else"):
        assert re.search("uthentication required|denied", found[why]), f"{why}: {found[why]!r}"
    assert "CAP_NET_ADMIN" not in found["without a rule"]
    assert "deploy/polkit/ferrule-edge.rules" in found["without a rule"]
    assert found == found | {
        "before": "192.0.2.9",
        "mode": "resolved",
        "left without": [],
        "servers": ["100.64.0.1", "fd00:1::1"],
        "during": ["100.64.0.16", "fd00:1::10", "192.0.2.9"],
        "elsewhere": ["www.example.com."],
        "left": [],
        "after": ["192.0.2.9", "192.0.2.9"],
        "resolv.conf": "nameserver 127.0.0.9\n",
        "device": False,
    }
    assert found["ours"] > 0
