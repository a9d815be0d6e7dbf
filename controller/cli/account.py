"""`login`, `logout`, `status`."""

import sys
import time
from pathlib import Path
from typing import Any

import click

from controller.cli import home, output
from controller.cli.client import Client, Json, Lost, NotListening
from controller.cli.failure import Failure, Misuse
from controller.cli.words import client, command, later_option

WAIT_AT_ONCE = 20.0
"""The controller answers a waiting request after at most this; then it is asked again."""
RETRY = 0.5
ALERTS = 10
"""How many `status` shows to people: in a plant without spare edges each asset is one."""
PATIENCE = 8.0
"""How long `login` waits for a controller that does not listen yet."""


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    command(root, "login", _LOGIN_EXAMPLE)(login)
    command(root, "logout", "ferrule logout")(logout)
    command(root, "status", "ferrule status --wait 30s")(status)


_LOGIN_EXAMPLE = (
    "ferrule login https://controller.mill.example:8440 --user ada --ca api-ca.pem\n"
    "ferrule login https://127.0.0.1:8440 --user ada --password-file password --print-token"
)


@click.argument("url")
@click.option("--user", required=True, metavar="NAME", help="Who you are.")
@click.option(
    "--password-file", metavar="FILE", help="Its first line is the password; else it is asked for."
)
@click.option("--ca", metavar="FILE", help="The certificate to trust: the controller's api-ca.pem.")
@click.option(
    "--print-token", is_flag=True, help="Print the token for FERRULE_TOKEN; keep nothing."
)
@later_option("--otp")
def login(
    url: str,
    user: str,
    password_file: str | None,
    ca: str | None,
    *,
    print_token: bool,
    as_json: bool,
) -> None:
    """Log in to a controller, and stay so until `ferrule logout`.

    The session, the controller's certificate and the plant's root are kept in $FERRULE_HOME (default: `ferrule` in your
    configuration folder). For scripts FERRULE_URL, FERRULE_TOKEN and FERRULE_CA take their place.
    """
    url = home.check_url(url)
    trusted = home.read_pem(ca) if ca else _trusted_before(url)
    password = _password(password_file, user)
    session = home.Session(url, "", trusted)
    answer = _answer(Client(session), {"user": user, "password": password})
    if print_token:
        output.say(answer["token"])
        return
    kept = home.Session(
        url, answer["token"], trusted, answer["user"], answer["plant"], answer["root"]
    )
    path = home.keep(kept)
    shown = {key: answer[key] for key in ("user", "role", "plant", "expires")}
    if as_json:
        output.as_document({"url": url, **shown, "kept": str(path)})
    else:
        output.say(
            f"logged in to plant {output.clean(answer['plant'])} as {output.clean(answer['user'])}"
            f" ({answer['role']}), until {output.moment(answer['expires'])} when unused"
        )


def _answer(controller: Client, body: dict[str, object]) -> Json:
    """The answer to a login; a controller that was started a moment ago gets some time to listen."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return controller.post("login", body=body)
        except NotListening:
            if time.monotonic() + RETRY >= deadline:
                raise
            time.sleep(RETRY)


def _trusted_before(url: str) -> str:
    """What an earlier login to the same controller pinned; a damaged or unsafe session file pins nothing."""
    try:
        before = home.kept()
    except Failure:
        return ""
    return before.ca if before is not None and before.url == url else ""


def _password(file: str | None, user: str) -> str:
    if file is None:
        if not sys.stdin.isatty():
            raise Misuse("no terminal to ask for the password: give --password-file FILE")
        return str(click.prompt(f"Password of {user}", hide_input=True, err=True))
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Misuse(f"cannot read {file}: {reason}") from None
    if not lines or not lines[0]:
        raise Misuse(f"the first line of {file} is empty: it must be the password")
    return lines[0]


def logout(*, as_json: bool) -> None:
    """End the session, at the controller and here."""
    session = home.current()
    home.forget()
    try:
        Client(session).post("logout")
    except Lost as error:
        raise Failure(
            f"forgotten here, but it lives on at the controller: {error.message}"
        ) from None
    if as_json:
        output.as_document({"url": session.url, "user": session.user})
    else:
        output.say(f"logged out from {session.url}")


@click.option("--wait", metavar="DUR", help="Wait until all routers and edges are connected.")
def status(wait: str | None, *, as_json: bool) -> int:
    """Which programs of the plant are connected.

    With --wait: exit code 0 once every router and edge that was added, revoked ones aside, is connected.
    """
    seconds = 0.0
    if wait is not None:
        from overlay.policy.times import parse_duration

        seconds = float(parse_duration(wait))
    found = _wait_for_all(seconds) if wait is not None else client().get("status")
    if as_json:
        output.as_document(found)
    else:
        print_status(found)
    missing = _missing(found)
    if wait is not None and missing:
        raise Failure(f"not connected after {wait}: {', '.join(missing)}")
    return 0


def _wait_for_all(seconds: float) -> Json:
    deadline = time.monotonic() + seconds
    controller = client()
    while True:
        left = max(0.0, deadline - time.monotonic())
        part = min(left, WAIT_AT_ONCE)
        try:
            found = controller.get("status", wait=f"{part:.3f}", seconds=part + 15)
        except Lost:
            if time.monotonic() + RETRY >= deadline:
                raise
            time.sleep(RETRY)
            continue
        if not _missing(found) or time.monotonic() >= deadline:
            return found


def _missing(found: Json) -> list[str]:
    return [
        f"{kind} {output.clean(node['name'])} ({node['state']})"
        for kind in ("router", "edge")
        for node in found[f"{kind}s"]
        if node["state"] not in ("connected", "revoked")
    ]


def print_status(found: Json) -> None:
    """A status for people."""
    output.say(f"plant {output.clean(found['plant'])}")
    rows: list[dict[str, Any]] = [
        {"kind": kind, **node}
        for kind in ("controller", "router", "edge")
        for node in found[f"{kind}s"]
    ]
    output.table(rows, ("kind", "name", "state", "since", "version"), "no programs")
    alerts = found.get("alerts", ())
    for alert in alerts[:ALERTS]:
        output.say(f"alert: {output.clean(alert['text'])}")
    if len(alerts) > ALERTS:
        output.say(f"and {len(alerts) - ALERTS} more alerts: `ferrule status --json` has all")
