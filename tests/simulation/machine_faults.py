"""What happens to machines: frozen, asleep, without power, told to stop, clocks, disks."""

from tests.simulation.policy import EDGES, PEOPLE, Backup
from tests.simulation.striking import Striking
from tests.support.pki import SECOND

LOOKS_EVERY = 1.0
"""Seconds between two looks of an edge at what has ended while it slept."""
WRITES_AGAIN = 3.0
"""Seconds after which all is written that waited for a full disk."""
HOUR = 3600 * SECOND


class MachineFaults(Striking):
    """Of any machine, but that of people, whose programs must know in the end what they did."""

    _backup: Backup | None = None

    def freeze(self) -> None:
        """SIGSTOP."""
        name = self._rng.choice([*self._plant.machines, PEOPLE])
        if self._stands(name):
            self._say(f"{name} freezes")
            self._plant.sim.host(name).freeze()
            self._thaw_later(name, "goes on", 0.0)

    def sleep(self) -> None:
        """Suspended: its cables are dead, and the clock of its loops stands still."""
        name = self._rng.choice((*self._plant.shape.routers, *EDGES))
        if self._stands(name):
            self._say(f"{name} sleeps")
            self._plant.sim.host(name).sleep()
            self._thaw_later(name, "wakes", LOOKS_EVERY)

    def _stands(self, name: str) -> bool:
        return name not in self._frozen | self._down

    def _thaw_later(self, name: str, what: str, seconds: float) -> None:
        host = self._plant.sim.host(name)
        self._frozen.add(name)

        def thaw() -> None:
            self._frozen.discard(name)
            if host.frozen:
                self._plant.note(name, what)
                self._plant.invariants.calm[name] = self._plant.sim.loop.now + seconds
                host.thaw()

        self._for_a_while(2.0, thaw)

    def crash(self) -> None:
        """Power lost."""
        self._lose_power(self._rng.choice(self._plant.machines))

    def router(self) -> None:
        """Power lost at a router that others dial, or that dials others: what passes it needs another way, or waits."""
        self._lose_power(self._rng.choice(self._plant.shape.routers))

    def _lose_power(self, name: str) -> None:
        if name in self._down:
            return
        self._say(f"{name} dies")
        self._frozen.discard(name)
        self._down.add(name)
        self._plant.crash(name)

        def back() -> None:
            self._down.discard(name)
            self._plant.invariants.calm[name] = self._plant.sim.loop.now
            self._plant.start(name)

        self._for_a_while(3.0, back)

    def restart(self) -> None:
        """The controller is started again, and has its store as it was."""
        if self._stands("controller"):
            self._say("the controller is started again")
            self._plant.crash("controller")
            self._plant.start("controller")

    def backup(self) -> None:
        """People back the controller up, or put it back to their last backup where nothing was decided since, as operations.md
        says: nodes refuse older decisions, and say that the log is not the one that they saw.
        """
        actions, backup = self._plant.actions, self._backup
        if backup is None or backup.decisions != actions.decisions:
            self._say("people back up the controller")
            self._backup = actions.back_up()
        elif self._stands("controller") and len(actions.leaves) > backup.records:
            lost = len(actions.leaves) - backup.records
            self._say(f"people restore the controller, with {lost} records less")
            self._plant.crash("controller")
            actions.restore(backup)
            self._plant.start("controller")

    def stop_one(self) -> None:
        """SIGTERM, and it is started again."""
        name = self._rng.choice((*self._plant.shape.routers, *EDGES))
        if self._stands(name):
            self._say(f"{name} is told to stop")
            self._down.add(name)
            self._plant.stop(name)

            def again() -> None:
                self._down.discard(name)
                self._plant.start_again(name)

            self._for_a_while(2.0, again)

    def absence(self) -> None:
        """The controller is dead until the faults stop."""
        if "controller" not in self._down:
            self._say("the controller dies for long")
            self._down.add("controller")
            self._plant.crash("controller")

            def back() -> None:
                self._down.discard("controller")
                self._plant.start("controller")

            self._count += 1
            self._mend[self._count] = back

    def clock(self) -> None:
        """A wall clock is set; plant time must not care."""
        name = self._rng.choice((*self._plant.shape.routers, *EDGES))
        step = self._rng.choice((-24, -1, 1, 24)) * HOUR
        self._say(f"the clock of {name} is set by {step // HOUR} h")
        self._plant.sim.host(name).world.clock.skew += step

    def disk(self) -> None:
        """No space left."""
        name = self._rng.choice((*self._plant.shape.routers, *EDGES))
        disk = self._plant.sim.host(name).world.disk
        self._say(f"the disk of {name} is full")
        disk.full = True

        behind, loop = self._plant.behind, self._plant.sim.loop
        behind[name] = float("inf")

        def free() -> None:
            disk.full = False
            behind[name] = loop.now + WRITES_AGAIN

        self._for_a_while(3.0, free)
