"""The hot path of a router: DATA from hop to hop, what waits meanwhile, and what is given up when that is too much."""

from collections import Counter

from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_sender import Payload
from overlay.aio.pipes import Pipes
from overlay.errors import Code
from overlay.wire.header import Header, Kind
from router.forwarding import Circuit, Hop, Table
from router.shedding import LARGEST_QUEUE, SPLICED_QUEUE, Queues

DATA = Kind.DATA  # 3.11 looks members of an enumeration up slowly


class Passing:
    """What `router.switch.Switch` is made of."""

    def __init__(self, queues: Queues, pipes: Pipes) -> None:
        self.table: Table[LinkDriver] = Table()
        self.counts: Counter[str] = Counter()
        """What metrics show: admitted, cut, shed, datagrams dropped, refused by code, tampered."""
        self.frames = 0
        self.bytes = 0
        self._hops: dict[LinkDriver, dict[int, Hop[LinkDriver]]] = {}
        self._queues = queues
        self._pipes = pipes

    def may_splice(self, link: LinkDriver) -> None:
        """Large payloads that come over this link need not be seen."""
        link.splice(self._pipes, self._takes, self._spliced)

    def pass_data(
        self, out: Hop[LinkDriver], header: Header, payload: Payload, *, kept: bool = False
    ) -> None:
        """A frame of DATA goes on by its other hop. `kept`: the payload holds after the call."""
        link, flags, sequence = out.link, header.flags, header.sequence
        link.send(DATA, out.number, payload, flags=flags, sequence=sequence, kept=kept)
        self.frames += 1
        self.bytes += header.length
        if not link.blocked:  # all that waits leaves within this turn of the event loop
            self._queues.forget(link)
        elif link.backlog(out.number) > LARGEST_QUEUE:
            self._fault(out.other, Code.PROTOCOL, "more was sent than the window allows")
        elif self._queues.put(link):
            self._shed()

    def pass_datagram(self, out: Hop[LinkDriver], header: Header, payload: memoryview) -> None:
        """A datagram goes on by its other hop, or the oldest that waits there is lost (L-25)."""
        link, flags, sequence = out.link, header.flags, header.sequence
        more = out.other.link.more
        gone = link.send_datagram(out.number, payload, flags=flags, sequence=sequence, more=more)
        self.frames += 1
        if gone:
            self.counts["datagrams_dropped"] += gone
        if not link.blocked:
            self._queues.forget(link)
        elif self._queues.put(link):
            self._shed()

    def _takes(self, link: LinkDriver, header: Header) -> bool:
        hop = self._hops[link].get(header.circuit)
        out = None if hop is None else hop.other.link
        return out is not None and out.splices and out.total_backlog < SPLICED_QUEUE

    def _spliced(self, link: LinkDriver, header: Header, payload: Payload) -> None:
        """A large frame of DATA, whose payload nobody has seen."""
        hop = self._hops[link].get(header.circuit)
        if hop is not None:
            self.pass_data(hop.other, header, payload, kept=True)

    def _shed(self) -> None:
        """Too much waits in all: give up the circuits with the longest queues; they resume elsewhere (L-24)."""
        for link, number in self._queues.excess():
            dropped = link.drop_datagrams(number)
            if dropped:
                self.counts["datagrams_dropped"] += dropped
                continue
            hop = self._hops[link].get(number)
            if hop is None:  # it is over already, and only its last bytes are still here
                link.abandon(number)
                continue
            self._cut(hop.circuit, Code.PATH_LOST, "this router has too much to carry")
            self.counts["shed"] += 1

    def _cut(self, circuit: Circuit[LinkDriver], code: Code, reason: str) -> None:
        raise NotImplementedError

    def _fault(self, hop: Hop[LinkDriver], code: Code, reason: str) -> None:
        raise NotImplementedError
