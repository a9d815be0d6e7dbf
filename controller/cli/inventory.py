"""`add`, `token`, `ls`, `show`, `set`, `rm`: the things of the plant."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from controller.cli import output
from controller.cli.client import Json
from controller.cli.failure import Misuse, not_yet
from controller.cli.files import whole_file
from controller.cli.policy import print_denied
from controller.cli.words import client, command, given, group
from overlay.errors import DecodeError

COLUMNS: dict[str, tuple[str, ...]] = {
    "zone": ("name", "level", "sl", "parent"),
    "router": ("name", "address", "state", "dials", "draining"),
    "edge": ("name", "zone", "state", "pools"),
    "asset": ("name", "edges", "address", "mac", "zone", "tags"),
    "service": ("name", "port", "port_end", "transport", "connect", "health", "source"),
    "listener": ("name", "edge", "service", "listen", "transport", "as"),
    "intercept": ("name", "mode", "dns", "overlay", "addresses", "as"),
    "conduit": ("id", "text", "until", "by"),
    "session": ("id", "who", "service", "address", "path", "started", "ended"),
    "kill": ("id", "level", "name", "reason", "by", "since", "until"),
}
LATER = frozenset({"user", "request"})
REPEATED = {
    "router": frozenset({"dials"}),
    "edge": frozenset({"pool"}),
    "asset": frozenset({"edge", "tag"}),
    "intercept": frozenset({"address"}),
}
"""Keys of `set` that hold several values, by kind."""
WHOLE_ONLY = {
    "session": "a session cannot be changed or removed: `ferrule kill session ID` cuts it",
}


class Kind(click.ParamType[str]):
    """A kind of object; those of later builds are refused as such."""

    name = "KIND"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The kind, in the singular: `routers` is taken for `router`."""
        kind = value.lower().removesuffix("s") if value.lower() != "s" else value
        if kind in LATER:
            raise not_yet(f"the kind `{kind}`")
        if kind not in COLUMNS:
            self.fail(f"{value!r} is no kind: one of {', '.join(COLUMNS)}", param, ctx)
        return kind


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    add = group(
        "add",
        "Add a zone, router, edge, asset, service, listener or intercept.",
        "ferrule add asset plc-b --edge edge-b --address 192.168.1.20",
        later=("user",),
    )
    root.add_command(add)
    command(add, "zone", "ferrule add zone cell-3 --level 1 --sl 2 --parent plant-floor")(add_zone)
    command(add, "router", _ROUTER_EXAMPLE)(add_router)
    command(add, "edge", "ferrule add edge edge-a --zone cell-3 --token-out edge-a.token")(add_edge)
    command(add, "asset", _ASSET_EXAMPLE)(add_asset)
    command(add, "service", "ferrule add service plc-b modbus")(add_service)
    command(add, "listener", _LISTENER_EXAMPLE)(add_listener)
    command(add, "intercept", _INTERCEPT_EXAMPLE)(add_intercept)
    command(root, "token", "ferrule token edge edge-a --token-out edge-a.token")(token)
    command(root, "ls", "ferrule ls asset")(ls)
    command(root, "show", "ferrule show edge edge-a")(show)
    command(root, "set", "ferrule set asset plc-b address=192.168.1.21 tag=line-2 tag=safety")(set_)
    command(root, "rm", "ferrule rm listener edge-a:127.0.0.1:1502")(rm)


_ROUTER_EXAMPLE = "ferrule add router router-1 --address dmz.mill.example:8441 --token-out r1.token"
_ASSET_EXAMPLE = "ferrule add asset plc-b --edge edge-b:1 --edge edge-c:2 --address 192.168.1.20"
_LISTENER_EXAMPLE = "ferrule add listener edge-a plc-b.modbus --listen 127.0.0.1:1502 --as hmi-a"
_INTERCEPT_EXAMPLE = "ferrule add intercept edge-a plc-b --address 192.168.1.20 --as hmi-a"

token_option = click.option(
    "--token-out", required=True, metavar="FILE", help="Where the one-time token is written."
)


@contextlib.contextmanager
def _token_file(path: str, role: str, name: str) -> Iterator[IO[bytes]]:
    """A file for the token of this node.

    Raises:
        Misuse: what is there is not an older token of the same node; nothing is changed.
    """
    target = Path(path)
    if target.is_file():
        from overlay.identity.enrolment import MAX_TOKEN, Token

        try:
            with target.open(encoding="utf-8", errors="replace") as file:
                there = Token.parse(file.read(MAX_TOKEN + 1))
        except DecodeError:
            raise Misuse(
                f"{path} is there already and no token: remove it, or choose another"
            ) from None
        except OSError as error:
            raise Misuse(f"{path} is there already, and cannot be read: {error.strerror}") from None
        if (there.role.value, there.name) != (role, name):
            raise Misuse(
                f"{path} holds the token of {there.role.value} {there.name}: remove it, or choose another"
            )
    with whole_file(path) as made:
        yield made


