"""Keeps this host asking the edge's resolver, as far as it lets itself be changed; the resolver answers in any case."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.machine.changes import Change, FileChange, HostChanges, HostError
from edge.machine.making import read_small
from edge.names.host_names import RESOLV_CONF, Chosen, choose, others_of
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.tasks import finish

AGAIN, AGAIN_AT_MOST = 2.0, 60.0
"""Seconds until a change of this host that failed is tried again: doubled each time, since a program has to be started
to ask systemd-resolved."""
LOOKS = 3
"""After the first at which resolv.conf says something else, before it is taken for what is meant."""

_log = get_logger("names")


class Asking:
    """What is changed so that this host asks at `servers` for names below `domain`.

    Args:
        changes: of this host.
        mode: one of `edge.names.host_names.MODES`.
        interface: that of the resolver's addresses.
    """

    def __init__(
        self,
        changes: HostChanges,
        mode: str,
        interface: str,
        servers: Sequence[str],
        domain: str,
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        self.problem = ""
        """Why this host does not ask, in a sentence."""
        self.chosen: Chosen | None = None
        """How it asks; None while it does not."""
        self.others = others_of(servers)
        """Who answers everything else."""
        self._changes = changes
        self._mode = mode
        self._interface = interface
        self._servers = tuple(servers)
        self._domain = domain
        self._resolv_conf = resolv_conf
        self._made: tuple[Change, ...] = ()
        self._seen = b""
        self._looks = 0
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._again = AGAIN
        self._next = self._now()

    async def look(self) -> None:
        """Make it so, or see that it still is; what failed is tried again later."""
        if self._now() < self._next:
            return
        try:
            if self.chosen is None:
                await self._begin()
            else:
                await self._hold()
        except (HostError, OSError) as error:
            self._fail(describe(error) if isinstance(error, OSError) else str(error))
        else:
            self.problem, self._again = "", AGAIN

    async def close(self) -> None:
        """Take it back. Raises: OSError: the journal cannot be written."""
        made, self._made, self.chosen = self._made, (), None
        if made:
            await self._changes.undo(made)

    def _fail(self, why: str) -> None:
        self._next = self._now() + self._again
        self._again = min(2 * self._again, AGAIN_AT_MOST)
        at = " and ".join(self._servers)
        problem = f"names are answered at {at}, but this host does not ask there: {why}"
        if problem != self.problem:
            self.problem = problem
            _log.error("names.unasked", at=at, reason=why)

    async def _choose(self) -> Chosen:
        return await choose(
            self._mode, self._interface, self._servers, self._domain, self._resolv_conf
        )

    async def _begin(self) -> None:
        chosen = await self._choose()
        self.others = chosen.others
        if chosen.change is not None:
            self._made = await self._changes.apply([chosen.change])
        self.chosen = chosen
        _log.info("names.asked", domain=self._domain, mode=chosen.mode, why=chosen.why)

    async def _hold(self) -> None:
        """Somebody else, a DHCP client for example, may write resolv.conf: what it says then goes behind the edge.

        Not before it has said the same at several looks: it may be writing, or want it otherwise than we do.
        """
        old = self._made[0] if self._made else None
        if not isinstance(old, FileChange):
            self.others = others_of(self._servers)  # these may be other ones in another network
            return
        try:
            content = await asyncio.to_thread(read_small, Path(old.path))
        except OSError:
            return  # devices go on asking this edge
        self._looks = self._looks + 1 if content == self._seen else 0
        self._seen = content
        if content == old.content or self._looks < LOOKS:
            return
        chosen = await self._choose()
        self.others = chosen.others
        if not isinstance(chosen.change, FileChange):
            await self.close()  # systemd-resolved runs by now
            await self._begin()
            return
        await finish(self._replace(old, chosen.change), "resolv.conf")
        self.chosen = chosen
        _log.warning("names.rewritten", path=old.path, then="what it says now goes behind the edge")

    async def _replace(self, old: FileChange, new: FileChange) -> None:
        self._made = (await self._changes.replace(old, new),)
