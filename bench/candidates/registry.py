"""The whole list, in the order of the report."""

from pathlib import Path

from bench.candidates.bare import Bare
from bench.candidates.base import Candidate
from bench.candidates.fabric import Fabric, Far, Ranks
from bench.candidates.ferrule import VARIANTS, variants
from bench.candidates.frp import Frp
from bench.candidates.haproxy import Relay
from bench.candidates.kernel import Kernel
from bench.candidates.nebula import Nebula
from bench.candidates.openvpn import OpenVpn
from bench.candidates.openziti import OpenZiti
from bench.candidates.stunnel import StunnelEachHop, StunnelEndToEnd
from bench.candidates.wireguard import WireGuard

REFERENCE = "relay"
"""Ratios are against this one, measured in the same run."""
OURS = "ferrule"
PEERS: tuple[type[Candidate], ...] = (
    Kernel,
    Relay,
    Bare,
    StunnelEndToEnd,
    StunnelEachHop,
    Nebula,
    WireGuard,
    OpenVpn,
    Frp,
    OpenZiti,
)
FABRICS: tuple[type[Fabric], ...] = (Ranks, Far)
NAMES = (
    *(peer.name for peer in PEERS),
    *(variant.name for variant in VARIANTS),
    *(fabric.name for fabric in FABRICS),
)


def make(folder: Path, names: tuple[str, ...]) -> list[Candidate]:
    """The chosen candidates, not started yet."""
    chosen: list[Candidate] = [peer(folder) for peer in PEERS if peer.name in names]
    chosen += [ours for ours in variants(folder) if ours.name in names]
    return chosen + [fabric(folder) for fabric in FABRICS if fabric.name in names]
