"""The local kill switch: works with no controller, survives a restart, and nobody can lift it from outside
(A-03, A-06).
"""

from collections.abc import Callable
from typing import Protocol

from overlay import limits
from overlay.aio.lifecycle import describe
from overlay.errors import Code, FerruleError
from overlay.policy.grant_check import Objection
from overlay.wire.bodies import LocalKill

NO_REASON = "pulled on site"


class Store(Protocol):
    """Where the switch is kept (`overlay.aio.state.KeptState`)."""

    local_kill: LocalKill | None

    async def keep_local_kill(self, kill: LocalKill | None) -> None:
        """On disk when it returns. Raises: OSError."""
        ...


class LocalSwitch:
    """Pulled or not. `now` is plant time in microseconds."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._pulled = store.local_kill

    @property
    def pulled(self) -> LocalKill | None:
        """Since when and why; None when it is not pulled."""
        return self._pulled

    def objection(self) -> Objection | None:
        """Why no circuit may be opened or go on."""
        if self._pulled is None:
            return None
        return Code.LOCAL_KILL, f"the local kill switch is pulled: {self._pulled.reason}"

    async def pull(self, reason: str) -> LocalKill:
        """Refuse everything from now on, then put it on disk. Pulling again replaces the reason only.

        Raises:
            FerruleError: it could not be written: the switch is pulled, and would not survive a restart.
        """
        since = self._now() if self._pulled is None else self._pulled.since
        self._pulled = LocalKill(cut_to(reason.strip() or NO_REASON), since)
        try:
            await self._store.keep_local_kill(self._pulled)
        except OSError as error:
            raise FerruleError(
                "The switch is pulled, but a restart would release it, because it cannot be written: "
                f"{describe(error)}"
            ) from None
        return self._pulled

    async def release(self) -> bool:
        """Off the disk first, then in effect; False when it was not pulled.

        Raises:
            FerruleError: the disk does not take it; the switch stays pulled.
        """
        if self._pulled is None:
            return False
        try:
            await self._store.keep_local_kill(None)
        except OSError as error:
            raise FerruleError(f"The switch stays pulled: {describe(error)}") from None
        self._pulled = None
        return True


def cut_to(reason: str) -> str:
    """A reason as it is kept: one line, at most `MAX_REASON` characters."""
    return " ".join(reason.split())[: limits.MAX_REASON]
