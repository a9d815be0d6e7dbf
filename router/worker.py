"""A worker process of a router: the links of one bulk lane and the circuits on them (docs/protocol/link.md, L-09).

The first process (`router.workers`) starts it as `python -m router.worker`, hands it connections and tells it all that
it knows of the plant. It has no folder, listens nowhere, and ends with the first process.
"""

import asyncio
import os
import signal
import socket
import sys

import uvloop

from overlay.addresses import parse_address
from overlay.aio.dialer import Dialer, dial_link
from overlay.aio.lifecycle import collect_rarely
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_listener import LinkListener
from overlay.aio.logs import get_logger, setup
from overlay.aio.pipes import POOL, Pipes
from overlay.aio.seconds import pause
from overlay.aio.sockets import plain_address
from overlay.aio.stream_socket import SocketConnection
from overlay.aio.system import System
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.errors import FerruleError
from overlay.link.load import Busy
from router import messages
from router.pair import Pair
from router.processes import die_with, yield_to_express
from router.replica import Replica
from router.shedding import Queues
from router.switch import TICK, Switch

_log = get_logger("worker")


class Worker:
    """One lane of a router with `lanes` bulk lanes. `run` returns when the first process is gone or says so."""

    def __init__(self, world: World, sock: socket.socket, lane: int, lanes: int) -> None:
        self._world = world
        self._lane = lane
        self._lanes = lanes
        self._pair = Pair(sock, self._received, self._over)
        self._replica = Replica(world.clock.boot, self._say)
        self.switch = Switch(
            self._replica, self._replica.authority, Queues.shared(lanes + 1),
            Pipes(max(4, POOL // (lanes + 1))),
        )  # fmt: skip
        self._listener: LinkListener | None = None
        self._dialers: dict[tuple[str, str], Dialer] = {}
        self._boot, self._version = 0, ""
        self._busy = Busy()
        self._end = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Work until the end."""
        housekeeping = spawn(self._housekeeping(), "housekeeping")
        try:
            await self._end.wait()
        finally:
            await cancel(housekeeping, self._leaving)
            for dialer in self._dialers.values():
                await dialer.close()
            self._pair.close()

    # --- the first process ----------------------------------------------------------------------------

    def _say(self, message: messages.ToFirst) -> None:
        self._pair.send(message)

    def _over(self) -> None:
        """The first process is gone: nobody tells this one any more what is void."""
        self._end.set()

    def _received(self, message: messages.Message, descriptor: int | None) -> None:
        if isinstance(message, messages.Accepted):
            self._accept(message, descriptor)
            return
        if descriptor is not None:
            os.close(descriptor)
        try:
            self._told(message)
        except FerruleError as error:
            # What the first process believes must hold here, too; without it this worker may carry nothing.
            _log.error("worker.confused", lane=self._lane, error=str(error))
            self._end.set()

    def _told(self, message: messages.Message) -> None:
        if isinstance(message, messages.Identity):
            self._identify(message)
        elif isinstance(message, messages.Restrictions):
            self._replica.learn(message)
            self.switch.enforce()
            self._say(messages.Applied(self._replica.authority().version))
        elif isinstance(message, messages.Dials):
            self._dial(message)
        elif isinstance(message, messages.Leave):
            self._leaving = spawn(self._leave(), "leave")
        elif isinstance(
            message,
            messages.Time | messages.Signers | messages.Condition | messages.Places | messages.Ways,
        ):
            self._replica.learn(message)

    def _identify(self, told: messages.Identity) -> None:
        self._replica.identify(told)
        self.switch.admission = self._replica.admission
        self._boot, self._version = told.boot, told.version
        if self._listener is None:
            self._listener = LinkListener(
                self._world, self._replica.credentials, self.switch,
                self._replica.certificate_now, refuse=self.switch.refuse_link,
                failed=self.switch.handshake_failed, accept_newcomers=False, boot=told.boot,
                version=told.version, lanes=(self._lane,), bulk_lanes=self._lanes,
            )  # fmt: skip

    # --- links ------------------------------------------------------------------------------------------

    def _accept(self, told: messages.Accepted, descriptor: int | None) -> None:
        """A connection that the first process accepted; where it is broken or came to nothing, say so."""
        ticket = told.ticket
        connection = None if descriptor is None else _connection(descriptor)
        if connection is None or self._listener is None:
            if connection is not None:
                connection.abort()
            self._say(messages.Opened(ticket, authenticated=False))
            return
        self._listener.adopt(
            connection,
            told.received,
            told.left,
            lambda authenticated: self._say(messages.Opened(ticket, authenticated)),
        )

    def _dial(self, told: messages.Dials) -> None:
        """Links of this lane to other routers: these and no others."""
        wanted = set(told.routers)
        for gone in sorted(set(self._dialers) - wanted):
            dialer = self._dialers.pop(gone)
            _ = spawn(_stop(dialer), f"stop dialing {dialer.name}")
        for name, address in sorted(wanted - set(self._dialers)):
            place = parse_address(address)
            if place is not None:
                dialer = Dialer(self._world, name, lambda n=name, p=place: self._attempt(n, *p))  # type: ignore[misc]
                self._dialers[(name, address)] = dialer
                dialer.start()

    async def _attempt(self, name: str, host: str, port: int) -> LinkDriver:
        return await dial_link(
            self._world, host, port, self._replica.credentials(), self.switch,
            now=self._replica.certificate_now, expect=name,
            admit=self._replica.admit, boot=self._boot, version=self._version, lane=self._lane,
        )  # fmt: skip

    # --- time and end -----------------------------------------------------------------------------------

    async def _housekeeping(self) -> None:
        told, said = None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            if self._replica.admission is not None:
                self.switch.drain_by_map(self._replica.drained)
                self.switch.tick()
            self._replica.tick()
            self._busy.look(self._world.clock.boot(), self._world.clock.cpu())
            facts = self._facts()
            if facts != told or loop.time() - said >= messages.FACTS_SECONDS:
                told, said = facts, loop.time()
                self._say(facts)
            await pause(TICK)

    def _facts(self) -> messages.Facts:
        switch = self.switch
        return messages.Facts(
            links=len(switch.links),
            circuits=len(switch.table),
            queued_bytes=switch.queued_bytes(),
            frames=switch.frames,
            bytes=switch.bytes,
            counts=dict(switch.counts),
            busy=round(100 * self._busy.share),
        )

    async def _leave(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for dialer in self._dialers.values():
            await dialer.close()
        await self.switch.leave()
        self._say(self._facts())
        self._end.set()


def _connection(descriptor: int) -> SocketConnection | None:
    """The connection behind a descriptor that came over the pair; None: it is broken already."""
    sock = socket.socket(fileno=descriptor)
    try:
        return SocketConnection(sock, plain_address(sock.getpeername()))
    except OSError:
        sock.close()
        return None


async def _stop(dialer: Dialer) -> None:
    link = dialer.link
    await dialer.close()
    if link is not None:
        link.close()


def main(descriptor: str, lane: str, lanes: str, parent: str, log_format: str) -> None:
    """The process: `descriptor` is this end of the pair, `parent` the first process."""
    # Both are for the first process, which ends its workers when it is ready to.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup(log_format)
    die_with(int(parent))
    yield_to_express()
    sock = socket.socket(fileno=int(descriptor))

    async def work() -> None:
        await Worker(System(), sock, int(lane), int(lanes)).run()

    try:
        collect_rarely()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
    except Exception as error:  # noqa: BLE001 - the last resort: the first process starts another
        _log.critical("worker.failed", lane=int(lane), error=repr(error), exc_info=error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
