"""A census of listening sockets: an edge and a controller listen on loopback and on configured listeners only."""

import os
from functools import partial

import pytest

from deploy.demo.plant import Plant, until
from deploy.demo.ports import free_port
from tests.support.census import Socket, listening, none_alive, tree
from tests.support.traffic import Caller, reachable

pytestmark = pytest.mark.timeout(300)

LAN = "127.0.0.9"
"""Stands for an address of the LAN: the census must find a listener that is told to be there."""


def test_each_program_listens_where_it_was_told_and_nowhere_else(plant: Plant, port: int):
    udp = plant.offer(free_port(), asset="plc-u", protocol="telemetry", transport="udp")
    lan = free_port()
    plant.ferrule(
        "add",
        "listener",
        "edge-a",
        "plc-b.echo",
        "--listen",
        f"{LAN}:{lan}",
        "--as",
        "hmi-a",
    )
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")
    pid = {name: program.pid for name, program in plant.programs.items()}
    configured = {
        Socket("tcp", "127.0.0.1", port),
        Socket("tcp", LAN, lan),
        Socket("udp", "127.0.0.1", udp),
    }
    until(lambda: configured <= listening(pid["edge-a"]), 5, "the listeners of edge-a")
    with Caller(port) as caller:
        caller.echo()
        assert listening(pid["edge-a"]) == configured
        assert listening(pid["edge-b"]) == set(), "a hosting edge only dials"
        assert listening(pid["controller"]) == {Socket("tcp", "127.0.0.1", plant.api_port)}
        router = listening(pid["router-1"])
        door = Socket("tcp", "127.0.0.1", plant.router_ports["router-1"])
        assert door in router
        assert all(each.loopback for each in router - {door}), "status and metrics"
        expected = max(1, len(os.sched_getaffinity(0)) - 1)
        until(lambda: len(tree(pid["router-1"])) > expected, 5, "the workers of the router")
        workers = tree(pid["router-1"])[1:]
        assert len(workers) == expected
        assert all(listening(worker) == set() for worker in workers), "a worker only gets"


def test_a_routers_processes_end_with_the_first(plant: Plant):
    for end in (plant.terminate, plant.kill):
        until(lambda: len(tree(plant.programs["router-1"].pid)) > 1, 10, "its workers")
        processes = tree(plant.programs["router-1"].pid)
        end("router-1")
        until(partial(none_alive, processes), 5, "the end of all its processes")
        plant.start_again("router-1")
        plant.ferrule("status", "--wait", "40s")


def test_a_removed_listener_is_closed(plant: Plant, port: int):
    gone = plant.offer(free_port(), asset="plc-r", protocol="gone")
    pid = plant.programs["edge-a"].pid
    plant.ferrule("rm", "listener", f"edge-a:127.0.0.1:{gone}")
    until(lambda: Socket("tcp", "127.0.0.1", gone) not in listening(pid), 5, "its end")
    assert Socket("tcp", "127.0.0.1", port) in listening(pid)


def test_an_edge_without_listeners_has_no_open_port_after_a_restart_either(plant: Plant):
    plant.terminate("edge-b")
    plant.start_again("edge-b")
    plant.connected()
    assert listening(plant.programs["edge-b"].pid) == set()
