"""The seam: everything outside a process that Ferrule touches, behind one small interface.

Programs get a `World` and use nothing else for network, time, randomness and disk.
`overlay.aio.system` implements it on the machine; `tests.support.simulation` implements it in one
process with virtual time and seeded faults. Timers come from the running event loop
(`loop.call_at`), whose clock the simulation replaces as well.
"""

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Buffer = bytes | bytearray | memoryview


class Receiver(Protocol):
    """Who gets the bytes of a `Connection`. Called from the event loop only; must not block."""

    def buffer(self) -> memoryview:
        """Where the next bytes may be written; never empty.

        Owned by the receiver (shared per event loop, not per circuit).
        """
        ...

    def received(self, count: int) -> None:
        """`count` bytes are in the memory that `buffer()` returned last."""
        ...

    def ended(self) -> None:
        """The other side will send nothing more (half-close); writing is still possible."""
        ...

    def writable(self) -> None:
        """`write` took less than it was given before; now it will take more."""
        ...

    def lost(self, error: OSError | None) -> None:
        """The connection is gone, by error or after `close`/`abort` (None). Called exactly once, nothing follows."""
        ...


class Connection(Protocol):
    """A byte stream that its user drives without copies.

    Reads land in the receiver's memory, writes are never buffered here.
    """

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the other side."""
        ...

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds of the event loop's clock, with a finer grain."""
        ...

    def arrived(self, most: int) -> bytes:
        """Before `start`: bytes that have come already, at most so many; they are not read again. May be none."""
        ...

    def start(self, receiver: Receiver) -> None:
        """Begin to read. Calling it again changes the receiver."""
        ...

    def write(self, parts: Sequence[Buffer]) -> int:
        """Bytes of `parts` taken now, possibly 0. If fewer than all: keep the rest and wait for `writable()`.

        After an error it returns the full length (the bytes are lost) and `lost` follows soon.
        """
        ...

    def pause(self) -> None:
        """Stop reading until `resume`."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def end(self) -> None:
        """Send end of stream; reading goes on."""
        ...

    def close(self) -> None:
        """Close at once; what `write` took is still sent by the kernel."""
        ...

    def abort(self) -> None:
        """Close with a reset, so that the other side sees an error and not a normal end."""
        ...

    def release(self) -> None:
        """Nothing of it happens on this event loop any more; `settle` on another is the next call."""
        ...

    def settle(self) -> None:
        """It goes on as it was, on the running event loop."""
        ...

    def hold(self, unsent: int) -> None:
        """The kernel takes no more than so many bytes ahead of what it sends, so that turns are given out here."""
        ...

    def unacknowledged(self) -> int:
        """Bytes that `write` took and the other side's kernel does not have yet, as far as is known."""
        ...

    def fileno(self) -> int:
        """The socket's descriptor, or -1 in the simulation (then nothing may be spliced)."""
        ...


Received = Callable[[memoryview, tuple[str, int], bool], None]
"""Gets a datagram, which is valid during the call only, its sender, and whether another one follows at once."""


class Datagrams(Protocol):
    """An unconnected or connected datagram socket."""

    @property
    def local(self) -> tuple[str, int]:
        """Its own address, with the port that the system chose."""
        ...

    def send(self, data: Buffer, to: tuple[str, int] | None = None) -> bool:
        """Best effort, never blocks. False: it is known already that it went nowhere."""
        ...

    def close(self) -> None:
        """Nothing is received from now on."""
        ...


class Listener(Protocol):
    """A listening socket."""

    @property
    def local(self) -> tuple[str, int]:
        """Where it listens, with the port that the system chose."""
        ...

    def close(self) -> None:
        """Stop accepting; accepted connections live on."""
        ...


class Network(Protocol):
    """Sockets. Errors are `OSError`; connect is bounded by the caller's `asyncio.timeout`."""

    async def connect(self, host: str, port: int, *, source: str = "") -> Connection:
        """A TCP connection, not yet started; from `source`, which need not be an address of this host."""
        ...

    def source(self, remote: tuple[str, int]) -> str:
        """The address from which this host would connect to another's address now; empty when it has no way there."""
        ...

    async def listen(
        self, host: str, port: int, accepted: Callable[[Connection], None]
    ) -> Listener:
        """A TCP listener; port 0 lets the system choose. `accepted` gets connections not yet started."""
        ...

    async def datagrams(
        self,
        received: Received,
        *,
        local: tuple[str, int] | None = None,
        remote: tuple[str, int] | None = None,
        source: str = "",
        refused: Callable[[], None] | None = None,
    ) -> Datagrams:
        """Bind to `local` and/or connect to `remote`; the memoryview is valid during the call only.

        `source` as for `connect`; `refused` is called when it becomes known that nobody took what was sent (ICMP).
        """
        ...


class Clock(Protocol):
    """The two clocks that the design uses (§4.6), and the one of work."""

    def boot(self) -> float:
        """CLOCK_BOOTTIME in seconds: never goes back while the machine is up, counts sleep."""
        ...

    def wall(self) -> int:
        """The machine's wall clock in microseconds since 1970; may be wrong."""
        ...

    def cpu(self) -> float:
        """CPU seconds that this process has used."""
        ...


class Entropy(Protocol):
    """Randomness."""

    def bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""
        ...

    def uniform(self) -> float:
        """In [0, 1), for jitter."""
        ...


class Disk(Protocol):
    """Files that must survive. Each call returns after fsync. Errors are `OSError` (full disk: ENOSPC)."""

    async def read(self, path: Path) -> bytes | None:
        """The file's bytes; None when it does not exist."""
        ...

    async def replace(self, path: Path, data: bytes) -> None:
        """Write a new file beside it, fsync, rename over it, fsync the folder. Mode 0600."""
        ...

    async def append(self, path: Path, data: bytes) -> None:
        """Append and fdatasync; the file is made with mode 0600 when missing."""
        ...

    async def remove(self, path: Path) -> None:
        """Remove a file; nothing when it does not exist."""
        ...

    def lock(self, directory: Path) -> Callable[[], None]:
        """Make `directory` (mode 0700) when missing and take its lock; returns the release.

        Raises:
            BlockingIOError: another program holds it.
        """
        ...


class EventLoop(Protocol):
    """One event loop of this process. What belongs to it is touched by its own callbacks only."""

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it there, in a turn of its own; from anywhere, in the order of posting. Nothing once it is closed."""
        ...

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """From another loop: run it there and wait; when the waiting is cancelled, so is it."""
        ...

    async def close(self) -> None:
        """From another loop: cancel what runs there and end it."""
        ...


class EventLoops(Protocol):
    """The event loops of this process."""

    def here(self) -> EventLoop:
        """The running one. It is not ours to close."""
        ...

    def start(self, name: str) -> EventLoop:
        """Another one, which is not kept waiting by this one."""
        ...


class World(Protocol):
    """All of it."""

    @property
    def net(self) -> Network:
        """Its sockets."""
        ...

    @property
    def clock(self) -> Clock:
        """Its time."""
        ...

    @property
    def entropy(self) -> Entropy:
        """Its randomness."""
        ...

    @property
    def disk(self) -> Disk:
        """Its files."""
        ...

    @property
    def loops(self) -> EventLoops:
        """Its event loops."""
        ...
