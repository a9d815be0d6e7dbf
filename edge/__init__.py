"""The program at the asset: offers and hosts services, and only ever dials out. `edge.open` is the same inside another
program (docs/library.md).
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.library import Plant


def open(  # noqa: A001 - `edge.open` is how it reads
    directory: str | Path, *, token: str | Path | None = None, proxy: str | None = None
) -> "Plant":
    """A plant, for `async with edge.open(directory) as plant`.

    Args:
        directory: the folder of an edge; it enrols with `token` when the folder is new.
        token: the file that `ferrule add edge` wrote.
        proxy: reach routers through this HTTP proxy.
    """
    from edge.library import Plant

    return Plant(directory, token=token, proxy=proxy)
