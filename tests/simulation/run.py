"""The story of one seed: a plant begins, people work while faults strike, the faults stop, all goes on."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.enrolled import quiet
from tests.simulation.faults import Faults
from tests.simulation.once import once
from tests.simulation.plant import WholePlant, watched
from tests.simulation.policy import (
    ASSETS,
    EDGES,
    LISTENERS,
    PEOPLE,
    TELEMETRY,
    TELEMETRY_PORT,
)
from tests.simulation.striking import SEED_DRAWS, Aim
from tests.simulation.traffic import Telemetry
from tests.support.simulation import Deadlock, Host, Simulation

BEGIN = 30.0
"""Seconds within which a plant without faults has to be connected."""
AFTER = 150.0
"""Seconds within which everything has to go on after the faults."""
SETTLES = 1.0
"""Seconds after the last conversation within which its end is recorded."""
SIZES = (0, 1, 12, 260, 5_000, 60_000, 400_000, 2_000_000)
WEIGHTS = ((1, 2, 6, 6, 4, 3, 2, 1), (0, 1, 4, 1, 0, 0, 4, 4))
"""Of these sizes, in some seeds and in others."""
STAYING = 0.3
"""Share of the programs that keep their connection for a while when all is said."""
TROUBLE, BRIEFLY = (6.0, 20.0), (3.0, 6.0)
"""Seconds of faults, at least and at most."""


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
    crossed: Counter[int] = field(default_factory=Counter)
    """Circuits that brought something to a program, by the routers on their paths."""

    def __str__(self) -> str:
        if self.kind:
            return f"seed {self.seed}: {self.kind}: {self.wrong}"
        return (
            f"seed {self.seed}: {self.steps} steps, {self.seconds:.0f} s, "
            f"{self.well} of {self.conversations} conversations ended well"
        )


def run(seed: int, aim: Aim = SEED_DRAWS, *, brief: bool = False) -> Result:
    """One seed. `brief`: with fewer faults and less to say after them, so that many seeds take little time."""
    sim = Simulation(seed)
    plant = WholePlant(sim, aim.form)
    striking = Faults(plant, aim)

    def step(host: Host) -> None:
        plant.invariants.step(host)
        striking.step()

    async def story() -> None:
        telling = asyncio.ensure_future(_story(plant, striking, brief=brief))
        await asyncio.wait([telling, plant.broken], return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
        telling.cancel()

    sim.loop.on_step = step
    sim.loop.set_exception_handler(lambda _, context: _crashed(plant, context))
    with watched(lambda: plant), quiet(), once():
        try:
            sim.run(story())
        except Deadlock as deadlock:
            plant.violated("progress", str(deadlock))
    return Result(
        seed, plant.kind, plant.wrong, plant.trace, plant.invariants.steps, plant.end,
        sum(client.outcome == "well" for client in plant.clients), len(plant.clients),
        Counter(plant.crossed.values()),
    )  # fmt: skip


def _crashed(plant: WholePlant, context: dict[str, object]) -> None:
    plant.violated("no program fails", f"{context.get('message')}: {context.get('exception')!r}")


async def _story(plant: WholePlant, faults: Faults, *, brief: bool) -> None:
    rng = random.Random(plant.rng.random())
    plant.sim.net.short_reads = rng.random() < 0.3
    plant.sim.net.bandwidth = rng.choice((None, 125_000.0, 12_500_000.0))
    plant.sim.host(PEOPLE)
    plant.note("*", str(plant.shape))
    if plant.ageing:
        await asyncio.sleep(rng.uniform(0.0, 25.0))
    for name in ("controller", *plant.shape.routers, *ASSETS, *EDGES):
        plant.start(name)
    if not await _until(lambda: plant.connected and plant.mapped, BEGIN):
        plant.violated("progress", "a plant without faults did not begin")
        return
    plant.begun()
    telemetry = plant.datagrams = Telemetry(plant, random.Random(plant.rng.random()))
    people = plant.sim.host(PEOPLE)
    await people.task(telemetry.open(people.world.net, 5000, ("edge-a", TELEMETRY_PORT)))
    faults.start()
    end = plant.sim.loop.now + rng.uniform(*(BRIEFLY if brief else TROUBLE)) + faults.lasting
    weights = rng.choice(WEIGHTS)
    while plant.sim.loop.now < end:
        for _ in range(rng.choice((0, 1, 3))):
            telemetry.send()
        await asyncio.sleep(rng.expovariate(1.5))
        await asyncio.wait([asyncio.ensure_future(_talk(plant, rng, weights))], timeout=0.5)
    faults.stop()
    if brief:
        plant.hurry()
    await _afterwards(plant)
    plant.end = plant.sim.loop.now


async def _talk(plant: WholePlant, rng: random.Random, weights: tuple[int, ...]) -> None:
    via = rng.choice(sorted(LISTENERS))
    _, port = rng.choice(LISTENERS[via])
    up, down = rng.choices(SIZES, weights), rng.choices(SIZES, weights)
    stays = rng.expovariate(0.5) if rng.random() < STAYING else 0.0
    await plant.dial(via, port, up[0], down[0], stays)


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
            if not _allowed(plant, via, service):
                continue
            if not await _poll(plant, via, port):
                plant.violated("progress", f"no poll from {via} to {service} after the faults")
                return
    if _allowed(plant, "edge-a", TELEMETRY) and not await _echoed(plant):
        plant.violated("progress", "no datagram came back after the faults")
        return
    waiting = lambda: [client for client in plant.clients if not client.outcome]  # noqa: E731
    if not await _until(lambda: not waiting(), AFTER):
        stuck = ", ".join(f"{one} ({one.got} of {one.to_read})" for one in waiting())
        plant.violated("progress", f"neither goes on nor ends: {stuck}")
        return
    await _audit(plant)


def _allowed(plant: WholePlant, via: str, service: str) -> bool:
    """Both ends are there, and people have allowed it again."""
    return plant.works(via, service) and any(
        (c.via, c.service) == (via, service) for c in plant.actions.conduits.values()
    )


async def _echoed(plant: WholePlant) -> bool:
    """A program that sends again and again gets an answer."""
    plant.begun()
    telemetry = plant.datagrams
    assert telemetry is not None
    end = plant.sim.loop.now + AFTER
    while plant.sim.loop.now < end:
        number = telemetry.send()
        if await _until(lambda: number in telemetry.back, 2.0):  # noqa: B023
            return True
    return False


async def _poll(plant: WholePlant, via: str, port: int) -> bool:
    """A program that tries again and again comes through."""
    end = plant.sim.loop.now + AFTER
    while plant.sim.loop.now < end:
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
            name in plant.agents
            and (spool := plant.agents[name].recorder._spool) is not None
            and spool.acknowledged >= spool.last
            for name in (*plant.shape.routers, *(one.name for one in plant.members))
        )

    await asyncio.sleep(SETTLES)
    if not await _until(all_in, AFTER):
        plant.violated("audit", "events stay in their spools")
        return
    try:
        actions.check_log()
    except AssertionError as error:
        plant.violated("audit", f"numbers are missing or there twice: {error}")
        return
    if wrong := plant.ledger.wrong(plant):
        plant.violated("audit", wrong)
    for name, machine in plant.edges.items():
        forks = machine.agent.witnessing.witness.forks if machine.agent is not None else ()
        if forks and not actions.lost:
            plant.violated("audit", f"{name} saw a fork: {forks}")
