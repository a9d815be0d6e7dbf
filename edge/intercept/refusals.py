"""What the rules of `tproxy` and `redirect` refuse is recorded as what it was; denied flows they refuse for a while."""

import asyncio
from collections.abc import Callable

from edge.intercept import steering
from edge.intercept.base import Caught
from edge.intercept.plan import supports
from edge.intercept.senders import Senders
from edge.machine.changes import HostError
from edge.machine.making import run
from edge.machine.netfilter_log import PacketLog
from edge.packets.ip import TCP, UDP, read_packet
from edge.packets.transport import ECHO_REQUEST
from overlay.aio.logs import get_logger
from overlay.aio.tasks import spawn
from overlay.errors import DecodeError
from overlay.wire.bodies import DATAGRAMS, STREAM

PENDING = 256
"""Denied flows of which the kernel is not told yet; others are denied one datagram after the other."""

_log = get_logger("steered")


class Refusals:
    """Of one mode.

    Args:
        caught: who records.
        senders: whose traffic is.
        table: of nftables that is in use; empty while there is none.
    """

    def __init__(
        self, mode: str, caught: Caught, senders: Senders, table: Callable[[], str]
    ) -> None:
        self._mode = mode
        self._caught = caught
        self._senders = senders
        self._table = table
        self._log: PacketLog | None = None
        self._denied: set[tuple[str, str, int]] = set()
        self._telling: asyncio.Task[None] | None = None

    def listen(self, group: int) -> None:
        """Hear of packets that the rules refuse. Raises: OSError."""
        self._log = PacketLog(group, self._refused)

    def close(self) -> None:
        """Hear of nothing more."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def deny(self, client: tuple[str, int], destination: tuple[str, int]) -> None:
        """Have the kernel refuse what comes next of this flow."""
        if len(self._denied) >= PENDING:
            return
        self._denied.add((client[0].partition("%")[0], destination[0], destination[1]))
        if self._telling is None or self._telling.done():
            self._telling = spawn(self._tell(), "denied flows")

    async def _tell(self) -> None:
        while self._denied and (table := self._table()):
            flows, self._denied = self._denied, set()
            try:
                await run("nft", "-f", "-", text=steering.denied(table, flows))
            except HostError as error:
                _log.warning("steered.denied", reason=str(error))
                return

    def _refused(self, data: memoryview) -> None:
        """The rules refused a packet: say of whom it was, and what it wanted."""
        try:
            packet = read_packet(data)
        except DecodeError:
            return
        port, what = 0, "ping"
        at = packet.start
        if packet.protocol not in ECHO_REQUEST:
            what = f"IP protocol {packet.protocol}"
        elif packet.end <= at or data[at] != ECHO_REQUEST[packet.protocol]:
            what = "ICMP that is about no connection of it"
        if packet.protocol in (TCP, UDP) and packet.end >= at + 4:
            port = data[at + 2] << 8 | data[at + 3]
            transport = STREAM if packet.protocol == TCP else DATAGRAMS
            verdict = self._senders.judge(transport, packet.source, packet.destination, port)
            if verdict.service and verdict.who and supports(self._mode, transport):
                self._senders.counts["denied"] += 1
                self._caught.refused(verdict.who, verdict.service, transport)
                return
            what = "UDP"
        else:
            verdict = self._senders.judge_asset(packet.source, packet.destination)
        if verdict.asset and verdict.who:
            verdict = verdict._replace(reason=f"{self._mode} does not carry {what}")
        self._senders.turn_away(packet.source, packet.destination, port, verdict)
