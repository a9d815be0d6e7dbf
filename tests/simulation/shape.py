"""How the routers of a plant are connected, and who reaches which of them: drawn from its seed.

Edges often stand behind firewalls that let them out to one router only, so that a circuit crosses one router, two or three.
"""

import itertools
import random
from typing import NamedTuple

from tests.simulation.policy import EDGES, ROUTERS

FORMS = ("apart", "chain", "chain", "ring", "mesh", "star")
"""As drawn; `apart` are two that do not know each other, with everybody at both."""
SECOND_ROUTER = 0.25
"""Share of the edges that reach another router besides."""
ONE_FOR_CONTROLLER = 0.3
"""Share of the plants whose controller reaches one router only, once they have begun."""


class Shape(NamedTuple):
    """`dials` has every router, with those that it dials; `reaches` every edge, and the controller where it is kept from
    some of them.
    """

    form: str
    dials: dict[str, tuple[str, ...]]
    reaches: dict[str, tuple[str, ...]]

    @property
    def routers(self) -> tuple[str, ...]:
        """By name."""
        return tuple(self.dials)

    def ways(self) -> list[tuple[str, str]]:
        """Pairs of which the first dials the other, or reaches it."""
        pairs = [*self.dials.items(), *self.reaches.items()]
        pairs += [("controller", self.routers)] if "controller" not in self.reaches else []
        return [(name, router) for name, routers in pairs for router in routers]

    def __str__(self) -> str:
        told = (f"{name} at {' and '.join(routers)}" for name, routers in self.reaches.items())
        return f"{len(self.routers)} routers, {self.form}; {', '.join(told)}"


def drawn(rng: random.Random, form: str = "") -> Shape:
    """One, of this form where one is given."""
    form = form or rng.choice(FORMS)
    if form == "apart":
        both = ROUTERS[:2]
        return Shape(form, dict.fromkeys(both, ()), dict.fromkeys(EDGES, both))
    count = {"star": 4, "ring": 4, "mesh": 3}.get(form) or rng.choice((2, 3))
    routers: tuple[str, ...] = ROUTERS[:count]
    dials: dict[str, tuple[str, ...]] = dict.fromkeys(routers, ())
    for one, other in _links(form, routers):
        dialing, dialed = (one, other) if rng.random() < 0.5 else (other, one)
        dials[dialing] = (*dials[dialing], dialed)
    # The ends of a chain, and of a ring those that face each other, are far apart.
    far = routers[-1] if form in {"chain", "mesh"} else routers[2]
    places = (routers[1] if form == "star" else routers[0], far, rng.choice(routers))
    reaches: dict[str, tuple[str, ...]] = {}
    for name, place in zip(EDGES, places, strict=True):
        another = rng.choice([one for one in routers if one != place])
        reaches[name] = (place, another) if rng.random() < SECOND_ROUTER else (place,)
    if rng.random() < ONE_FOR_CONTROLLER:
        reaches["controller"] = (rng.choice(routers),)
    return Shape(form, dials, reaches)


def _links(form: str, routers: tuple[str, ...]) -> list[tuple[str, str]]:
    """Which routers are neighbours."""
    if form == "star":
        return [(routers[0], other) for other in routers[1:]]
    if form == "mesh":
        return [(one, other) for one in routers for other in routers if one < other]
    chain = list(itertools.pairwise(routers))
    return [*chain, (routers[-1], routers[0])] if form == "ring" else chain
