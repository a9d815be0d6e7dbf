"""When a link stops reading for a moment: its turn of the event loop is over (L-26)."""

import asyncio

from overlay.aio.world import Connection
from overlay.wire.header import Kind

FRAMES_PER_TURN = 128
"""Frames of one link that are handled before the event loop looks at all others (L-26): with one buffer of small frames
a link would else keep it for a quarter of a second."""
DEAR = {Kind.OPEN: 8, Kind.RESUME: 8, Kind.CONTROL: FRAMES_PER_TURN}
"""As how many frames one counts for which signatures may have to be checked; in a CONTROL frame these are many."""


class ReadTurns:
    """What a link does between two of its turns."""

    _connection: Connection
    _loop: asyncio.AbstractEventLoop

    def _wait(self) -> None:
        """Go on in the loop's next turn; nothing is read before."""
        self._connection.pause()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._connection.resume()
        self._parse()

    def _parse(self) -> None:
        """Hand out frames that are complete, as many as one turn may take."""
        raise NotImplementedError
