"""What the parts of a TUN device share: whose a packet is, how it is turned away, and what was counted."""

from collections.abc import Callable
from enum import StrEnum

from edge.intercept.base import Caught
from edge.intercept.senders import Senders, Sources
from edge.intercept.table import Table, Verdict
from edge.packets import answers
from edge.packets.ip import Packet
from edge.packets.rate import RateLimit
from edge.packets.transport import RST, Message, Segment

GONE = "the TUN device is gone"
"""Why a circuit ends when nobody gets an answer any more."""


class Denial(StrEnum):
    """How the sender of denied traffic learns of it."""

    RESET = "reset"
    PROHIBIT = "prohibit"
    DROP = "drop"


class Ground:
    """Of one device.

    Args:
        write: gives a packet, with its virtio-net header, to the kernel by one of its queues; False when it does not
            take it.
        now: monotonic seconds.
        caught: who decides.
        table: what is intercepted now.
        sources: who sends.
        denial: what denied traffic is answered with. UDP and ping have no reset: `RESET` and `PROHIBIT` are the same
            for them. With `DROP` nothing answers who has no grant, not even a segment of no connection.
    """

    def __init__(
        self,
        write: Callable[[bytes, int], bool],
        now: Callable[[], float],
        caught: Caught,
        table: Callable[[], Table],
        sources: Sources,
        denial: Denial,
    ) -> None:
        self.now = now
        self.caught = caught
        self._denial = denial
        self._senders = Senders(caught, table, sources)
        self.counts = self._senders.counts
        self.queue = 0
        """From which the packet came that is being handled; answers go back by it."""
        self.carry: Callable[[int], None] = _nothing
        """Handles what has come to a queue now, and not in a turn to come."""
        self._write = write
        self._answers = RateLimit()

    def write(self, packet: bytes, queue: int | None = None) -> None:
        """Give a packet to the kernel; what it does not take is lost, as on any network.

        `queue` is that of the flow, where nothing of it is being handled now.
        """
        if not self._write(packet, self.queue if queue is None else queue):
            self.counts["not taken by the kernel"] += 1

    def judge(self, transport: int, packet: Packet, port: int) -> Verdict:
        """Which service is meant, and of whom the packet is."""
        return self._senders.judge(transport, packet.source, packet.destination, port)

    def judge_asset(self, packet: Packet) -> Verdict:
        """The same for what has no port."""
        return self._senders.judge_asset(packet.source, packet.destination)

    def strangers(self, packet: Packet, port: int, verdict: Verdict) -> None:
        """Record traffic of nobody, or to nothing."""
        self._senders.turn_away(packet.source, packet.destination, port, verdict)

    def deny(
        self,
        data: memoryview,
        packet: Packet,
        segment: Segment | None = None,
        message: Message | None = None,
    ) -> None:
        """Answer denied traffic as this machine's edge was told to; of TCP `segment`, of ICMP `message` is in it."""
        denial = self._denial
        if denial is Denial.DROP:
            return
        if segment is not None and denial is Denial.RESET:
            self.reset(packet, segment)
        else:
            self._prohibit(data, packet, message)

    def stray(self, packet: Packet, segment: Segment) -> None:
        """Answer a segment of no connection: whose it is nobody knows, so with `DROP` it is as if denied."""
        if self._denial is not Denial.DROP:
            self.reset(packet, segment)

    def reset(self, packet: Packet, segment: Segment) -> None:
        """Answer a TCP segment with a reset, unless it is one, or this source had too many answers."""
        if not segment.flags & RST and self._answers.allows(packet.source, self.now()):
            self.write(answers.reset(packet, segment))

    def _prohibit(self, data: memoryview, packet: Packet, message: Message | None) -> None:
        """Answer with "administratively prohibited", where that is allowed and not too often."""
        if answers.answerable(message, packet) and self._answers.allows(packet.source, self.now()):
            self.write(answers.unreachable(data, packet, answers.PROHIBITED))


def _nothing(_: int) -> None:
    """Nobody reads the device."""
