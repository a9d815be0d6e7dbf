"""What may happen to a circuit and how often; the ends of it, its paths, and what is on its way over them."""

from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

from overlay import limits
from overlay.circuit import receiving, sending
from tests.model.stand_ins import new_core

WHO = ("caller", "host")


class Broken(Exception):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Scenario:
    """What may happen, how often. The numbers of `writes` and `closes` are the caller's and the host's.

    Args:
        writes: frames that each program sends, a byte each.
        ends: whether each program half-closes at last.
        cuts: paths that are lost with all that is on them.
        hasty: times that the caller gives up a path that only was slow.
        moves: times that the caller leaves a path that is good (another lane, a router that drains).
        crashes: (callers, hosts) that die.
        aborts: programs that end the circuit in the middle.
        outlasted: ends that wait for a path or a last word until their time is up.
        refreshes: other grants that the caller sends along.
        asks: times that the host asks for another path, whether or not it has one (C-64).
        slow_reader: programs read a byte when they like, else all at once as it comes.
        checkpoints: the timer may ask for a checkpoint at any time, else only CLOSE has one.
        opening: begin with OPEN ("later": of a living association, "handshake": the first one), else after READY.
        early: OPEN carries a byte of data.
        window: bytes that the other end may send at first.
    """

    writes: tuple[int, int] = (1, 0)
    ends: tuple[bool, bool] = (True, True)
    cuts: int = 1
    hasty: int = 0
    moves: int = 0
    crashes: tuple[int, int] = (0, 0)
    aborts: int = 0
    outlasted: int = 0
    refreshes: int = 0
    asks: int = 0
    slow_reader: bool = False
    checkpoints: bool = False
    opening: str = ""
    early: bool = False
    window: int = 4


class Item(NamedTuple):
    """Something on its way over one hop: a frame, or OPEN, ACCEPT, REFUSE, RESET, of which only that counts."""

    what: str
    header: Any = None
    payload: bytes = b""
    meaning: tuple[Any, ...] = ()
    """What a control frame says, and its number."""


class Hop:
    """One path: what is on its way to the host and back, and what the host takes it for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.wires: tuple[deque[Item], deque[Item]] = (deque(), deque())
        self.said = [False, False]
        """By role: its last frame was said here (L-38)."""
        self.heard = [False, False]
        """By role: the other's last frame has come."""
        self.waits = ""
        """At the host: "arriving" or "candidate" while it is not the circuit's."""


class End:
    """One core, its program, and the hop that it is on."""

    def __init__(self, role: int, scenario: Scenario) -> None:
        self.role = role
        self.core: Any = new_core(role)
        self.hop: int | None = None
        self.to_write = scenario.writes[role]
        self.will_end = scenario.ends[role]
        self.sent = 0
        self.got = 0
        self.unread = 0
        self.heard_end = False
        self.over: Any = None
        self.marks = (0, 0, 0, 0)


@contextmanager
def small_numbers(scenario: Scenario) -> Any:
    """With limits so low that few frames reach them."""
    with ExitStack() as stack:
        for module, name, value in (
            (limits, "INITIAL_WINDOW", scenario.window), (limits, "MAX_WINDOW", 4096),
            (limits, "CHECKPOINT_BYTES", 1 << 20), (sending, "SMALL_CREDIT", 1),
            (sending, "KEPT_FRAMES", 3), (receiving, "ACKNOWLEDGE_FRAMES", 2),
        ):  # fmt: skip
            stack.enter_context(patch.object(module, name, value))
        yield
