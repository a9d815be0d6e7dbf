"""What is read from the store for many who ask, and kept until something changes."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """`load` is called once for all who ask between two changes. Who asked before it began shares its failure, too.

    Args:
        epoch: counts changes; None: nothing that was read before counts now.
        clock: seconds of some clock.
        lasts: seconds for which what was read counts, of that clock.
    """

    def __init__(
        self,
        epoch: Callable[[], int | None],
        load: Callable[[], Awaitable[T]],
        *,
        clock: Callable[[], float] = lambda: 0.0,
        lasts: float = math.inf,
    ) -> None:
        self._epoch = epoch
        self._load = load
        self._clock = clock
        self._lasts = lasts
        self._loading = asyncio.Lock()
        self._loads = 0
        self._held: tuple[int | None, float, T] | None = None
        self._failure: Exception | None = None

    async def get(self) -> T:
        """What the store held when this was called, or at most `lasts` before. Raises: whatever `load` raises."""
        if not self._holds():
            needed = self._loads + 1 + self._loading.locked()
            async with self._loading:
                if self._loads < needed and not self._holds():
                    await self._read()
        if self._held is None:
            assert self._failure is not None  # noqa: S101 - one of both is what the last read brought
            raise self._failure.with_traceback(None)
        return self._held[2]

    def _holds(self) -> bool:
        if self._held is None:
            return False
        epoch, at, _ = self._held
        return epoch is not None and epoch == self._epoch() and self._clock() - at < self._lasts

    async def _read(self) -> None:
        # What changes while this is read gives it an epoch that is over: the next one reads anew.
        epoch, at = self._epoch(), self._clock()
        try:
            self._held, self._failure = (epoch, at, await self._load()), None
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            self._held, self._failure = None, error
        self._loads += 1
