"""A small plant, as policy sees it, for tests of what depends on a snapshot."""

from dataclasses import replace

from overlay.policy.model import (
    ActiveKill,
    Asset,
    Conduit,
    Edge,
    Plant,
    Service,
    Zone,
)

SECOND = 1_000_000
HOUR = 3600 * SECOND
NOW = 1_785_924_000 * SECOND
"""Wednesday 2026-08-05 12:00 in Berlin."""

HMI_TO_PLC = Conduit("c1", "hmi-a", "plc-b", "modbus", ends=NOW + 2 * HOUR, hold=8 * 3600)

MILL = Plant(
    name="mill",
    time_zone="Europe/Berlin",
    zones=(
        Zone("site"),
        Zone("cells", parent="site"),
        Zone("cell-1", parent="cells"),
        Zone("office", parent="site"),
    ),
    edges=(
        Edge("edge-a", zone="office"),
        Edge("edge-b", zone="cell-1"),
        Edge("edge-c", zone="cell-1"),
    ),
    assets=(
        Asset("hmi-a", ("edge-a",), address="10.0.0.4", zone="office", tags=("panels",)),
        Asset("plc-b", ("edge-b",), address="10.0.0.5", zone="cell-1", tags=("pumps", "plcs")),
        Asset("plc-c", ("edge-b", "edge-c"), address="10.0.0.6", zone="cells", tags=("plcs",)),
        Asset("lost", (), zone="cells"),
    ),
    users=("anna",),
    routers=("router-1",),
    services=(
        Service("plc-b", "modbus", 502, 502),
        Service("plc-b", "s7", 102, 102),
        Service("plc-c", "modbus", 502, 502),
        Service("edge-c", "ssh", 22, 22),
        Service("plc-c", "snmp", 161, 161, transport=1),
        Service("lost", "modbus", 502, 502),
    ),
)


def with_conduits(*conduits: Conduit, plant: Plant = MILL) -> Plant:
    """The plant with these conduits."""
    return plant.with_conduits(conduits)


def with_kills(plant: Plant, *kills: tuple[str, str], until: int = 0) -> Plant:
    """The plant with a kill for each (level, name)."""
    made = (
        ActiveKill(f"k{n}", level, name, "smoke", "anna", NOW - HOUR, until)
        for n, (level, name) in enumerate(kills)
    )
    return replace(plant, kills=(*plant.kills, *made))


def with_edge(plant: Plant, edge: Edge) -> Plant:
    """The plant with another state of one edge."""
    return replace(
        plant, edges=tuple(edge if one.name == edge.name else one for one in plant.edges)
    )
