"""ICMP of a TUN device: echo requests travel to the asset and its replies back; errors reach whom they concern."""

from edge.flow import Flow
from edge.host.echo import MAX_ECHO, Echo, read_echo
from edge.intercept.flows import Flows
from edge.packets import answers
from edge.packets.ip import Packet
from edge.packets.rate import RateLimit
from edge.packets.transport import ECHO_REQUEST, Message
from edge.tun.ground import GONE, Ground

FLOWS = 256
"""Pairs of client and asset that ping at once."""
PER_SOURCE = 64
PER_SECOND, BURST = 20.0, 40.0
"""Echo requests of one client."""


class Pings:
    """All echo requests of one device."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._flows = Flows()
        self._rate = RateLimit(PER_SECOND, BURST)

    def __len__(self) -> int:
        return len(self._flows)

    def close(self) -> None:
        """The device is gone."""
        self._flows.close(GONE)

    def request(self, data: memoryview, packet: Packet, message: Message) -> None:
        """An echo request."""
        ground = self._ground
        if message.end - message.start > MAX_ECHO:
            ground.counts["pings too long"] += 1
            return
        if not self._rate.allows(packet.source, ground.now()):
            ground.counts["pings too often"] += 1
            return
        key = packet.source + packet.destination
        flow = self._flows.get(key) or self._begin(key, data, packet, message)
        if flow is not None:
            payload = bytes(data[message.start : message.end])
            flow.send(Echo(message.identifier, message.sequence, payload).encode())

    def _begin(self, key: bytes, data: memoryview, packet: Packet, message: Message) -> Flow | None:
        ground = self._ground
        if self._flows.full(packet.source, most=FLOWS, per_client=PER_SOURCE):
            ground.counts["too many flows"] += 1
            return None
        verdict = ground.judge_asset(packet)
        if not verdict.asset or not verdict.who:
            ground.strangers(packet, 0, verdict)
            ground.deny(data, packet, message=message)
            return None
        stream = ground.caught.echo(verdict.who, verdict.asset, verdict.address)
        if stream is None:
            ground.counts["denied"] += 1
            ground.deny(data, packet, message=message)
            return None
        asset, client, queue = packet.destination, packet.source, ground.queue

        def deliver(reply: bytes) -> None:
            echo = read_echo(reply)
            if echo is not None:
                ground.write(answers.echo_reply(asset, client, *echo), queue)

        return self._flows.join(key, client, stream, deliver)


def is_request(packet: Packet, message: Message) -> bool:
    """An echo request of either version."""
    return message.kind == ECHO_REQUEST[packet.protocol] and not message.code
