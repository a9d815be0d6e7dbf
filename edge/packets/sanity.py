"""Packets that no honest sender makes: they are dropped before anybody asks who they are from. Pure."""

from edge.packets.ip import Packet

_MAPPED = bytes(10) + b"\xff\xff"


def objection(packet: Packet) -> str | None:
    """Why this packet is dropped without an answer, or None.

    An address that cannot be a sender's (RFC 1122 §3.2.1.3, RFC 4291 §2): group, broadcast, loopback, unspecified; one
    that cannot be a service's; and a packet that a host seems to send to itself (the "land" attack).
    """
    if packet.source == packet.destination:
        return "source and destination are the same"
    wrong = _not_a_host(packet.source)
    if wrong:
        return f"the source is {wrong}"
    wrong = _not_a_host(packet.destination)
    return f"the destination is {wrong}" if wrong else None


def _not_a_host(address: bytes) -> str:
    if len(address) == 4:
        return _not_a_v4_host(address)
    if address[0] == 0xFF:
        return "a group"
    if not any(address[:15]) and address[15] < 2:
        return "loopback" if address[15] else "unspecified"
    if address.startswith(_MAPPED):
        return "IPv4 inside IPv6"
    return ""


def _not_a_v4_host(address: bytes) -> str:
    first = address[0]
    if first == 127:
        return "loopback"
    if not first:
        return "unspecified"
    if 224 <= first < 240:
        return "a group"
    if first >= 240:
        return "broadcast" if address == b"\xff" * 4 else "reserved"
    return ""
