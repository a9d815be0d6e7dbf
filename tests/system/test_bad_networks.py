"""Real programs over networks that are made bad, and what must come of it: every byte exactly once, no connection closed.

Two routers; both edges have a wire to each. The wires carry 100 Mbit/s at best, so that bulk leaves the machine some room.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from bench.impairment.core import Impairment
from bench.impairment.driver import entered
from bench.impairment.network import Network, network
from bench.impairment.plant import TWIN, NetworkPlant, nodes
from deploy.demo.plant import until
from tests.support.needs import need_program, need_root
from tests.support.records import assert_whole, export
from tests.support.steady import Bulk, Polls
from tests.support.traffic import Caller, Echo

pytestmark = pytest.mark.timeout(300)

GOOD = Impairment(rate=100e6, burst=60_000)
ROUTERS = tuple(TWIN)
EDGE_WIRES = tuple(f"{edge}-{router}" for edge in "ab" for router in ROUTERS)
INTEGRITIES = ("normal", "strict")


@dataclass
class Bad:
    """The plant, its network, and where edge-a offers the echo in each integrity mode."""

    plant: NetworkPlant
    net: Network
    ports: dict[str, int]

    def make(self, how: Impairment = GOOD, wires: Sequence[str] = EDGE_WIRES) -> None:
        """All wires of the edges are as bad as this."""
        self.net.wires.set_all({name + way: how for name in wires for way in "><"})

    def joined(self) -> None:
        """Wait until both edges have connections to both routers."""
        until(lambda: all(len(self.plant.linked(one)) == len(ROUTERS) for one in "ab"), 30, "links")

    def whole(self) -> None:
        """Wait until every link is there, and both edges say so."""
        until(self.plant.whole, 30, "every link")
        for edge in ("edge-a", "edge-b"):
            until(lambda: len(self.plant.routers_of(edge)) == len(ROUTERS), 20, edge)  # noqa: B023

    def caller(self, integrity: str = "normal") -> Caller:
        with entered(self.net.name("a")):
            return Caller(self.ports[integrity], 120)

    @contextmanager
    def traffic(self) -> "Iterator[list[Polls | Bulk]]":
        """Polls and bulk in both integrity modes; at the end all of it must have come back, once and in order."""
        with ExitStack() as stack:
            with entered(self.net.name("a")):
                made = [kind(self.ports[mode]) for mode in INTEGRITIES for kind in (Polls, Bulk)]
            for one in made:
                stack.enter_context(one)
            goes_on(made)
            yield made
            goes_on(made)

    def carrier(self) -> str:
        """The router that carries most of what goes on now."""
        before = self.net.wires.counts()

        def busiest() -> tuple[int, str]:
            after = self.net.wires.counts()
            return max(
                (after[f"a-{one}>"].bytes - before[f"a-{one}>"].bytes, one) for one in ROUTERS
            )

        until(lambda: busiest()[0] > 50_000, 20, "traffic")
        return busiest()[1]


def goes_on(traffic: "Sequence[Polls | Bulk]") -> None:
    """Wait until each of them has got some more."""
    for one in traffic:
        if isinstance(one, Polls):
            one.more(5, 120)
        else:
            one.more(200_000, 120)


@pytest.fixture(scope="module")
def bad() -> Iterator[Bad]:
    need_root()
    need_program("ip", "iproute2")
    with network(f"impair{os.getpid()}b", nodes(TWIN)) as net:
        with entered(net.name("b")):
            echo = Echo()
        with echo, NetworkPlant(net, TWIN) as plant:
            ports = {mode: plant.offer(echo.port, protocol=f"echo-{mode}") for mode in INTEGRITIES}
            plant.ferrule("allow", "hmi-a", "plc-b", "echo-normal")
            plant.ferrule("allow", "hmi-a", "plc-b", "echo-strict", "--strict")
            yield Bad(plant, net, ports)


@pytest.fixture(autouse=True)
def _good(bad: Bad) -> None:
    bad.make()
    bad.whole()


BAD = {
    "200 ms round trip": Impairment(delay=0.05),  # two hops of 100 ms
    "1 Mbit/s": Impairment(rate=1e6, queue=32_000),
    "5 % loss": Impairment(delay=0.005, loss=0.05, rate=20e6),
    "reordering and jitter": Impairment(delay=0.01, jitter=0.02, reorder=0.1, reorder_by=0.03),
}


def test_every_byte_arrives_once_and_circuits_live_on_bad_networks(bad: Bad):
    sent = os.urandom(60_000)
    with bad.caller() as old:
        old.echo()
        for how in BAD.values():
            bad.make(how)
            old.echo(sent)
            with bad.caller("strict") as new:
                new.echo(sent)
        bad.make()
        old.echo(sent)


@pytest.mark.parametrize("controller", ["alive", "dead"])
def test_lost_routers_and_cables_cost_no_byte_and_no_connection(bad: Bad, controller: str):
    """In the middle of polls and bulk, in both integrity modes."""
    plant, wires = bad.plant, bad.net.wires
    if controller == "dead":
        plant.kill("controller")
    with bad.traffic() as traffic:
        for edge in "ab":
            cable = f"{edge}-{bad.carrier()}"
            wires.cut(cable)
            goes_on(traffic)
            wires.heal(cable)
            bad.joined()
        router = bad.carrier()
        plant.kill(router)
        goes_on(traffic)
        plant.start_again(router)
    if controller == "dead":
        plant.start_again("controller")
    plant.connected()


def test_a_way_that_is_open_in_one_direction_only_is_left(bad: Bad):
    with bad.traffic() as traffic:
        way = f"a-{bad.carrier()}<"
        bad.net.wires.cut(way)
        goes_on(traffic)
        bad.net.wires.heal(way)


def test_a_partition_that_heals_within_the_resume_time_costs_nothing(bad: Bad):
    """C-63."""
    with bad.traffic() as traffic:
        bad.net.wires.cut(*EDGE_WIRES)
        until(lambda: not bad.plant.linked("a"), 20, "the edge to give its links up")
        bad.net.wires.heal(*EDGE_WIRES)
        goes_on(traffic)


def test_an_edge_goes_to_another_network(bad: Bad):
    """Its address is another one from one moment to the next, and nobody closes what used the old one."""
    with bad.traffic() as traffic:
        bad.net.readdress("a", "10.79.0.201")
        goes_on(traffic)


def test_an_edge_sleeps_and_wakes(bad: Bad):
    with bad.traffic() as traffic:
        links = bad.plant.connections("a")
        bad.plant.signal("edge-a", signal.SIGSTOP)
        try:
            # The kernel answers for a program that sleeps, so it is the routers that close.
            until(lambda: not links & bad.plant.connections("a"), 20, "the routers to give it up")
        finally:
            bad.plant.signal("edge-a", signal.SIGCONT)
        goes_on(traffic)


def test_the_only_router_comes_back_within_the_resume_time(bad: Bad):
    """C-63."""
    plant = bad.plant
    with bad.traffic() as traffic:
        for name in ROUTERS:
            plant.kill(name)
        plant.start_again(ROUTERS[0])
        goes_on(traffic)
    plant.start_again(ROUTERS[1])


def test_after_all_that_every_event_and_receipt_is_there(bad: Bad):
    plant = bad.plant
    plant.connected()
    until(lambda: not plant.live(), 30, "all sessions to end")
    records = export(plant)
    assert_whole(records)
    ended = [one for one in plant.json("sessions", "--history") if one["ended"]]
    closed = {one["circuit"]: one for one in records if one["event"] == "circuit.close"}
    assert len(ended) >= 4
    for one in ended:
        assert one["bytes_in"] == one["bytes_out"], "the echo gave back what it got"
        assert closed[one["id"]]["outcome"] == "done"
