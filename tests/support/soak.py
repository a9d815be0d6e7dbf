"""Circuits that come and go through three real nodes in one process, and what is left of them.

`python -m tests.support.soak [COUNT]` (`make soak`) does it at length; `tests/integration/test_leaks.py` does it in small.
"""

import asyncio
import gc
import os
import sys
import time
from collections import Counter
from typing import NamedTuple

import pytest
import uvloop

from overlay.aio.circuit_roles import Refused
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS
from tests.support.honest import DATAGRAM_SERVICE, until
from tests.support.whole import WholePlant

WARM = 2_500
"""Circuits after which all that is bounded by number has reached its bound (1,024 ended circuits, number windows)."""
AT_ONCE = 25


class Left(NamedTuple):
    """What a process holds, with no circuit open. `ours` counts objects by their class."""

    tasks: int
    timers: int
    descriptors: int
    blocks: int
    resident: int
    ours: Counter[str]
    tables: dict[str, int]


def look(plant: WholePlant) -> Left:
    """Now."""
    for _ in range(3):
        gc.collect()
    ours: Counter[str] = Counter()
    for one in gc.get_objects():
        module = str(type(one).__module__)
        if module.partition(".")[0] in ("overlay", "edge", "router"):
            ours[f"{module}.{type(one).__qualname__}"] += 1
    timers = getattr(asyncio.get_running_loop(), "_scheduled", ())
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Left(
        tasks=len(asyncio.all_tasks()),
        timers=sum(not timer.cancelled() for timer in timers),
        descriptors=len(os.listdir("/proc/self/fd")),
        blocks=sys.getallocatedblocks(),
        resident=resident,
        ours=ours,
        tables=plant.tables(),
    )


async def one(plant: WholePlant, number: int) -> None:
    """A circuit, in one of the ways in which circuits come and go."""
    way = number % 10
    if way == 7:
        await refused(plant)
    elif way == 8:
        await flow(plant)
    elif way == 9:
        await library(plant)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", plant.listen)
        writer.write(b"twelve bytes")
        assert await reader.readexactly(12) == b"twelve bytes"
        if way == 5:
            writer.transport.abort()
        elif way == 6:
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        else:
            writer.close()


async def refused(plant: WholePlant) -> None:
    """The hosting edge has nothing at this port."""
    with pytest.raises(Refused) as caught:
        await plant.a.dial(port=plant.asset.port + 3)
    assert caught.value.code is Code.UNREACHABLE


async def flow(plant: WholePlant) -> None:
    """Datagrams to nobody in particular."""
    stream = await plant.a.dial(DATAGRAM_SERVICE, transport=DATAGRAMS)
    stream.send_datagram(b"anybody?")
    await asyncio.sleep(0)
    stream.abort(Code.IDLE, "no datagram for a while")


async def library(plant: WholePlant) -> None:
    """As a program that uses the endpoint itself."""
    stream = await plant.a.dial()
    await stream.write(b"twelve bytes")
    assert await stream.read() == b"twelve bytes"
    stream.end()
    assert await stream.read() == b""


async def rounds(plant: WholePlant, first: int, count: int) -> None:
    """`count` circuits, `AT_ONCE` at a time; returns when nobody knows of any."""
    numbers = iter(range(first, first + count))
    failures = 0

    async def worker() -> None:
        nonlocal failures
        for number in numbers:
            try:
                await one(plant, number)
            except (Refused, OSError, EOFError, TimeoutError, AssertionError) as error:
                # A machine that stands still for 3 s loses its links; whatever was open must be gone all the same.
                failures += 1
                if failures > max(4 * AT_ONCE, count // 20):
                    raise RuntimeError(f"too many circuits fail: {error!r}") from error
                await asyncio.sleep(0.2)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    await until(lambda: not any(plant.tables().values()) and plant.asset.open == 0, 20)
    await asyncio.sleep(0.3)  # timers of closed sockets and of the last checkpoints


class Verdict(NamedTuple):
    """Two looks, and how many circuits came and went between them."""

    before: Left
    after: Left
    circuits: int

    def growth(self) -> list[str]:
        """What grew, in words; nothing when nothing leaks."""
        before, after = self.before, self.after
        found = [
            f"{name}: {getattr(before, name)} -> {getattr(after, name)}"
            for name in ("tasks", "timers", "descriptors")
            if getattr(after, name) > getattr(before, name) + 3
        ]
        found += [
            f"{name}: {before.ours[name]} -> {count}"
            for name, count in after.ours.items()
            if count > before.ours[name] + max(30, self.circuits // 100)
        ]
        grown = after.blocks - before.blocks
        if grown > max(3_000, self.circuits // 20):
            found.append(f"allocated blocks: {grown / self.circuits:.2f} more per circuit")
        found += [f"{name}: {count}" for name, count in after.tables.items() if count]
        return found


def tell(done: int, rate: float, left: Left) -> None:
    """A line of progress."""
    print(
        f"{done:7} circuits, {rate:.0f}/s: tasks {left.tasks}, timers {left.timers}, "
        f"descriptors {left.descriptors}, blocks {left.blocks}, "
        f"objects {left.ours.total()}, resident {left.resident / 1e6:.1f} MB",
        flush=True,
    )


async def soak(circuits: int, *, warm: int = WARM, say: bool = False) -> Verdict:
    """Warm up, look, let so many circuits come and go, and look again."""
    async with WholePlant() as plant:
        before = None
        done = 0
        for goal in (warm, warm + circuits):
            before = look(plant) if done else None
            while done < goal:
                began = time.perf_counter()
                some = min(5_000, goal - done)
                await rounds(plant, done, some)
                done += some
                if say:
                    tell(done, some / (time.perf_counter() - began), look(plant))
        assert before is not None
        return Verdict(before, look(plant), circuits)


def main() -> None:
    """As a program."""
    circuits = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        warm = min(20_000, max(WARM, circuits // 5))
        verdict = runner.run(soak(circuits - warm, warm=warm, say=True))
    before, after = verdict.before, verdict.after
    print(f"resident: {before.resident / 1e6:.1f} MB before, {after.resident / 1e6:.1f} MB after")
    growth = verdict.growth()
    print("\n".join(growth) or "nothing has leaked")
    sys.exit(bool(growth))


if __name__ == "__main__":
    main()
