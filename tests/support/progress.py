"""Long work in parts, on several cores, and how much of it is left."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Part(NamedTuple, Generic[T]):
    """`weight`: in any unit of which one takes about as long as another. `call` runs in a process of its own."""

    name: str
    weight: float
    call: Callable[..., T]
    arguments: tuple[object, ...]


def done_in_turn(parts: Sequence[Part[T]], jobs: int | None = None) -> Iterator[T]:
    """The result of each part, in their order; the heaviest begin. What is done, and when the rest may be, goes to standard
    error.

    Args:
        jobs: so many at once; None: one for each core.
    """
    total = sum(part.weight for part in parts)
    begun, done = time.monotonic(), 0.0

    def tell(part: Part[T]) -> None:
        nonlocal done
        done += part.weight
        spent = time.monotonic() - begun
        left = spent * (total - done) / done
        print(
            f"{part.name}: {done / total:.0%} after {spent:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        futures = {}
        for part in sorted(parts, key=lambda one: -one.weight):
            future = futures[part] = pool.submit(part.call, *part.arguments)
            future.add_done_callback(lambda _, part=part: tell(part))  # type: ignore[misc]
        for part in parts:
            yield futures[part].result()
