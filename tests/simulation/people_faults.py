"""What people do: they kill, withdraw, revoke, drain, pull switches; and what becomes of the store of their controller."""

from overlay.errors import FerruleError
from overlay.fabric.authority import Kill
from tests.simulation.policy import EDGES, Conduit
from tests.simulation.striking import Striking
from tests.support.pki import SECOND


class PeopleFaults(Striking):
    """By way of the controller, or at an edge."""

    def store(self) -> None:
        """The controller's database cannot be reached."""
        actions = self._plant.actions
        self._say("the controller's store is away")
        actions.away = True

        def back() -> None:
            actions.away = False

        self._for_a_while(3.0, back)

    def kill(self) -> None:
        """People kill an identity, a service, or all."""
        level, name = self._rng.choice(
            (
                ("identity", "edge-a"),
                ("identity", "plc-b"),
                ("service", "plc-c.modbus"),
                ("plant", ""),
            )
        )
        self._kill(level, name)

    def kill_zone(self) -> None:
        """People kill a zone, with all below it."""
        self._kill("zone", self._rng.choice(("office", "hall", "line-1", "line-2")))

    def kill_session(self) -> None:
        """People kill one circuit."""
        if sessions := self._sessions():
            self._kill("circuit", self._rng.choice(sessions))

    def _kill(self, level: str, name: str) -> None:
        """Until they restore it, or for so long."""
        actions = self._plant.actions
        seconds = self._rng.choice((0, 0, 2))
        now = actions.now()
        until = now + seconds * SECOND if seconds else 0
        kill = Kill(self._rng.randbytes(16), level, name, "drill", now, until)
        self._say(f"people kill {level} {name[:12]}" + (f" for {seconds} s" if seconds else ""))
        actions.set_kills((*actions.kills, kill))
        self._for_a_while(
            3.0, lambda: actions.set_kills(tuple(k for k in actions.kills if k != kill))
        )

    def _sessions(self) -> list[str]:
        """Circuits that live, at whichever end."""
        machines = self._plant.edges.values()
        return sorted({one.circuit_id.hex() for machine in machines for one in machine.streams()})

    def drain(self) -> None:
        """People let a router drain, and take part again later."""
        actions = self._plant.actions
        name = self._rng.choice(self._plant.shape.routers)
        if not actions.nodes[name].draining:
            self._say(f"people drain {name}")
            actions.drain(name, True)
            self._for_a_while(3.0, lambda: actions.drain(name, False))

    def withdraw(self) -> None:
        """People take a conduit back, and allow it again later."""
        actions = self._plant.actions
        if actions.conduits:
            old = self._conduit()
            self._say(f"people withdraw {old.name} ({old.via} to {old.service})")
            number = len(actions.withdrawn)
            actions.withdraw(old.name)
            again = old._replace(name=f"{old.name.split('-')[0]}-{number}", end=0)
            self._for_a_while(3.0, lambda: actions.allow(again))

    def ending(self) -> None:
        """People let a conduit end soon, and allow it again later."""
        actions = self._plant.actions
        old = self._conduit() if actions.conduits else None
        if old is not None and not old.end:
            self._say(f"people let {old.name} ({old.via} to {old.service}) end in 1.5 s")
            actions.allow(old._replace(end=actions.now() + 3 * SECOND // 2))
            again = old._replace(name=f"{old.name.split('-')[0]}+{self._count}")
            self._for_a_while(6.0, lambda: actions.allow(again))

    def _conduit(self) -> Conduit:
        conduits = self._plant.actions.conduits
        return conduits[self._rng.choice(sorted(conduits))]

    def revoke(self) -> None:
        """People turn an edge out for ever; at most one."""
        if not self._plant.revoked:
            name = self._rng.choice(EDGES)
            self._say(f"people revoke {name}")
            self._plant.actions.revoke(name)

    def switch(self) -> None:
        """Somebody pulls the switch at an edge."""
        machine = self._plant.edges[self._rng.choice(EDGES)]
        edge = machine.edge
        if edge is None or not machine.commanded or edge.switch.pulled:
            return
        if machine.name in self._frozen | self._down:
            return
        self._say(f"somebody pulls the switch of {machine.name}")
        plant = self._plant

        async def pull() -> None:
            try:
                await edge.pull("drill")
            except FerruleError as error:  # its disk is full
                plant.note(machine.name, f"the switch: {error}")

        machine.command(pull())

        def release() -> None:
            if not machine.host.frozen:
                plant.release_switch(machine)

        self._for_a_while(3.0, release)
