"""A host that lost its path, or doubts it, asks the caller for another one (C-64)."""

import asyncio
from typing import TYPE_CHECKING

from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.frames import Frame
from overlay.wire.codec import encode
from overlay.wire.header import Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

ASK_AFTER = 0.1
"""Seconds in which most callers have noticed by themselves."""
ASK_LONGEST = 4.0
"""Between two questions at most; they stop when there is a path, or the circuit has ended for want of one."""
HOP_SECONDS = 5.0
"""Then the hop of a question that nobody answers is freed."""


class Asking:
    """For all circuits that `node` hosts; on its home loop, but for sealing."""

    def __init__(self, node: NodeCircuits) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._due: dict[CircuitDriver, asyncio.TimerHandle] = {}
        self._turn = 0

    def begin(self, stream: CircuitDriver) -> None:
        """This circuit has no path, or one over a suspect link; nothing when its caller is asked already."""
        core = stream.core
        if stream not in self._due and stream.grant is not None and core is not None:
            self._later(stream, ASK_AFTER)

    def close(self) -> None:
        """Ask nobody any more."""
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()

    def _later(self, stream: CircuitDriver, pause: float) -> None:
        wait = pause * (0.5 + self._node.uniform())
        self._due[stream] = self._loop.call_later(wait, self._ask, stream, pause)

    def _ask(self, stream: CircuitDriver, pause: float) -> None:
        del self._due[stream]
        link, core = stream.link, stream.core
        if stream.outcome is not None or core is None or not core.opened:
            return
        if link is not None and not link.suspect and not core.suspended:
            return
        others = [one for one in self._node.links() if not one.over and one is not link]
        sound = [one for one in others if one.sound]
        if sound or (others and link is None):
            self._turn += 1
            usable = sound or others
            stream.at_owner(self._seal, stream, usable[self._turn % len(usable)])
        self._later(stream, min(ASK_LONGEST, 2 * pause))

    def _seal(self, stream: CircuitDriver, link: "LinkDriver") -> None:
        """On the loop that owns the circuit."""
        core = stream.core
        if core is None or core.over is not None:
            return
        intent = encode(core.names.resume_intent(stream.grant_bytes))
        stream.at_home(self._say, link, core.ask(intent, (core.names.host,)))

    def _say(self, link: "LinkDriver", frame: Frame) -> None:
        if link.over:
            return
        number = link.next_circuit()
        link.send(Kind.RESUME, number, frame.payload, sequence=frame.sequence)
        self._loop.call_later(HOP_SECONDS, self._node.free, link, number)
