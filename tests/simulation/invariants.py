"""What must hold after every step, told with words of its own: nothing here asks the code that it checks."""

from typing import TYPE_CHECKING

from overlay import limits
from overlay.policy.grant import Grant
from tests.simulation.void import Void

if TYPE_CHECKING:
    from overlay.aio.circuit_driver import CircuitDriver
    from overlay.aio.node import NodeAgent
    from overlay.circuit.circuit import Circuit
    from router.router import Router
    from tests.simulation.machines import EdgeMachine
    from tests.simulation.plant import WholePlant
    from tests.support.simulation import Host

GRACE = 0.5
"""Seconds that a node which runs may take to do what it knows."""
MOST_KEPT = limits.MAX_WINDOW + limits.MAX_DATA

Found = tuple[str, int, str]
"""(machine, which circuit, why it must not be)."""


class Invariants:
    """Of one plant."""

    def __init__(self, plant: "WholePlant") -> None:
        self._plant = plant
        self._void = Void(plant.actions)
        self._since: dict[Found, float] = {}
        """Since when a circuit is open that must not be."""
        self.verified: set[tuple[bytes, int]] = set()
        """(circuit, direction) of which a signed frame was verified and not delivered yet."""
        self.calm: dict[str, float] = {}
        """When a machine began to run, last."""
        self._widest: dict[int, int] = {}
        """The widest window that a core has had (or one before that had its id)."""
        self.steps = 0

    def step(self, host: "Host") -> None:
        """A callback has run on this machine."""
        self.steps += 1
        plant, name = self._plant, host.name
        agent = plant.agents.get(name)
        if agent is None:
            return
        plant.ledger.step(name, agent)
        machine = plant.edges.get(name)
        if machine is not None:
            self._edge(machine)
            return
        router = plant.routers.get(name)
        if router is not None:
            self._router(name, router, agent)

    def _router(self, name: str, router: "Router", agent: "NodeAgent") -> None:
        if router.queued_bytes() > limits.ROUTER_QUEUE_BYTES:
            self._plant.violated("bounded", f"{name} queues {router.queued_bytes()} bytes")
        open_now = set()
        version, now = agent.state.authority.version, self._plant.actions.now()
        for circuit in router.table._circuits:
            grant = circuit.grant
            if grant is None:
                continue
            # Another router notices that the host is gone, and says so: a revoked host is none of this one's business.
            why = self._void.why(
                name, circuit.id, grant, version, host=circuit.host_name, pulled=False, now=now
            )
            if why and why != f"{circuit.host_name} is revoked":
                open_now.add(self._found(name, id(circuit), grant, why))
        self._only(name, open_now)

    def delivery(self, machine: "EdgeMachine", stream: "CircuitDriver") -> None:
        """Bytes go to a program: is there a grant for that, and was it alive?"""
        grant = stream.grant
        assert grant is not None
        if stream._user is not None:  # else it waits for one, and may be refused yet
            self._plant.ledger.carries(stream)
        core = stream.core
        if grant.integrity and core is not None:
            frame = (stream.circuit_id, 1 - core.role)
            if frame not in self.verified:
                self._plant.violated(
                    "strict", f"{machine.name} delivers to {grant.service} what nobody has signed"
                )
            self.verified.discard(frame)
        if stream.path and machine.name == grant.hosts[0]:
            self._plant.crossed[stream.circuit_id] = len(stream.path) - 2
        why = self._why(machine, stream, grant)
        over = stream.outcome
        if over is not None:
            why = f"it was cut before: {over.code.name} {over.reason}"
        if over is not None or (why and self._late((machine.name, id(stream), why))):
            self._plant.violated(
                "no delivery without a grant", f"{machine.name} delivers to {grant.service}: {why}"
            )

    def _edge(self, machine: "EdgeMachine") -> None:
        edge = machine.edge
        if edge is None:
            return
        open_now = set()
        for stream in edge.endpoint._streams.values():
            grant = stream.grant
            if grant is None or stream.outcome is not None or stream.service[:1] == "_":
                continue
            if stream.core is not None:
                self._windows(machine, stream.core, grant)
            why = self._why(machine, stream, grant)
            if why:
                open_now.add(self._found(machine.name, id(stream), grant, why))
        self._only(machine.name, open_now)
        memory = edge.endpoint.memory
        if memory.buffered + memory.kept > 2 * memory.limit:
            self._plant.violated(
                "bounded", f"{machine.name} holds {memory.buffered + memory.kept} bytes"
            )

    def _windows(self, machine: "EdgeMachine", core: "Circuit", grant: Grant) -> None:
        half = core._receiving
        if half.buffered > half.window or core.kept_bytes > MOST_KEPT:
            self._plant.violated(
                "bounded",
                f"{machine.name} holds {half.buffered} unread bytes of a window of {half.window} "
                f"and keeps {core.kept_bytes} of {grant.service}",
            )
        widest = self._widest.get(id(core), limits.INITIAL_WINDOW)
        if half.window > widest:
            widest = self._widest[id(core)] = half.window
        if half._told_limit - half._consumed > widest:
            self._plant.violated(
                "bounded",
                f"{machine.name} lets the other end send {half._told_limit - half._consumed} bytes "
                f"of {grant.service} into a window of {widest}",
            )

    def _why(self, machine: "EdgeMachine", stream: "CircuitDriver", grant: Grant) -> str:
        """Why there must not be this circuit here."""
        agent = machine.agent
        if agent is None:
            return ""
        # A caller that waits for a host which will never answer has nothing open yet.
        return self._void.why(
            machine.name, stream.circuit_id, grant, agent.state.authority.version,
            host=grant.hosts[0] if stream.core is not None and stream.core.opened else "",
            pulled=agent.state.local_kill is not None, now=self._plant.actions.now(),
        )  # fmt: skip

    def _found(self, name: str, number: int, grant: Grant, why: str) -> Found:
        """A circuit is open that must not be: for a moment it may."""
        found = (name, number, why)
        if self._late(found):
            self._plant.violated(
                "nothing open", f"{name} has {grant.service} of {grant.via} open: {why}"
            )
        return found

    def _only(self, name: str, found: set[Found]) -> None:
        """What was open there before and must not be is not open any more."""
        if self._since:
            for key in [key for key in self._since if key[0] == name and key not in found]:
                del self._since[key]

    def _late(self, found: Found) -> bool:
        """Whether the machine ran for long enough since it should have ended."""
        now = self._plant.sim.loop.now
        since = self._since.setdefault(found, now)
        return now - max(since, self.calm.get(found[0], 0.0)) > GRACE
