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
import math
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from overlay.aio import tasks
from overlay.aio.tasks import cancel, spawn
from tests.support.simulated_disk import SimulatedDisk
from tests.support.simulated_network import HostNetwork, SimulatedNetwork

T = TypeVar("T")

EPOCH = 1_800_000_000_000_000
"""Wall clock at the beginning of every simulation, microseconds."""

ROUNDING = 1e-6
"""By how much a timer may be early, seconds."""

_host: contextvars.ContextVar["Host | None"] = contextvars.ContextVar("host", default=None)


def current_host() -> "Host | None":
    """Whose callback runs."""
    return _host.get()


class Deadlock(Exception):
    """Everybody waits for somebody, and no timer will ever wake them."""


def _up(seconds: float) -> float:
    """The next larger number."""
    return math.nextafter(seconds, math.inf)


class _JumpingSelector(selectors.SelectSelector):
    """Knows the loop's own wake-up pipe only; instead of waiting it moves the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            waiting = sorted(repr(task.get_coro()) for task in asyncio.all_tasks(self.loop))
            raise Deadlock("nothing will ever happen again; waiting: " + "; ".join(waiting))
        if (
            timeout > 0
        ):  # never rounded down: a timer that rang too early would be set again and again
            self.now = _up(self.now + timeout)
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
        """As the host whose callback runs sees it: its clock stands still while it sleeps."""
        host = _host.get()
        return self._jumping.now if host is None else self._jumping.now - host.slept

    @property
    def now(self) -> float:
        """True seconds since the beginning."""
        return self._jumping.now

    def call_soon(self, callback, *args, context=None):  # type: ignore[override]
        host = _host.get() if context is None else context.get(_host)
        if host is None:
            return super().call_soon(callback, *args, context=context)
        turn = _Turn(self, host, callback)
        turn.handle = asyncio.Handle(turn, args, self, context)
        # As the loop does, without what it asks besides.
        self._ready.append(turn.handle)  # type: ignore[attr-defined]
        return turn.handle

    def call_at(self, when, callback, *args, context=None):  # type: ignore[override]
        caller = _host.get()
        true = when
        if caller is not None and caller.slept:
            true = _up(_up(when + caller.slept))
        return self.call_truly_at(true, callback, *args, context=context)

    def call_truly_at(self, when, callback, *args, context=None):
        """`call_at` by true time."""
        host = _host.get() if context is None else context.get(_host)
        if host is None:
            return super().call_at(when, callback, *args, context=context)
        turn = _Turn(self, host, callback)
        turn.due = when - host.slept
        turn.handle = super().call_at(when, turn, *args, context=context)
        return turn.handle


def _host_task(loop, coroutine, context=None, **options):
    task = asyncio.Task(coroutine, loop=loop, context=context, **options)
    host = _host.get() if context is None else context.get(_host)
    if host is not None:
        host.tasks.append(task)
    return task


class _Turn:
    """A callback of a host: later while that is frozen, never when it has crashed or somebody cancelled it."""

    __slots__ = ("_callback", "_host", "_life", "_loop", "due", "handle")

    def __init__(self, loop: SimulatedLoop, host: "Host", callback: Callable[..., Any]) -> None:
        self._loop = loop
        self._host = host
        self._callback = callback
        self._life = host.life
        self.due: float | None = None
        """When its timer ends, by the clock of the host."""
        self.handle: asyncio.Handle | None = None

    def __call__(self, *args: Any) -> Any:
        host = self._host
        if host.life != self._life:
            _never_asked(args)
            return None
        if host.frozen:
            host.held.append((self, args, contextvars.copy_context()))
            return None
        if self.due is not None and self._loop.now + ROUNDING < self.due + host.slept:
            self.again(args, contextvars.copy_context())  # the host slept meanwhile
            return None
        handle, self.handle = self.handle, None
        if handle is not None and handle.cancelled():  # after it was held or put off
            return None
        result = self._callback(*args)
        if self._loop.on_step is not None:
            self._loop.on_step(host)
        return result

    def again(self, args: tuple[Any, ...], context: contextvars.Context) -> None:
        """Now that the host runs: at once, or when the rest of its time is over."""
        loop = self._loop
        due = 0.0 if self.due is None else self.due + self._host.slept
        if due > loop.now:
            asyncio.SelectorEventLoop.call_at(loop, due, self, *args, context=context)
        else:
            asyncio.SelectorEventLoop.call_soon(loop, self, *args, context=context)


def _never_asked(args: tuple[Any, ...]) -> None:
    """Who would have asked a future for its failure died before it woke up: that is no failure that nobody sees."""
    for one in args:
        if isinstance(one, asyncio.Future) and one.done() and not one.cancelled():
            one.exception()


class SimulatedClock:
    """`Clock` of one host. `skew` shifts its wall clock, microseconds; set it to jump."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.skew = 0
        self.busy = 0.0
        """Share of a core that its programs seem to use."""

    def boot(self) -> float:
        return 1000.0 + self._loop.now

    def wall(self) -> int:
        return EPOCH + round(self._loop.now * 1_000_000) + self.skew

    def cpu(self) -> float:
        return self.busy * self._loop.now


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
        self._due = max(self._due, self._sim.loop.now + self._delay * self._rng.random())
        self._posted.append((self._host.life, call, arguments))
        self._sim.loop.call_truly_at(self._due, self._next, context=self._host.context())

    def _next(self) -> None:
        life, call, arguments = self._posted.popleft()
        if life == self._host.life and not self.closed:
            call(*arguments)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        begun = asyncio.Event()
        self.post(begun.set)
        try:
            await begun.wait()
        except BaseException:  # cancelled before it began, or the simulation is over
            coroutine.close()
            raise
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
        self.slept = 0.0
        """Seconds in all by which its loop's clock (CLOCK_MONOTONIC, which stands still meanwhile) is behind."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.held: list[tuple[_Turn, tuple[Any, ...], contextvars.Context]] = []
        self._asleep: float | None = None
        self._sim = sim
        self._turns = self.context()
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
        self._sim.loop.call_soon(callback, *args, context=self._turns)

    def crash(self) -> None:
        """Everything on it stops in the middle, without cleaning up; its connections are reset, its disk is what it is."""
        self.life += 1
        self.frozen, self._asleep = False, None
        for _, args, _ in self.held:
            _never_asked(args)
        self.held.clear()
        self._sim.bury(self.tasks)
        self.tasks = []
        self._sim.net.crashed(self)
        self.world.disk.crash()

    def freeze(self) -> None:
        """SIGSTOP: nothing runs, but the kernel still takes what arrives."""
        self.frozen = True

    def sleep(self) -> None:
        """Suspend: nothing runs, the clock of its loop stands still (the others go on), no cable is plugged in."""
        self.freeze()
        self._asleep = self._sim.loop.now
        self._sim.net.asleep.add(self.name)

    def thaw(self) -> None:
        """SIGCONT, or it wakes."""
        self.frozen = False
        if self._asleep is not None:
            self.slept += self._sim.loop.now - self._asleep
            self._asleep = None
            self._sim.net.woke(self)
        held, self.held = self.held, []
        for turn, args, context in held:
            turn.again(args, context)


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
            tasks._running.difference_update(self._dead)  # which would keep all that they know
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
        return {"time": self.loop.now, "bytes": float(self.net.bytes)}
