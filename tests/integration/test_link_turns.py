"""Who floods a router has its turn as any other link, and others their own between (L-26)."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from overlay.aio.read_turns import DEAR, FRAMES_PER_TURN
from overlay.link.link import Link
from overlay.link.reader import LARGE
from overlay.wire.bodies import Attach
from overlay.wire.codec import encode
from overlay.wire.header import Kind
from tests.support.honest import until
from tests.support.honest_router import HonestRouterPlant, HostileEdge
from tests.support.pki import Pki

FLOOD = 4_000
"""Frames that wait in the flooder's socket at each moment; one receive buffer of the router holds more."""
BLOCK = 32 * 1024
"""Bytes of a frame of bulk, below what a router splices unseen."""


class Handled:
    """What the router's links are given, and in how many turns of the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turn = 0
        self.flood = 0
        self.turns: Counter[int] = Counter()
        self.bytes: Counter[int] = Counter()
        self.links: set[int] = set()
        judge = Link.receive

        def receive(link: Link, header: Any, payload: memoryview, now: float) -> Any:
            if id(link) in self.links:
                self.flood += 1
                self.turns[self.turn] += DEAR.get(header.kind, 1)
                self.bytes[self.turn] += header.length
            return judge(link, header, payload, now)

        monkeypatch.setattr(Link, "receive", receive)
        self._loop = asyncio.get_running_loop()
        self._next()

    def _next(self) -> None:
        self.turn += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def echoing(plant: HonestRouterPlant, pki: Pki) -> HostileEdge:
    """An edge that accepts each circuit and sends back what comes."""
    host = await HostileEdge(plant, pki.edge("edge-d")).dial(plant.real)

    def serve(link: Any, header: Any, payload: memoryview) -> None:
        if header.kind is Kind.OPEN:
            link.send(Kind.ACCEPT, header.circuit, b"yes")
        elif header.kind is Kind.DATA and header.length < BLOCK:
            link.send(Kind.DATA, header.circuit, bytes(payload), sequence=header.sequence)

    host.notes.on_frame = serve
    return host


@pytest.mark.parametrize(
    "kind", [Kind.PING, Kind.DATAGRAM, Kind.CREDIT, Kind.DATA, Kind.OPEN, Kind.CONTROL]
)
async def test_polls_go_on_beside_a_link_that_floods(kind: Kind, monkeypatch: pytest.MonkeyPatch):
    """PINGs, datagrams of a circuit, frames of a circuit that is over, bulk, OPEN after OPEN, and attachments."""
    async with HonestRouterPlant() as plant:
        host = await echoing(plant, plant.pki)
        flooder = plant.hostile
        poller = await HostileEdge(plant, plant.pki.edge("edge-e")).dial(plant.real)
        grant = plant.grant(hosts=("edge-d",), caller=poller.credentials)
        number = poller.open(grant)
        await until(lambda: bool(poller.got(Kind.ACCEPT)))
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        poller.notes.on_frame = lambda _, __, payload: answers.put_nowait(bytes(payload))
        payload, circuit = b"", 0
        if kind is Kind.PING:
            payload = bytes(8)
        elif kind is Kind.CONTROL:
            payload = encode(Attach((flooder.attachment("router-1"),)))
        elif kind is Kind.OPEN:
            payload = flooder.opening(plant.grant(hosts=("edge-d",)))
        else:
            circuit = flooder.open(plant.grant(hosts=("edge-d",)))
            await until(lambda: bool(flooder.got(Kind.ACCEPT)))
            if kind is Kind.CREDIT:
                flooder.link.reset(circuit, 0, "")  # type: ignore[arg-type]
                await until(lambda: not plant.real.links["edge-a"].is_open(circuit))
            payload = bytes(BLOCK) if kind is Kind.DATA else b""
        handled = Handled(monkeypatch)
        handled.links.add(id(plant.real.links["edge-a"]._link))

        enough = FLOOD * max(40, len(payload) // 10)

        async def flood() -> None:
            while not flooder.link.over:
                for _ in range(FLOOD):
                    if flooder.link.total_backlog > enough:
                        break
                    if kind is Kind.OPEN:
                        flooder.link.send(kind, flooder.link.next_circuit(), payload)
                    else:
                        flooder.put(kind, circuit, payload)
                flooder.notes.frames.clear()
                await asyncio.sleep(0)

        flooding = asyncio.ensure_future(flood())
        try:
            await until(lambda: handled.flood > FLOOD // DEAR.get(kind, 1))
            between = []
            for sequence in range(20):
                before = handled.flood
                poller.link.send(Kind.DATA, number, b"poll %d" % sequence, sequence=sequence)
                assert await answers.get() == b"poll %d" % sequence
                between.append(handled.flood - before)
        finally:
            flooding.cancel()
            handled.stop()
        # What was left of one read, and the next read, may fall into one turn.
        assert max(handled.turns.values()) <= 2 * (FRAMES_PER_TURN + DEAR.get(kind, 1))
        assert max(handled.bytes.values()) <= 2 * (LARGE + BLOCK)
        assert max(between) <= 30 * FRAMES_PER_TURN  # four hops, each a few turns
        assert not flooder.link.over
        for edge in (poller, host):
            await edge.close()
