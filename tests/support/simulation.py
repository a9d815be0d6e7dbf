"""A whole plant in one process: virtual time, seeded faults, hosts that crash, freeze and restart.

::

    sim = Simulation(seed=7)
    router, edge = sim.host("router"), sim.host("edge")

    async def story():
        router.start(program(router.world))     # anything that takes a `World`
        await asyncio.sleep(3600)               # an hour passes in no time
        sim.net.cut("router", "edge")           # the cable; later sim.net.heal("router", "edge")
        edge.crash()                            # power lost: what was not fsynced may be gone
        edge.start(program(edge.world))         # and back, on the same disk

    sim.run(story())

Nothing sleeps: when all wait, time jumps to the next timer; when nobody waits for a timer either, that is a deadlock and an
error. The same seed gives the same run, but for OpenSSL's own randomness in handshakes (ADR 0002).
"""

import asyncio
import contextlib
import contextvars
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from overlay.aio.tasks import cancel, spawn
from tests.support.simulated_disk import SimulatedDisk
from tests.support.simulated_network import HostNetwork, SimulatedNetwork

T = TypeVar("T")

EPOCH = 1_800_000_000_000_000
"""Wall clock at the beginning of every simulation, microseconds."""

_host: contextvars.ContextVar["Host | None"] = contextvars.ContextVar("host", default=None)


def current_host() -> "Host | None":
    """Whose callback runs."""
    return _host.get()


class Deadlock(Exception):
    """Everybody waits for somebody, and no timer will ever wake them."""


class _JumpingSelector(selectors.SelectSelector):
    """Knows the loop's own wake-up pipe only; instead of waiting it moves the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            waiting = sorted(repr(task.get_coro()) for task in asyncio.all_tasks(self.loop))
            raise Deadlock("nothing will ever happen again; waiting: " + "; ".join(waiting))
        self.now += max(timeout, 0.0)
        return []

    loop: asyncio.AbstractEventLoop


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time that runs callbacks of crashed hosts never and of frozen ones later."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._jumping.loop = self
        self._clock_resolution = 1e-9
        self.on_step: Callable[[Host], None] | None = None
        """Told after each callback that ran on a host: between any two awaits of a program."""
        self.set_task_factory(_host_task)

    def time(self) -> float:
        return self._jumping.now

    def call_soon(self, callback, *args, context=None):  # type: ignore[override]
        return super().call_soon(_guarded(self, callback, context), *args, context=context)

    def call_at(self, when, callback, *args, context=None):  # type: ignore[override]
        return super().call_at(when, _guarded(self, callback, context), *args, context=context)


def _host_task(loop, coroutine, context=None, **options):
    task = asyncio.Task(coroutine, loop=loop, context=context, **options)
    host = _host.get() if context is None else context.get(_host)
    if host is not None:
        host.tasks.append(task)
    return task


def _guarded(
    loop: SimulatedLoop, callback: Callable[..., Any], context: contextvars.Context | None
) -> Callable[..., Any]:
    host = _host.get() if context is None else context.get(_host)
    if host is None:
        return callback
    life = host.life

    def run(*args: Any) -> Any:
        if host.life != life:
            return None
        if host.frozen:
            host.held.append((callback, args, contextvars.copy_context()))
            return None
        result = callback(*args)
        if loop.on_step is not None:
            loop.on_step(host)
        return result

    return run


class SimulatedClock:
    """`Clock` of one host. `skew` shifts its wall clock, microseconds; set it to jump."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.skew = 0

    def boot(self) -> float:
        return 1000.0 + self._loop.time()

    def wall(self) -> int:
        return EPOCH + round(self._loop.time() * 1_000_000) + self.skew


class SimulatedEntropy:
    """`Entropy` from the seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def bytes(self, count: int) -> bytes:
        return self._rng.randbytes(count)

    def uniform(self) -> float:
        return self._rng.random()


class SimulatedEventLoop:
    """`EventLoop` of one host. All share the simulation's; calls posted to one arrive in order, and late."""

    def __init__(self, sim: "Simulation", host: "Host", rng: random.Random, delay: float) -> None:
        self._sim = sim
        self._host = host
        self._rng = rng
        self._delay = delay
        self._posted: deque[tuple[int, Callable[..., object], tuple[object, ...]]] = deque()
        self._due = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        if self.closed:
            return
        self._due = max(self._due, self._sim.loop.time() + self._delay * self._rng.random())
        self._posted.append((self._host.life, call, arguments))
        self._sim.loop.call_at(self._due, self._next, context=self._host.context())

    def _next(self) -> None:
        life, call, arguments = self._posted.popleft()
        if life == self._host.life and not self.closed:
            call(*arguments)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        begun = self._sim.loop.create_future()
        self.post(begun.set_result, None)
        await begun
        task = spawn(coroutine, "on another loop", awaited=True)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        result = await task
        await asyncio.sleep(2 * self._delay)  # what it posted meanwhile is before it
        return result

    async def close(self) -> None:
        self.closed = True
        await cancel(*self._tasks)


