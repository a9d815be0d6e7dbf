"""What must hold after every step, told with words of its own: nothing here asks the code that it checks."""

from typing import TYPE_CHECKING, Any

from overlay import limits
from overlay.fabric.authority import Kill
from overlay.policy.grant import Grant

if TYPE_CHECKING:
    from overlay.aio.circuit_driver import CircuitDriver
    from tests.simulation.plant import EdgeMachine, WholePlant
    from tests.support.simulation import Host

GRACE = 0.5
"""Seconds that a node which runs may take to do what it knows."""
CLOCK = 1_500_000
"""By how much a node's time may differ from the controller's: a slow answer of the controller (µs)."""


class Invariants:
    """Of one plant."""

    def __init__(self, plant: "WholePlant") -> None:
        self._plant = plant
        self._since: dict[tuple[str, Any, str], float] = {}
        """Since when a circuit is open that must not be."""
        self.calm: dict[str, float] = {}
        """When a machine began to run, last."""
        self.steps = 0

    def step(self, host: "Host") -> None:
        """A callback has run on this machine."""
        self.steps += 1
        machine = self._plant.edges.get(host.name)
        if machine is not None:
            self._edge(machine)
        else:
            router = self._plant.routers.get(host.name)
            if router is not None and router.queued_bytes() > limits.ROUTER_QUEUE_BYTES:
                self._plant.violated("bounded", f"{host.name} queues {router.queued_bytes()} bytes")

    def delivery(self, machine: "EdgeMachine", stream: "CircuitDriver") -> None:
        """Bytes go to a program: is there a grant for that, and was it alive?"""
        grant = stream.grant
        assert grant is not None
        why = self._void(machine, grant)
        over = stream.outcome
        if over is not None:
            why = f"it was cut before: {over.code.name} {over.reason}"
        if over is not None or (why and self._late(machine, stream, why)):
            self._plant.violated(
                "no delivery without a grant", f"{machine.name} delivers to {grant.service}: {why}"
            )

    def _edge(self, machine: "EdgeMachine") -> None:
        plant, edge = self._plant, machine.edge
        if edge is None:
            return
        open_now = set()
        for stream in machine.streams():
            grant = stream.grant
            if grant is None or stream.outcome is not None:
                continue
            core = stream.core
            if core is not None:
                half = core._receiving
                if half.buffered > half.window or core.kept_bytes > _most_kept():
                    plant.violated(
                        "bounded",
                        f"{machine.name} holds {half.buffered} unread bytes of a window of {half.window} "
                        f"and keeps {core.kept_bytes} of {grant.service}",
                    )
            why = self._void(machine, grant)
            if why:
                open_now.add((machine.name, id(stream), why))
                if self._late(machine, stream, why):
                    plant.violated(
                        "nothing open",
                        f"{machine.name} has {grant.service} of {grant.via} open: {why}",
                    )
        gone = [key for key in self._since if key[0] == machine.name and key not in open_now]
        for key in gone:
            del self._since[key]
        memory = edge.endpoint.memory
        if memory.buffered + memory.kept > 2 * memory.limit:
            plant.violated("bounded", f"{machine.name} holds {memory.buffered + memory.kept} bytes")

    def _late(self, machine: "EdgeMachine", stream: "CircuitDriver", why: str) -> bool:
        """Whether it ran for long enough since it should have ended."""
        now = self._plant.sim.loop.time()
        since = self._since.setdefault((machine.name, id(stream), why), now)
        return now - max(since, self.calm.get(machine.name, 0.0)) > GRACE

    def _void(self, machine: "EdgeMachine", grant: Grant) -> str:
        """Why there must not be a circuit of this grant here, by what arrived at this machine and by the true time."""
        plant, edge, agent = self._plant, machine.edge, machine.agent
        if edge is None or agent is None:
            return ""
        now = plant.actions.now()
        if grant.end and now > grant.end + CLOCK:
            return "its conduit has ended"
        if now > grant.hold_until + CLOCK:
            return "it is past hold-until"
        if agent.state.local_kill is not None:
            return "the local switch is pulled"
        version = agent.state.authority.version
        for kill in plant.actions.kills_at.get(version, ()):
            if _meant(kill, grant):
                return f"kill of {kill.level} {kill.name}"
        for withdrawal in plant.actions.withdrawn_at.get(version, ()):
            if withdrawal.conduit == grant.conduit and now > withdrawal.at + CLOCK:
                return f"conduit {grant.conduit} was withdrawn"
        return ""


def _meant(kill: Kill, grant: Grant) -> bool:
    if kill.level == "plant":
        return True
    if kill.level == "service":
        return kill.name == grant.service
    return kill.level == "identity" and kill.name in {
        grant.who, grant.via, grant.asset, *grant.hosts
    }  # fmt: skip


def _most_kept() -> int:
    return limits.MAX_WINDOW + limits.MAX_DATA
