"""Disks of a plant that is enrolled.

Enrolling costs most of a run, so it is done once in a process: every plant begins on copies of the same disks.
"""

import asyncio
import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.x509 import load_der_x509_certificate

from overlay.aio import logs
from overlay.identity.certificate import Role
from tests.simulation.policy import EDGES, ROUTERS
from tests.support.hub_actions import MemoryActions
from tests.support.pki import SECOND, Pki
from tests.support.simulated_plant import SimulatedPlant
from tests.support.simulation import Simulation

SIGNATURE = 71
"""Bytes of most ECDSA signatures."""


class Enrolled(NamedTuple):
    """Disks of a plant that is enrolled."""

    actions: MemoryActions
    disks: dict[str, dict[Path, bytes]]


@contextmanager
def quiet() -> Iterator[None]:
    """What programs log is not the trace; and garbage is not collected in the middle of a run."""
    logs.setup("text", stream=io.StringIO())
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Ageing(MemoryActions):
    """Certificates that want to be renewed a few seconds after each other."""

    def _issue(self, public: bytes, role: Role, name: str, generation: int) -> tuple[bytes, ...]:
        self.life = (150 + 6 * (*ROUTERS, *EDGES).index(name)) * SECOND
        return super()._issue(public, role, name, generation)


@cache
def enrolled(*, ageing: bool) -> Enrolled:
    """Enrol once. Certificates are drawn again until all have one length, so that no seed depends on luck. `ageing`: they
    want to be renewed (after two thirds of their lives) 0 to 20 seconds after the beginning, else after days.
    """
    sim = Simulation(0)
    plant = SimulatedPlant(sim)
    kind = _Ageing if ageing else MemoryActions
    plant.actions = kind(plant.controller.world, EvenPki())

    for name in ("controller", *ROUTERS, *EDGES):  # before what happens afterwards
        sim.host(name).world.clock.skew = -(100 if ageing else 3600) * SECOND

    async def story() -> None:
        plant.start_controller()
        for name in ROUTERS:
            plant.start_router(name)
        edges = [plant.edge(name) for name in EDGES]
        await plant.until(lambda: all(edge.connected for edge in edges))
        await asyncio.sleep(3)
        for edge in edges:
            edge.stop.set()
        await asyncio.sleep(5)

    with quiet():
        sim.run(story())
    names = (*ROUTERS, *EDGES)
    return Enrolled(plant.actions, {name: dict(sim.host(name).world.disk.files) for name in names})


class EvenPki(Pki):
    """Certificates for one name all have the same length: an ECDSA signature has one to three bytes more or less."""

    def __init__(self) -> None:
        super().__init__()
        while not (_even(self.root) and _even(self.issuing)):
            super().__init__()
        self._serial = 1 << 40  # so that all have one length, however many there were

    def chain(self, *args: Any, **options: Any) -> tuple[bytes, bytes]:
        serial = self._serial
        while True:
            self._serial = serial
            leaf, issuing = super().chain(*args, **options)
            if len(load_der_x509_certificate(leaf).signature) == SIGNATURE:
                return leaf, issuing


def _even(der: bytes) -> bool:
    certificate = load_der_x509_certificate(der)
    return len(certificate.signature) == SIGNATURE and certificate.serial_number.bit_length() == 128
