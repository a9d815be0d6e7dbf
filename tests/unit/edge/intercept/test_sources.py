"""Who is at an address, asked of the kernel seldom; on a real LAN in `tests/integration/test_tun.py`."""

import ipaddress
from typing import Any

from edge.intercept.sources import REFRESH, UNKNOWN_AT_ONCE, UNKNOWN_PER_SECOND, KnownSources

OWN, DEVICE, MAC = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 7]), bytes(5) + b"\7"


class Kernel:
    def __init__(self) -> None:
        self.asked = 0
        self.own = [OWN]
        self.macs = {DEVICE: MAC}
        self.broken = False

    def addresses(self) -> list[tuple[int, Any]]:
        self.asked += 1
        if self.broken:
            raise OSError
        return [(1, ipaddress.ip_address(one)) for one in self.own]

    def neighbours(self) -> dict[bytes, bytes]:
        return dict(self.macs)


def test_what_changes_is_seen_soon_and_strangers_do_not_keep_the_kernel_busy():
    kernel, now = Kernel(), [100.0]
    known = KnownSources(kernel, lambda: now[0])
    assert known.own(OWN)
    assert not known.own(DEVICE)
    assert known.mac(DEVICE) == MAC
    assert kernel.asked == 1
    stranger = bytes([10, 0, 0, 66])
    for _ in range(1000):
        assert not known.own(stranger)
    assert kernel.asked == 1 + UNKNOWN_AT_ONCE
    kernel.asked = 1
    now[0] += 1.1 / UNKNOWN_PER_SECOND
    kernel.own.append(stranger)
    assert known.own(stranger), "an address that this machine has just got"
    now[0] += REFRESH / 2
    kernel.own.clear()
    kernel.macs.clear()
    assert known.own(OWN)
    assert known.mac(DEVICE) == MAC
    now[0] += 0.6 * REFRESH
    assert not known.own(OWN), "and one that it has no more"
    assert known.mac(DEVICE) is None
    assert kernel.asked == 3


def test_a_device_that_came_this_moment_is_known_though_the_kernel_was_just_asked():
    kernel, now = Kernel(), [100.0]
    known = KnownSources(kernel, lambda: now[0])
    kernel.macs.clear()
    assert not known.own(DEVICE)
    kernel.macs[DEVICE] = MAC
    now[0] += 0.1 / UNKNOWN_PER_SECOND
    assert not known.own(DEVICE)
    assert known.mac(DEVICE) == MAC, "its first connection comes right after its first packet"


def test_while_the_kernel_does_not_answer_nobody_becomes_known():
    kernel, now = Kernel(), [100.0]
    known = KnownSources(kernel, lambda: now[0])
    kernel.broken = True
    assert not known.own(OWN)
    kernel.broken = False
    now[0] += REFRESH
    assert known.own(OWN)
    kernel.broken = True
    now[0] += REFRESH
    assert known.own(OWN), "what was known stays"
    assert not known.own(DEVICE)
