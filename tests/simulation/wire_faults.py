"""What happens between machines."""

from tests.simulation.plant import WholePlant
from tests.simulation.policy import ASSETS, EDGES, PEOPLE
from tests.simulation.striking import SEED_DRAWS, Aim, Striking


class WireFaults(Striking):
    """Of the ways that the plant has."""

    def __init__(self, plant: WholePlant, aim: Aim = SEED_DRAWS) -> None:
        super().__init__(plant, aim)
        self._ways = [*plant.shape.ways(), *((edge, asset) for asset, edge in ASSETS.items())]

    def connection(self) -> None:
        """Somebody in between resets a connection."""
        net = self._plant.sim.net
        if net.connections:
            one = self._rng.choice(net.connections)
            self._say(f"the connection between {one.host.name} and {one.other.host.name} is reset")
            net.reset(one)

    def address(self) -> None:
        """What an edge says from its old address, or others to it, arrives nowhere. Wi-Fi to LTE: its kernel tells (L-39);
        where a NAT before it has another address nobody does.
        """
        name, net = self._rng.choice(EDGES), self._plant.sim.net
        told = self._rng.random() < 0.5
        self._say(f"{name if told else f'the NAT of {name}'} has another address")
        for one in list(net.connections):
            if one.host.name == name and one.other.host.name in self._plant.shape.routers:
                net.strand(one)
        agent = self._plant.agents.get(name)
        if told:
            self._count += 1
            net.sources[name] = f"{name}-{self._count}"
            if agent is not None:
                self._plant.sim.host(name).call(agent.uplinks.network_changed)

    def partition(self) -> None:
        """A machine is cut off from all others, or can only hear, or only be heard."""
        name, how = self._rng.choice(self._plant.machines), self._rng.randrange(3)
        others = [one for one in (*self._plant.machines, PEOPLE) if one != name]
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
        one, other = self._way()
        one_way = self._rng.random() < 0.3
        self._say(
            f"{'from' if one_way else 'between'} {one} {'to' if one_way else 'and'} {other} nothing arrives"
        )
        net = self._plant.sim.net
        net.cut(one, other, one_way=one_way)
        self._for_a_while(4.0, lambda: net.heal(one, other))

    def _way(self) -> tuple[str, str]:
        """One that somebody uses, in either direction."""
        one, other = self._rng.choice(self._ways)
        return (one, other) if self._rng.random() < 0.5 else (other, one)

    def slow(self) -> None:
        """Everything takes long."""
        net = self._plant.sim.net
        net.latency = self._rng.choice((0.02, 0.1, 0.4))
        self._say(f"each way takes {net.latency} s")

        def fast() -> None:
            net.latency = 0.000_5

        self._for_a_while(3.0, fast)

    def queue(self) -> None:
        """On one way all waits: what is said there again on another comes first."""
        way = self._way()
        seconds = self._rng.choice((0.2, 0.7, 2.0))
        self._say(f"from {way[0]} to {way[1]} all takes {seconds} s more")
        lag = self._plant.sim.net.lag
        lag[way] = seconds
        self._for_a_while(3.0, lambda: lag.pop(way, None))
