"""What goes wrong in a plant, drawn from its seed: between any two steps, for a while."""

import random
from collections.abc import Callable

from overlay.errors import FerruleError
from overlay.fabric.authority import Kill
from tests.simulation.plant import ASSETS, EDGES, PEOPLE, ROUTERS, Conduit, WholePlant
from tests.support.pki import SECOND

MACHINES = ("controller", *ROUTERS, *EDGES, *ASSETS)
STEPS_BETWEEN = 500
"""On average."""
HOUR = 3600 * SECOND


class Faults:
    """Strikes between steps until `stop`, which mends everything."""

    def __init__(self, plant: WholePlant) -> None:
        self._plant = plant
        self._rng = random.Random(plant.rng.random())
        self._left = self._gap()
        self._mend: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._down: set[str] = set()
        self._frozen: set[str] = set()
        self._on = False
        self.kinds: tuple[Callable[[], None], ...] = (
            self.connection, self.freeze, self.crash, self.partition, self.cable, self.clock,
            self.disk, self.slow, self.policy, self.policy, self.switch,
        )  # fmt: skip

    def start(self) -> None:
        self._on = True

    def step(self) -> None:
        """One more callback has run somewhere."""
        if not self._on:
            return
        self._left -= 1
        if self._left <= 0:
            self._left = self._gap()
            self._rng.choice(self.kinds)()

    def stop(self) -> None:
        """No more; what was broken is whole again. What people decided stays, but for kills and switches."""
        self._on = False
        for number in list(self._mend):
            self._mend.pop(number)()
        plant = self._plant
        plant.calm = True
        plant.sim.net.keepalive()
        if plant.actions.kills:
            plant.actions.set_kills(())
        plant.note("*", "the faults stop")

    def _gap(self) -> int:
        return 1 + int(self._rng.expovariate(1 / STEPS_BETWEEN))

    def _for_a_while(self, seconds: float, mend: Callable[[], None]) -> None:
        self._count += 1
        number = self._count
        self._mend[number] = mend
        loop = self._plant.sim.loop

        def over() -> None:
            if number in self._mend:
                self._mend.pop(number)()

        self._plant.sim.net.physical(loop.time() + self._rng.expovariate(1 / seconds), over)

    def _say(self, what: str) -> None:
        self._plant.note("! fault", what)

    # --- kinds ----------------------------------------------------------------------------------------

    def connection(self) -> None:
        """Somebody in between resets a connection."""
        net = self._plant.sim.net
        if net.connections:
            one = self._rng.choice(net.connections)
            self._say(f"the connection between {one.host.name} and {one.other.host.name} is reset")
            net.reset(one)

    def freeze(self) -> None:
        """SIGSTOP."""
        name = self._rng.choice([*MACHINES, PEOPLE])
        if name in self._frozen | self._down:
            return
        self._say(f"{name} freezes")
        host = self._plant.sim.host(name)
        host.freeze()
        self._frozen.add(name)

        def thaw() -> None:
            self._frozen.discard(name)
            if host.frozen:
                self._plant.note(name, "goes on")
                self._plant.invariants.calm[name] = self._plant.sim.loop.time()
                host.thaw()

        self._for_a_while(2.0, thaw)

    def crash(self) -> None:
        """Power lost."""
        name = self._rng.choice(MACHINES)
        if name in self._down:
            return
        self._say(f"{name} dies")
        self._frozen.discard(name)
        self._down.add(name)
        self._plant.crash(name)

        def back() -> None:
            self._down.discard(name)
            self._plant.invariants.calm[name] = self._plant.sim.loop.time()
            self._plant.start(name)

        self._for_a_while(3.0, back)

    def partition(self) -> None:
        """A machine is cut off from all others, or can only hear, or only be heard."""
        name, how = self._rng.choice(MACHINES), self._rng.randrange(3)
        others = [one for one in (*MACHINES, PEOPLE) if one != name]
        self._say(f"{name} {('reaches nobody', 'is heard by nobody', 'hears nobody')[how]}")
        net = self._plant.sim.net
        for other in others:
            if how == 0:
                net.cut(name, other)
            elif how == 1:
                net.cut(name, other, one_way=True)
            else:
                net.cut(other, name, one_way=True)

        def whole() -> None:
            for other in others:
                net.heal(name, other)

        self._for_a_while(3.0, whole)

    def cable(self) -> None:
        """The way between two machines."""
        one, other = self._rng.sample(MACHINES, 2)
        one_way = self._rng.random() < 0.3
        self._say(
            f"{'from' if one_way else 'between'} {one} {'to' if one_way else 'and'} {other} nothing arrives"
        )
        net = self._plant.sim.net
        net.cut(one, other, one_way=one_way)
        self._for_a_while(4.0, lambda: net.heal(one, other))

    def clock(self) -> None:
        """A wall clock is set; plant time must not care."""
        name = self._rng.choice((*ROUTERS, *EDGES))
        step = self._rng.choice((-24, -1, 1, 24)) * HOUR
        self._say(f"the clock of {name} is set by {step // HOUR} h")
        self._plant.sim.host(name).world.clock.skew += step

    def disk(self) -> None:
        """No space left."""
        name = self._rng.choice((*ROUTERS, *EDGES))
        disk = self._plant.sim.host(name).world.disk
        self._say(f"the disk of {name} is full")
        disk.full = True

        def free() -> None:
            disk.full = False

        self._for_a_while(3.0, free)

    def slow(self) -> None:
        """Everything takes long."""
        net = self._plant.sim.net
        net.latency = self._rng.choice((0.02, 0.1, 0.4))
        self._say(f"each way takes {net.latency} s")

        def fast() -> None:
            net.latency = 0.000_5

        self._for_a_while(3.0, fast)

    def policy(self) -> None:
        """People decide: a kill, its end, a conduit less, one that ends soon."""
        plant, rng = self._plant, self._rng
        actions, now = plant.actions, plant.actions.now()
        what = rng.randrange(4)
        if what == 0:
            level, name = rng.choice(
                (
                    ("identity", "edge-a"),
                    ("identity", "plc-b"),
                    ("service", "plc-c.modbus"),
                    ("plant", ""),
                )
            )
            kill = Kill(rng.randbytes(16), level, name, "drill", now, 0)
            self._say(f"people kill {level} {name}")
            actions.set_kills((*actions.kills, kill))
            self._for_a_while(
                3.0, lambda: actions.set_kills(tuple(k for k in actions.kills if k != kill))
            )
            return
        if not actions.conduits:
            return
        old = actions.conduits[rng.choice(sorted(actions.conduits))]
        number = len(actions.withdrawn)
        if what == 1:
            self._say(f"people withdraw {old.name} ({old.via} to {old.service})")
            actions.withdraw(old.name)
            again = Conduit(f"{old.name.split('-')[0]}-{number}", old.via, old.service)
            self._for_a_while(3.0, lambda: actions.allow(again))
        elif what == 2 and not old.end:
            self._say(f"people let {old.name} ({old.via} to {old.service}) end in 3 s")
            actions.allow(old._replace(end=now + 3 * SECOND))
            again = Conduit(f"{old.name.split('-')[0]}+{self._count}", old.via, old.service)
            self._for_a_while(6.0, lambda: actions.allow(again))

    def switch(self) -> None:
        """Somebody pulls the switch at an edge."""
        machine = self._plant.edges[self._rng.choice(EDGES)]
        edge = machine.edge
        if edge is None or machine.name in self._frozen | self._down or edge.switch.pulled:
            return
        self._say(f"somebody pulls the switch of {machine.name}")
        plant = self._plant

        async def pull() -> None:
            try:
                await edge.pull("drill")
            except FerruleError as error:  # its disk is full
                plant.note(machine.name, f"the switch: {error}")

        machine.host.start(pull())

        def release() -> None:
            if machine.edge is not None and not machine.host.frozen:
                plant.release_switch(machine)

        self._for_a_while(3.0, release)
