"""`ferrule-router`: the program around `router.router`."""

import asyncio
from collections import Counter
from importlib.metadata import version as version_of
from pathlib import Path

import click

from overlay import limits
from overlay.addresses import format_address
from overlay.aio.command import METRICS, Settings, command, program, start
from overlay.aio.endpoint import Endpoint
from overlay.aio.lifecycle import UsageError, collect_rarely
from overlay.aio.link_listener import LinkListener
from overlay.aio.logs import FORMATS, get_logger
from overlay.aio.node import NodeAgent
from overlay.aio.options import listen_at, parse_listen
from overlay.aio.status_server import StatusServer
from overlay.aio.system import System
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.errors import Code
from overlay.identity.certificate import Role
from overlay.wire.bodies import EXPRESS
from router.metrics import families
from router.processes import Starter, starter, usual_workers
from router.router import Router

_log = get_logger("router")


@program("ferrule-router", "ferrule-router run --config /etc/ferrule/router.toml")
def main() -> None:
    """A Ferrule router: forwards sealed frames between edges, and can read none of them."""


@command(
    main,
    "ferrule-router run --dir /var/lib/ferrule-router --listen 0.0.0.0:8441 --token router-1.token",
)
@click.option("--dir", metavar="DIR", help="Where all its state is kept (made, 0700). Needed.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Where others dial in, such as 0.0.0.0:8441. Needed."
)
@click.option("--token", metavar="FILE", help="Enrol first, when DIR is new; ignored afterwards.")
@METRICS
@click.option(
    "--workers",
    metavar="N",
    help=f"Processes for bulk (default: cores minus one, 1 to {limits.BULK_LANES}); 0: none.",
)
def run(**given: str | None) -> None:
    """Run until SIGTERM; enrol first when DIR is new."""
    start(given, ("dir", "listen"), _check, _serve_real)


def _check(settings: Settings) -> None:
    parse_listen(settings["listen"], "--listen")
    if "metrics" in settings:
        parse_listen(settings["metrics"], "--metrics")
    _workers(settings)


def _workers(settings: Settings) -> int:
    """How many workers. Raises: UsageError: not a number that can be."""
    text = settings.get("workers")
    if text is None:
        return usual_workers()
    if not text.isascii() or not text.isdigit() or int(text) > limits.BULK_LANES:
        raise UsageError(f"--workers must be a number from 0 to {limits.BULK_LANES}, not {text!r}.")
    return int(text)


async def _serve_real(settings: Settings, stop: asyncio.Event) -> None:
    collect_rarely()
    start_worker = starter(settings.get("log-format", FORMATS[0]))
    await serve(System(), settings, stop, bulk_lanes=_workers(settings), starter=start_worker)


async def serve(
    world: World,
    settings: Settings,
    stop: asyncio.Event,
    *,
    bulk_lanes: int = 0,
    starter: Starter | None = None,
) -> None:
    """Run a router until `stop` is set. Without a `starter` of workers the bulk lanes are in this very process.

    Raises:
        FerruleError: DIR, token or an address cannot be used; one sentence says why.
    """
    version = version_of("ferrule")
    token = settings.get("token")
    agent = await NodeAgent.open(
        world,
        Path(settings["dir"]),
        role=Role.ROUTER,
        version=version,
        token=None if token is None else Path(token),
    )
    try:
        endpoint = Endpoint(
            world, agent.credentials, agent.signers, agent.plant_now, _no_grants, agent.boot,
            admit=agent.holdings.admit, on_link=agent.link_changed,
            certificate_now=agent.certificate_now,
        )  # fmt: skip
        router = Router(world, agent, endpoint, version, bulk_lanes, starter)
        workers = router.workers
        listener = LinkListener(
            world, agent.credentials, router, agent.certificate_now,
            refuse=router.refuse_link, failed=router.handshake_failed,
            boot=agent.boot, version=version,
            lanes=range(bulk_lanes + 1) if workers is None else (EXPRESS,), bulk_lanes=bulk_lanes,
            hand_over=None if workers is None else workers.give,
        )  # fmt: skip
        agent.use(endpoint, router)
        await _serve(world, settings, stop, agent, router, listener, endpoint)
    finally:
        await agent.close()


async def _serve(
    world: World,
    settings: Settings,
    stop: asyncio.Event,
    agent: NodeAgent,
    router: Router,
    listener: LinkListener,
    endpoint: Endpoint,
) -> None:
    def told() -> dict[str, object]:
        return facts(agent, router, listener)

    status = StatusServer(world, lambda: families(told()), told)
    housekeeping = None
    try:
        await listen_at(listener.listen, settings["listen"], "--listen")
        _log.info("router.listening", at=format_address(*listener.local), name=agent.name)
        if "metrics" in settings:
            await listen_at(status.listen, settings["metrics"], "--metrics")
        housekeeping = spawn(router.run(), "router housekeeping")
        await agent.run(stop)
    finally:
        await cancel(housekeeping)
        status.close()
        listener.close()
        await router.leave()
        endpoint.close()


def facts(agent: NodeAgent, router: Router, listener: LinkListener) -> dict[str, object]:
    """The router's state, for `/status` and metrics: sums over all its processes, then each worker."""
    workers = [] if router.workers is None else router.workers.facts()
    counts = Counter({**router.counts, "frames": router.frames, "bytes": router.bytes})
    counts["handshakes_turned_away"] = listener.refused
    if router.workers is not None:
        counts.update(router.workers.totals())

    def of_workers(key: str) -> int:
        return sum(worker[key] for worker in workers)

    return {
        "name": agent.name,
        "connected": agent.connected,
        "fresh": agent.fresh(),
        "forks": len(agent.witnessing.witness.forks),
        "links": len(listener.links) + of_workers("links"),
        "neighbours": sorted(router.links.express),
        "circuits": len(router.table) + of_workers("circuits"),
        "queued_bytes": router.queued_bytes() + of_workers("queued_bytes"),
        "busy": round(100 * router.busiest()),
        "counts": dict(counts),
        "workers": workers,
    }


def _no_grants(*_: object, **__: object) -> tuple[Code, str]:
    return Code.NO_GRANT, "a router hosts and dials nothing"
