"""What an edge's folder says of its host, for a start and for the doctor: what was changed, and what is intercepted."""

from pathlib import Path

from edge.doctor.findings import Finding, Subject
from edge.intercept.plan import conflicts, forwarded_assets, router_addresses
from edge.intercept.table import Table
from edge.interception import AUTO, ORDER
from edge.local_control import NotRunningError, ask
from edge.machine.changes import HostChanges
from edge.machine.making import HostMachine
from edge.machine.netlink import Netlink
from edge.names.host_names import resolvers
from overlay.aio.lifecycle import describe
from overlay.aio.shelf import DamagedError, Shelf
from overlay.aio.system import System
from overlay.aio.uplinks import targets
from overlay.aio.world import World
from overlay.control.messages import Assignments
from overlay.errors import DecodeError, FerruleError, InputError
from overlay.fabric.authority import FabricMap
from overlay.policy.interception import MODES, Pools
from overlay.wire.codec import Signed, decode


async def take_back(world: World, directory: Path) -> HostChanges:
    """Take back what an earlier run, that was killed, changed on this host; `left` says what stays.

    Raises:
        FerruleError: the journal is damaged, or cannot be written.
    """
    try:
        changes = await HostChanges.open(world, directory, HostMachine())
        if changes.made:
            await changes.undo()
    except OSError as error:
        raise FerruleError(f"{directory} cannot be used: {describe(error)}") from None
    return changes


async def subject(directory: Path, interface: str) -> Subject:
    """What the doctor has to look at: of the running edge, else as it was assigned last.

    Raises:
        FerruleError: the folder cannot be used.
    """
    if not directory.is_dir():  # noqa: ASYNC240 - a command, not a server
        raise FerruleError(f"{directory} is not the folder of an edge.")
    try:
        status = await ask(directory, "status")
    except NotRunningError:
        return await _assigned(directory, interface)
    running = Subject(
        interface, runs=True, admin=status.get("net_admin"), names=status.get("names"),
        dials=tuple((host, port) for host, port in status.get("dials", ())),
    )  # fmt: skip
    caught = status.get("interception")
    if not caught:
        return running._replace(modes=())
    return running._replace(
        interface=caught["name"], pools=tuple(caught["pools"]),
        modes=tuple(caught["mode"].split(" and ")) if caught["mode"] else (),
        problems=tuple(caught["problems"]), devices=tuple(caught["devices"]),
        senders=tuple(caught["senders"]), catches=tuple(caught["catches"]),
    )  # fmt: skip


async def left_behind(directory: Path, *, repair: bool) -> Finding:
    """What a run that was killed left on this host. Raises: FerruleError: the folder cannot be used."""
    world = System()
    try:
        release = world.disk.lock(directory)
    except BlockingIOError:
        return Finding(
            "left behind", ok=True, text="an edge runs and looks after its changes itself"
        )
    except OSError as error:
        raise FerruleError(f"{directory} cannot be used: {describe(error)}") from None
    try:
        changes = await HostChanges.open(world, directory, HostMachine())
        made = len(changes.made)
        left = (await take_back(world, directory)).left if repair else []
    finally:
        release()
    if left:
        return Finding("left behind", ok=False, text="; ".join(left))
    if made and not repair:
        text = f"{made} changes of an edge that was killed are still on this host: --repair takes them back"
        return Finding("left behind", ok=False, text=text)
    return Finding(
        "left behind", ok=True, text=f"{made} changes were taken back" if made else "nothing"
    )


async def _assigned(directory: Path, interface: str) -> Subject:
    try:
        kept = await Shelf(System(), directory).load(
            "assignments", Assignments, without="start without assignments"
        )
    except (DamagedError, OSError) as error:
        return Subject(interface, problems=(f"what is assigned cannot be read: {error}",))
    if kept is None or not kept.intercepts:
        return Subject(interface)
    try:
        pools = Pools.of(
            kept.pools, bytes(32)
        )  # where IPv6 has its default pool is the edge's to say
        fabric = decode(FabricMap, decode(Signed, kept.fabric).body) if kept.fabric else None
    except (InputError, DecodeError) as error:
        return Subject(interface, problems=(str(error),))
    table = Table(kept.intercepts, kept.behind, pools)
    with Netlink() as kernel:
        own = [one.ip for _, one in kernel.addresses()]
    _, found = conflicts(table, router_addresses(fabric), own, resolvers())
    modes = {MODES[entry.mode].replace(AUTO, ORDER[0]) for entry in kept.intercepts}
    behind = forwarded_assets(kept, own)
    return Subject(
        interface, (str(pools.v4),), tuple(sorted(modes)), (*table.problems, *found.values()),
        behind.names, behind.addresses, dials=tuple((one.host, one.port) for one in targets(fabric, ())),
    )  # fmt: skip
