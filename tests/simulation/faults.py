"""What goes wrong in a plant, drawn from its seed: between any two steps, for a while."""

from collections.abc import Callable

from tests.simulation.machine_faults import MachineFaults
from tests.simulation.people_faults import PeopleFaults
from tests.simulation.plant import WholePlant
from tests.simulation.striking import SEED_DRAWS, Aim
from tests.simulation.wire_faults import WireFaults

SHARE = 0.5
"""Of the kinds that a seed has."""
ABSENT = 0.15
"""Share of the seeds whose controller is dead throughout."""


class Faults(MachineFaults, WireFaults, PeopleFaults):
    """Strikes between steps until `stop`, which mends everything."""

    def __init__(self, plant: WholePlant, aim: Aim = SEED_DRAWS) -> None:
        super().__init__(plant, aim)
        self._left = self._gap()
        self._on = False
        kinds = (
            self.connection, self.freeze, self.sleep, self.crash, self.stop_one, self.partition, self.cable,
            self.address, self.clock, self.disk, self.store, self.slow, self.queue, self.kill, self.kill_zone, self.kill_session, self.withdraw,
            self.ending, self.revoke, self.switch, self.drain, self.restart, self.router,
        )  # fmt: skip
        self.lasting = 6.0 if self._rng.random() < ABSENT else 0.0
        """Seconds more, since the controller is dead until the faults stop: grants must end meanwhile."""
        some = [kind for kind in kinds if self._rng.random() < SHARE]
        if aim.kinds:
            some, self.lasting = [getattr(self, name) for name in aim.kinds], 0.0
        self.kinds: tuple[Callable[[], None], ...] = tuple(some or kinds)
        """Of each seed only some, so that more of a kind meets (D. Groce and others, "Swarm testing", 2012)."""

    def start(self) -> None:
        self._on = True
        if self.lasting:
            self.absence()

    def step(self) -> None:
        """One more callback has run somewhere."""
        if not self._on:
            return
        self._left -= 1
        if self._left <= 0:
            self._left = self._gap()
            self._rng.choice(self.kinds)()

    def stop(self) -> None:
        """No more; what was broken is whole again. What people decided stays, but for kills, drains and switches."""
        self._on = False
        for number in list(self._mend):
            self._mend.pop(number)()
        plant = self._plant
        plant.calm = True
        plant.sim.net.keepalive()
        if plant.actions.kills:
            plant.actions.set_kills(())
        plant.note("*", "the faults stop")
