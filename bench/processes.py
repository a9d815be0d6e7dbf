"""What processes use: CPU time and resident memory of whole trees, from /proc.

CPU time is utime + stime of each process, which covers all its threads, ended ones too, plus cutime + cstime of the
children it has waited for. So the sum over a tree loses nothing when workers come and go.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
KERNEL_THREADS = 2


class Process(NamedTuple):
    """One line of /proc/PID/stat: seconds that it and the children it waited for have used."""

    pid: int
    parent: int
    cpu: float


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat; the name in it may hold blanks and brackets."""
    before, after = text.rsplit(")", 1)
    fields = after.split()
    return Process(
        int(before.split(" ", 1)[0]), int(fields[1]), sum(map(int, fields[11:15])) / TICKS
    )


def all_processes() -> dict[int, Process]:
    """Every process that there is now, by number."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                process = parse_stat(Path(f"/proc/{entry}/stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended just now
            found[process.pid] = process
    return found


def tree(processes: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """The roots that live, and all their descendants."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in processes]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def cpu(processes: Mapping[int, Process], pids: Iterable[int]) -> float:
    """CPU seconds that these have used so far."""
    return sum(processes[pid].cpu for pid in pids if pid in processes)


def strangers(processes: Mapping[int, Process], me: int) -> set[int]:
    """All that is neither `me`, nor a descendant or an ancestor of it, nor a thread of the kernel."""
    ours = tree(processes, [me])
    above = me
    while above in processes:
        above = processes[above].parent
        ours.add(above)
    return set(processes) - ours - tree(processes, [KERNEL_THREADS])


def resident(pids: Iterable[int]) -> int:
    """Resident bytes of all of them; what they share counts for each."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total * os.sysconf("SC_PAGE_SIZE")


def running_time(pids: Iterable[int]) -> float:
    """CPU seconds of the threads that live, to the nanosecond: for what uses less than a tick of the clock."""
    total = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9


def stolen() -> float:
    """CPU seconds that the machine below has taken from this virtual one so far, all cores together."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) / TICKS if len(fields) > 8 else 0.0