def _with_token(answer: Json, file: IO[bytes], path: str) -> Json:
    """Write the token; the rest is what is shown."""
    file.write(answer["token"].strip().encode() + b"\n")
    rest = {key: value for key, value in answer.items() if key != "token"}
    return {**rest, "token_file": path}


def _made(kind: str, answer: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_document(answer)
        return
    output.say(f"added {kind} {output.clean(answer['name'])}")
    if "token_file" in answer:
        _say_token(answer)


def _say_token(answer: Json) -> None:
    output.say(
        f"its token is in {answer['token_file']}: it works once, until {output.moment(answer['expires'])}"
    )


@click.argument("name")
@click.option("--level", type=click.IntRange(0, 5), help="Purdue level.")
@click.option("--sl", type=click.IntRange(1, 4), help="Target security level.")
@click.option("--parent", metavar="ZONE", help="The zone around it.")
def add_zone(
    name: str, level: int | None, sl: int | None, parent: str | None, *, as_json: bool
) -> None:
    """Add a zone."""
    body = given({"name": name, "level": level, "sl": sl, "parent": parent})
    _made("zone", client().post("zones", body=body), as_json=as_json)


@click.argument("name")
@click.option("--address", required=True, metavar="HOST:PORT", help="Where others dial it.")
@click.option("--dials", multiple=True, metavar="ROUTER", help="A router that it dials itself.")
@token_option
def add_router(
    name: str, address: str, dials: tuple[str, ...], token_out: str, *, as_json: bool
) -> None:
    """Add a router and write its token."""
    with _token_file(token_out, "router", name) as file:
        body = {"name": name, "address": address, "dials": list(dials)}
        answer = _with_token(client().post("routers", body=body), file, token_out)
    _made("router", answer, as_json=as_json)


@click.argument("name")
@click.option("--zone", metavar="ZONE", help="The zone that it is in.")
@click.option(
    "--pool", multiple=True, metavar="SUBNET",
    help="Where assets get overlay addresses on it: one IPv4 subnet (100.64.0.0/10), one IPv6 subnet.",
)  # fmt: skip
@token_option
def add_edge(
    name: str, zone: str | None, pool: tuple[str, ...], token_out: str, *, as_json: bool
) -> None:
    """Add an edge and write its token."""
    with _token_file(token_out, "edge", name) as file:
        body = given({"name": name, "zone": zone, "pools": list(pool) or None})
        answer = _with_token(client().post("edges", body=body), file, token_out)
    _made("edge", answer, as_json=as_json)


@click.argument("role", type=click.Choice(["router", "edge"]), metavar="router|edge")
@click.argument("name")
@token_option
def token(role: str, name: str, token_out: str, *, as_json: bool) -> None:
    """Make a fresh token for a router or an edge.

    For when the old one was lost or has expired, or the machine is replaced. It works once, for 24 hours.
    """
    with _token_file(token_out, role, name) as file:
        answer = _with_token(client().post(f"{role}s", name, "token"), file, token_out)
    if as_json:
        output.as_document(answer)
    else:
        _say_token(answer)


@click.argument("name")
@click.option(
    "--edge", multiple=True, required=True, metavar="EDGE[:PRIORITY[:WEIGHT]]",
    help="The edge before it; of several, the lowest priority number hosts, and those of one number share by weight.",
)  # fmt: skip
@click.option(
    "--address", metavar="IP|SUBNET",
    help="Where that edge dials it; a subnet is one asset of many devices, reached at their own addresses.",
)  # fmt: skip
@click.option("--mac", metavar="MAC", help="Its hardware address.")
@click.option("--zone", metavar="ZONE", help="The zone that it is in.")
@click.option("--tag", multiple=True, metavar="TAG", help="For conduits that name tag:TAG.")
def add_asset(
    name: str,
    edge: tuple[str, ...],
    address: str | None,
    mac: str | None,
    zone: str | None,
    tag: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Add an asset: a device that carries no agent."""
    body = given({"name": name, "address": address, "mac": mac, "zone": zone})
    answer = client().post("assets", body={**body, "edges": list(edge), "tags": list(tag)})
    _made("asset", answer, as_json=as_json)


@click.argument("asset")
@click.argument("protocol")
@click.option("--port", metavar="N[-M]", help="Where the asset listens; known protocols know it.")
@click.option("--transport", type=click.Choice(["tcp", "udp"]), help="Known protocols know it.")
@click.option(
    "--connect",
    type=click.Choice(["held", "at-once"]),
    help="Intercepted connections: answered when the asset has answered (held, default), or at-once.",
)
@click.option(
    "--health",
    metavar="DUR|off",
    help="How often its edges connect to the asset to see whether it answers (1s to 1h; off, default). While it "
    "does not answer one edge, callers choose another one before the asset.",
)
@click.option(
    "--source",
    type=click.Choice(["edge", "caller"]),
    help="Whose address the asset sees: its edge's (default), or the recorded one of the asset that calls. Then its "
    "answers must come back through its edge, which needs CAP_NET_ADMIN.",
)
def add_service(
    asset: str,
    protocol: str,
    port: str | None,
    transport: str | None,
    connect: str | None,
    health: str | None,
    source: str | None,
    *,
    as_json: bool,
) -> None:
    """Add the service ASSET.PROTOCOL.

    PROTOCOL is a known name (modbus, s7, opcua, enip, dnp3, mqtt, ssh, rdp, vnc, http, https and others), or any
    name together with --port.
    """
    body = given(
        {
            "asset": asset, "protocol": protocol, "port": port, "transport": transport,
            "connect": connect, "health": health, "source": source,
        }
    )  # fmt: skip
    _made("service", client().post("services", body=body), as_json=as_json)


@click.argument("edge")
@click.argument("service")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where the edge listens.")
@click.option("--as", "as_", metavar="ASSET", help="Who connects there; else the edge itself.")
def add_listener(edge: str, service: str, listen: str, as_: str | None, *, as_json: bool) -> None:
    """Add a port on EDGE that leads to SERVICE."""
    body = given({"edge": edge, "service": service, "listen": listen, "as": as_})
    _made("listener", client().post("listeners", body=body), as_json=as_json)


@click.argument("edge")
@click.argument("target", metavar="ASSET|SERVICE")
@click.option(
    "--mode",
    type=click.Choice(["auto", "tun", "tproxy", "redirect"]),
    help="How traffic is caught; auto takes the first that works.",
)
@click.option(
    "--address", multiple=True, metavar="IP|SUBNET",
    help="Catch traffic to this address, too: the asset's real one, or a virtual one.",
)  # fmt: skip
@click.option(
    "--as", "as_", metavar="ASSET", help="Who programs on EDGE are; else the edge itself."
)
def add_intercept(
    edge: str,
    target: str,
    mode: str | None,
    address: tuple[str, ...],
    as_: str | None,
    *,
    as_json: bool,
) -> None:
    """Have EDGE catch traffic for an asset or one of its services.

    It is for programs on that edge's host and for devices that route through it: by name (ASSET.PLANT.internal, an
    address of the pool) and at each --address.
    """
    body = given({"edge": edge, "target": target, "mode": mode, "as": as_})
    answer = client().post("intercepts", body={**body, "addresses": list(address)})
    _made("intercept", answer, as_json=as_json)
    if not as_json and answer["overlay"]:
        overlay = " and ".join(map(output.clean, answer["overlay"]))
        output.say(f"by name {output.clean(answer['dns'])}, at {overlay}")


@click.argument("kind", type=Kind())
def ls(kind: str, *, as_json: bool) -> None:
    """List the objects of a kind.

    KIND: zone, router, edge, asset, service, listener, intercept, conduit, session or kill.
    """
    rows = client().get(f"{kind}s")
    if as_json:
        output.as_document(rows)
    else:
        output.table(rows, COLUMNS[kind], f"no {kind}s")


@click.argument("kind", type=Kind())
@click.argument("name")
def show(kind: str, name: str, *, as_json: bool) -> None:
    """Show one object.

    KIND as in `ferrule ls`; NAME as it shows it, of a session also the beginning of its id.
    """
    found = client().get(f"{kind}s", name)
    if as_json:
        output.as_document(found)
    else:
        output.card(found)


@click.argument("kind", type=Kind())
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
def set_(kind: str, name: str, changes: tuple[str, ...], *, as_json: bool) -> None:
    """Change an object.

    KEYs are the option names of `ferrule add`; KEY= empties. A key that holds several values (edge, tag, dials, pool,
    address of an intercept) is given once for each, and replaces all.
    """
    if kind in WHOLE_ONLY:
        raise Misuse(WHOLE_ONLY[kind])
    body = {"changes": _changes(changes, REPEATED.get(kind, frozenset()))}
    found = client().patch(f"{kind}s", name, body=body)
    if as_json:
        output.as_document(found)
    else:
        output.card(found)


def _changes(words: tuple[str, ...], repeated: frozenset[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise Misuse(f"{word!r} is no change: write KEY=VALUE")
        if key in repeated:
            changes.setdefault(key, [])
            changes[key] += [value] if value else []
        elif key in changes:
            raise Misuse(f"{key} is given twice")
        else:
            changes[key] = value
    return changes


@click.argument("kind", type=Kind())
@click.argument("name")
def rm(kind: str, name: str, *, as_json: bool) -> int:
    """Remove an object that nothing else depends on.

    Certificates of a removed router or edge are void. `rm conduit` is `deny`, `rm kill` lifts that kill.
    """
    if kind in WHOLE_ONLY:
        raise Misuse(WHOLE_ONLY[kind])
    found = client().delete(f"{kind}s", name)
    if kind == "conduit":
        return print_denied(found, as_json=as_json)
    if as_json:
        output.as_document(found)
    else:
        output.say(f"removed {found['kind']} {output.clean(found['name'])}")
    return 0
