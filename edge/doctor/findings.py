"""What the doctor examines, and what it says of it. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from overlay.policy.interception import POOL


class Subject(NamedTuple):
    """What is examined: the edge's interface, its pools, the modes by which it intercepts, and what it complains of.

    `devices` are assets that send through this host and `senders` where they are (empty: nobody knows), `catches` what
    is intercepted, `dials` (host and port) where the edge's links lead, `names` what its status says of names. `runs`
    and `admin`: an edge runs here, and has CAP_NET_ADMIN (None: it does not say).
    """

    interface: str = "ferrule0"
    pools: tuple[str, ...] = (POOL,)
    modes: tuple[str, ...] = ("tun",)
    problems: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    catches: tuple[str, ...] = ()
    dials: tuple[tuple[str, int], ...] = ()
    names: Mapping[str, Any] | None = None
    runs: bool = False
    admin: bool | None = None


DEFAULT = Subject()


class Finding(NamedTuple):
    """One check; `text` says what is and, where it is not `ok`, what to do. None: it cannot be judged."""

    check: str
    ok: bool | None
    text: str