class SimulatedEventLoops:
    """`EventLoops` of one host."""

    DELAY = 0.000_2

    def __init__(self, sim: "Simulation", host: "Host", rng: random.Random) -> None:
        self._arguments = (sim, host, rng, self.DELAY)

    def here(self) -> SimulatedEventLoop:
        return SimulatedEventLoop(*self._arguments)

    def start(self, name: str) -> SimulatedEventLoop:
        return SimulatedEventLoop(*self._arguments)


class SimulatedWorld:
    """`World` of one host."""

    def __init__(self, sim: "Simulation", host: "Host", rng: random.Random) -> None:
        self.net = HostNetwork(sim.net, host)
        self.clock = SimulatedClock(sim.loop)
        self.entropy = SimulatedEntropy(random.Random(rng.random()))
        self.disk = SimulatedDisk(random.Random(rng.random()))
        self.loops = SimulatedEventLoops(sim, host, random.Random(rng.random()))


class Host:
    """One machine: its world, and what runs on it."""

    def __init__(self, sim: "Simulation", name: str, rng: random.Random) -> None:
        self.name = name
        self.life = 0
        self.frozen = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.held: list[tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]] = []
        self._sim = sim
        self.world = SimulatedWorld(sim, self, rng)

    def start(self, program: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on this host; all that it starts belongs to the host. It dies unseen when the host crashes."""
        task = self.task(program)
        del task

    def task(self, program: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """As `start`, for whoever wants to wait; the task of a host that crashes never ends."""
        return self.context().run(self._sim.loop.create_task, program)

    def context(self) -> contextvars.Context:
        """A context in which callbacks belong to this host."""
        context = contextvars.copy_context()
        context.run(_host.set, self)
        return context

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call something on this host in a turn of its own."""
        self._sim.loop.call_soon(callback, *args, context=self.context())

    def crash(self) -> None:
        """Everything on it stops in the middle, without cleaning up; its connections are reset, its disk is what it is."""
        self.life += 1
        self.frozen = False
        self.held.clear()
        self._sim.bury(self.tasks)
        self.tasks = []
        self._sim.net.crashed(self)
        self.world.disk.crash()

    def freeze(self) -> None:
        """SIGSTOP: nothing runs, but the kernel still takes what arrives."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        held, self.held = self.held, []
        for callback, args, context in held:
            self._sim.loop.call_soon(callback, *args, context=context)


class Simulation:
    """Hosts on one network under one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.loop = SimulatedLoop()
        self.net = SimulatedNetwork(self.loop, random.Random(self.rng.random()))
        self.hosts: dict[str, Host] = {}
        self._dead: list[asyncio.Task[Any]] = []

    def host(self, name: str) -> Host:
        """The host of this name, made when new. Its name is its address."""
        if name not in self.hosts:
            self.hosts[name] = Host(self, name, random.Random(self.rng.random()))
            self.net.hosts[name] = self.hosts[name]
        return self.hosts[name]

    def run(self, story: Coroutine[Any, Any, T]) -> T:
        """Run `story` (outside all hosts) to its end, then stop all hosts.

        Raises:
            Deadlock: it waits for ever.
        """
        asyncio.set_event_loop(self.loop)
        try:
            return self.loop.run_until_complete(story)
        finally:
            for host in self.hosts.values():
                host.crash()
            for task in asyncio.all_tasks(self.loop):
                self.bury([task])
            for (
                task
            ) in self._dead:  # their `finally` runs now, on a loop that does nothing any more
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
            self._dead.clear()
            asyncio.set_event_loop(None)
            self.loop.close()

    def bury(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Tasks that will never run again: kept, so that no `finally` of theirs runs while the others live."""
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._dead += [task for task in tasks if not task.done()]

    def facts(self) -> Mapping[str, float]:
        """What a failing test wants to know."""
        return {"time": self.loop.time(), "bytes": float(self.net.bytes)}
