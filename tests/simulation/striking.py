"""When faults strike, and that each is mended."""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.plant import WholePlant

STEPS_BETWEEN = 500
"""On average."""


class Aim(NamedTuple):
    """Faults that are aimed at something, instead of those that a seed draws: these kinds, one in so many steps on average,
    in a plant of this form.
    """

    kinds: tuple[str, ...] = ()
    every: int = STEPS_BETWEEN
    form: str = ""


SEED_DRAWS = Aim()


class Striking:
    """What all kinds of faults share."""

    def __init__(self, plant: WholePlant, aim: Aim = SEED_DRAWS) -> None:
        self._plant = plant
        self._aim = aim
        self._rng = random.Random(plant.rng.random())
        self._mend: dict[int, Callable[[], object]] = {}
        self._count = 0
        self._down: set[str] = set()
        self._frozen: set[str] = set()

    def _gap(self) -> int:
        return 1 + int(self._rng.expovariate(1 / self._aim.every))

    def _for_a_while(self, seconds: float, mend: Callable[[], object]) -> None:
        self._count += 1
        number = self._count
        self._mend[number] = mend
        loop = self._plant.sim.loop

        def over() -> None:
            if number in self._mend:
                self._mend.pop(number)()

        self._plant.sim.net.physical(loop.now + self._rng.expovariate(1 / seconds), over)

    def _say(self, what: str) -> None:
        self._plant.note("! fault", what)
