"""What machine this is, and whether it is quiet."""

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]


class Machine(msgspec.Struct, frozen=True):
    """The machine of a run. `identity` tells machines apart and says nothing else."""

    identity: str
    cpu: str
    cores: int
    memory_gb: int
    kernel: str
    system: str
    python: str
    governor: str
    virtual: bool
    aes: bool


class Version(msgspec.Struct, frozen=True):
    """Which sources were measured; `changed` when they differ from the commit."""

    commit: str
    changed: bool


def read(path: str, otherwise: str = "") -> str:
    """A small file's text, or something else where it is not."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return otherwise


def this_machine() -> Machine:
    """Looked up in /proc, /sys and /etc."""
    cpuinfo = {}
    for line in read("/proc/cpuinfo").split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        cpuinfo[key.strip()] = value.strip()
    flags = cpuinfo.get("flags", cpuinfo.get("Features", "")).split()
    memory = next(
        (int(line.split()[1]) for line in read("/proc/meminfo").splitlines() if "MemTotal" in line),
        0,
    )
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return Machine(
        identity=hashlib.sha256(read("/etc/machine-id").encode()).hexdigest()[:12],
        cpu=cpuinfo.get("model name", platform.machine()),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(memory / 2**20),
        kernel=platform.release(),
        system=release.get("PRETTY_NAME", platform.system()),
        python=platform.python_version(),
        governor=read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "not shown"),
        virtual="hypervisor" in flags,
        aes="aes" in flags,
    )


def this_version() -> Version:
    """The commit that is checked out, where git knows one."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], check=False, capture_output=True, text=True
            )
        except FileNotFoundError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return Version(git("rev-parse", "--short=12", "HEAD") or "unknown", bool(git("status", "-s")))


def load_average() -> tuple[float, float, float]:
    """The system's load over 1, 5 and 15 minutes."""
    return os.getloadavg()
