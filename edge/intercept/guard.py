"""Keeps a device on the LAN from passing as this host itself by `tun`, which does not see where a packet came in.

With IPv4 the kernel drops what comes from outside with an address of its own (RFC 1812, section 5.3.7); with IPv6 it
does not. And rules of the host that masquerade whatever it forwards give any device such an address.
"""

from edge.intercept import steering
from edge.machine.changes import Change, HostChanges, HostError, NftChange
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger

_log = get_logger("guard")


class Guard:
    """Rules of nftables for one interface; `problem` says why they are not there. Interception goes on without them."""

    def __init__(self, changes: HostChanges, interface: str) -> None:
        self.problem = ""
        self._changes = changes
        self._rules = NftChange(
            "inet", steering.table_name(interface, "tun"), steering.guard(interface)
        )
        self._made: tuple[Change, ...] = ()

    async def put(self) -> None:
        """Make them, unless they are there."""
        if self._made:
            return
        try:
            self._made = await self._changes.apply([self._rules])
        except (HostError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            self.problem = (
                "a device on the LAN that sends with an IPv6 address of this host, or is masqueraded by it, counts as "
                f"this host itself, since no rule of nftables drops that: {why}"
            )
            _log.error("guard.failed", reason=why)
        else:
            self.problem = ""

    async def take(self) -> None:
        """Take them back."""
        made, self._made = self._made, ()
        try:
            await self._changes.undo(made)
        except OSError as error:
            self.problem = describe(error)
