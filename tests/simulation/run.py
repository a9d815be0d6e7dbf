"""The story of one seed: a plant begins, people work while faults strike, the faults stop, all goes on."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.faults import Faults
from tests.simulation.plant import ASSETS, EDGES, LISTENERS, ROUTERS, WholePlant, quiet, watched
from tests.support.simulation import Deadlock, Host, Simulation

BEGIN = 30.0
"""Seconds within which a plant without faults has to be connected."""
AFTER = 150.0
"""Seconds within which everything has to go on after the faults."""
SIZES = (0, 1, 12, 260, 5_000, 60_000, 400_000, 2_000_000)


@dataclass
class Result:
    """`kind` is the invariant that was broken, empty when all held; `wrong` says how."""

    seed: int
    kind: str = ""
    wrong: str = ""
    trace: list[str] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    """Virtual ones."""
    well: int = 0
    """Conversations that ended well."""
    conversations: int = 0

    def __str__(self) -> str:
        if self.kind:
            return f"seed {self.seed}: {self.kind}: {self.wrong}"
        return (
            f"seed {self.seed}: {self.steps} steps, {self.seconds:.0f} s, "
            f"{self.well} of {self.conversations} conversations ended well"
        )


def run(seed: int, faults: Callable[[WholePlant], Faults] = Faults) -> Result:
    """One seed."""
    sim = Simulation(seed)
    plant = WholePlant(sim)
    striking = faults(plant)

    def step(host: Host) -> None:
        plant.invariants.step(host)
        striking.step()

    async def story() -> None:
        telling = asyncio.ensure_future(_story(plant, striking))
        await asyncio.wait([telling, plant.broken], return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
        telling.cancel()

    sim.loop.on_step = step
    sim.loop.set_exception_handler(lambda _, context: _crashed(plant, context))
    with watched(lambda: plant), quiet():
        try:
            sim.run(story())
        except Deadlock as deadlock:
            plant.violated("progress", str(deadlock))
    return Result(
        seed, plant.kind, plant.wrong, plant.trace, plant.invariants.steps, plant.end,
        sum(client.outcome == "well" for client in plant.clients), len(plant.clients),
    )  # fmt: skip


def _crashed(plant: WholePlant, context: dict[str, object]) -> None:
    plant.violated("no program fails", f"{context.get('message')}: {context.get('exception')!r}")


async def _story(plant: WholePlant, faults: Faults) -> None:
    rng = random.Random(plant.rng.random())
    plant.sim.net.short_reads = rng.random() < 0.3
    plant.sim.net.bandwidth = rng.choice((None, 125_000.0, 12_500_000.0))
    plant.sim.host("hmi")
    for name in ("controller", *ROUTERS, *ASSETS, *EDGES):
        plant.start(name)
    if not await _until(lambda: plant.connected, BEGIN):
        plant.violated("progress", "a plant without faults did not begin")
        return
    faults.start()
    end = plant.sim.loop.time() + rng.uniform(6.0, 20.0)
    while plant.sim.loop.time() < end:
        await asyncio.sleep(rng.expovariate(1.5))
        await asyncio.wait([asyncio.ensure_future(_talk(plant, rng))], timeout=0.5)
    faults.stop()
    await _afterwards(plant)
    plant.end = plant.sim.loop.time()


async def _talk(plant: WholePlant, rng: random.Random) -> None:
    via = rng.choice(sorted(LISTENERS))
    _, port = rng.choice(LISTENERS[via])
    weights = (1, 2, 6, 6, 4, 3, 2, 1)
    up, down = rng.choices(SIZES, weights), rng.choices(SIZES, weights)
    await plant.dial(via, port, up[0], down[0])


async def _until(holds: Callable[[], bool], seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not holds():
        if loop.time() >= end:
            return False
        await asyncio.sleep(0.05)
    return True


async def _afterwards(plant: WholePlant) -> None:
    """Progress, and the whole audit."""
    if not await _until(lambda: plant.connected, AFTER):
        lost = [
            name for name, one in plant.edges.items() if not (one.agent and one.agent.connected)
        ]
        plant.violated(
            "progress", f"not connected {AFTER:.0f} s after the faults: {', '.join(lost)}"
        )
        return
    for machine in plant.edges.values():
        plant.release_switch(machine)
    for conduit in list(plant.actions.conduits.values()):
        if conduit.end:
            plant.actions.allow(conduit._replace(end=0, name=conduit.name + "."))
            del plant.actions.conduits[conduit.name]
    for via, services in LISTENERS.items():
        for service, port in services:
            if not any(
                (c.via, c.service) == (via, service) for c in plant.actions.conduits.values()
            ):
                continue  # nobody has allowed it again yet
            if not await _poll(plant, via, port):
                plant.violated("progress", f"no poll from {via} to {service} after the faults")
                return
    waiting = lambda: [client for client in plant.clients if not client.outcome]  # noqa: E731
    if not await _until(lambda: not waiting(), AFTER):
        stuck = ", ".join(f"{one} ({one.got} of {one.to_read})" for one in waiting())
        plant.violated("progress", f"neither goes on nor ends: {stuck}")
        return
    await _audit(plant)


async def _poll(plant: WholePlant, via: str, port: int) -> bool:
    """A program that tries again and again comes through."""
    end = plant.sim.loop.time() + AFTER
    while plant.sim.loop.time() < end:
        client = await plant.dial(via, port, 12, 12)
        if client is not None:
            await _until(client.is_over, AFTER)
            if client.outcome == "well":
                return True
        await asyncio.sleep(1.0)
    return False


async def _audit(plant: WholePlant) -> None:
    """Every event came in, each once; what opened is there; nobody saw a fork."""
    actions = plant.actions

    def all_in() -> bool:
        return all(
            machine.agent is not None
            and (spool := machine.agent.recorder._spool) is not None
            and spool.acknowledged >= spool.durable
            for machine in plant.edges.values()
        )

    await asyncio.sleep(3.0)
    if not await _until(all_in, AFTER):
        plant.violated("audit", "events stay in their spools")
        return
    try:
        actions.check_log()
    except AssertionError as error:
        plant.violated("audit", f"numbers are missing or there twice: {error}")
        return
    there = {event.circuit for name in EDGES for event in actions.events(name)}
    lasting = [circuit for name, circuit in plant.allowed if name not in plant.died]
    missing = [circuit for circuit in lasting if circuit not in there]
    if missing:
        plant.violated("audit", f"circuits that opened are not in the log: {missing}")
    for name, machine in plant.edges.items():
        forks = machine.agent.witnessing.witness.forks if machine.agent is not None else ()
        if forks:
            plant.violated("audit", f"{name} saw a fork: {forks}")
