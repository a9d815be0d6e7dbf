"""`allow`, `deny`, `why`: who may reach what."""

import sys

import click

from controller.cli import output
from controller.cli.client import Json
from controller.cli.failure import Misuse
from controller.cli.words import client, command, for_option, given, later_option, reason_option


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    command(root, "allow", _ALLOW_EXAMPLE)(allow)
    command(root, "deny", "ferrule deny hmi-a plc-b modbus")(deny)
    command(root, "why", "ferrule why hmi-a plc-b modbus")(why)


_ALLOW_EXAMPLE = (
    "ferrule allow hmi-a plc-b modbus --for 2h --reason commissioning\n"
    "ferrule allow hmi-a to plc-b over modbus for 2h\n"
    'ferrule allow "hmi-a > plc-b.modbus > 2h" --dry-run'
)

_JOINING = frozenset({"to", "over", "for", "until"})


def _target(words: tuple[str, ...]) -> dict[str, str]:
    """WHO TO PROTOCOL, or a sentence in one of its two forms; the controller understands the sentence."""
    if len(words) == 3 and not _JOINING & {word.lower() for word in words} and ">" not in words:
        return dict(zip(("who", "to", "protocol"), words, strict=True))
    sentence = " ".join(words)
    if ">" not in sentence and len(sentence.split()) < 3:
        raise Misuse(
            "say who may reach what: WHO TO PROTOCOL, or a sentence such as"
            ' "hmi-a to plc-b over modbus for 2h"'
        )
    return {"sentence": sentence}


@click.argument("words", nargs=-1, required=True, metavar="WHO TO PROTOCOL | SENTENCE")
@for_option
@click.option("--until", metavar="TIME", help='ISO 8601, "18:00", or "friday 18:00".')
@click.option(
    "--max-session",
    metavar="DUR",
    help="The longest that one session may last; else as long as it is allowed.",
)
@click.option("--away", metavar="close|hold:DUR", help="While the controller is away (hold:8h).")
@click.option("--strict", is_flag=True, help="Every frame is signed, and proves its content.")
@reason_option
@click.option("--dry-run", is_flag=True, help="Only say what would open, close and be cut.")
@later_option("--read-only", flag=True)
@later_option("--approvals")
@later_option("--schedule")
def allow(
    words: tuple[str, ...],
    for_: str | None,
    until: str | None,
    max_session: str | None,
    away: str | None,
    reason: str | None,
    *,
    strict: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Allow WHO to reach TO over PROTOCOL.

    WHO and TO are an asset, an edge, a zone, or tag:NAME. Without --for and --until it has no end. A sentence says the
    same in words: `hmi-a to plc-b over modbus for 2h`, or in short: "hmi-a > plc-b.modbus > 2h".
    """
    if for_ is not None and until is not None:
        raise Misuse("--for and --until exclude each other")
    body = {
        **_target(words),
        **given(
            {
                "for": for_,
                "until": until,
                "max_session": max_session,
                "away": away,
                "reason": reason,
            }
        ),
        "strict": strict,
    }
    if dry_run:
        _print_effect(client().post("conduits", "dry-run", body=body), as_json=as_json)
        return
    made = client().post("conduits", body=body)
    if as_json:
        output.as_document(made)
        return
    output.say(f"allowed: {output.clean(made['text'])}")
    output.say(
        f"conduit {output.clean(made['id'])}: `ferrule deny {output.clean(made['id'])}` ends it"
    )
    _say_what_is_missing(made)


def _say_what_is_missing(made: Json) -> None:
    """A conduit that opens nothing yet is no error, and seldom what was meant."""
    try:
        found = client().get("why", who=made["who"], to=made["to"], protocol=made["protocol"])
    except click.ClickException:
        return  # a zone or a tag: each thing in it may have another answer
    for check in found["checks"]:
        if not check["ok"]:
            output.say(f"not open yet: {output.clean(check['text'])}")


def _print_effect(effect: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_document(effect)
        return
    for key, word in (("opens", "would open"), ("closes", "would close")):
        for reach in effect[key]:
            via = "" if reach["via"] == reach["who"] else f" (by {output.clean(reach['via'])})"
            output.say(
                f"{word}: {output.clean(reach['who'])}{via} > {output.clean(reach['service'])}"
            )
    for session in effect["cuts"]:
        output.say(f"would cut: session {output.clean(session)}")
    if not any(effect.values()):
        output.say("would open, close and cut nothing")
    output.say("nothing was changed: this was a dry run")


@click.argument("words", nargs=-1, required=True, metavar="CONDUIT-ID | WHO TO PROTOCOL")
@reason_option
def deny(words: tuple[str, ...], reason: str | None, *, as_json: bool) -> int:
    """End a conduit; its live sessions are cut.

    Exactly the one with that id, or those written for exactly these. Says which other conduit still allows it; then the
    exit code is 1.
    """
    single = len(words) == 1 and ">" not in words[0] and " " not in words[0].strip()
    target = {"conduit": words[0]} if single else _target(words)
    found = client().post("deny", body={**target, **given({"reason": reason})})
    return print_denied(found, as_json=as_json)


def print_denied(found: Json, *, as_json: bool) -> int:
    """What was ended; 1 when something else still allows it."""
    if as_json:
        output.as_document(found)
    elif not found["still"]:
        output.say(output.clean(found["text"]))
    if found["still"]:
        sys.stderr.write(f"ferrule: {output.clean(found['text'])}\n")
    return 1 if found["still"] else 0


@click.argument("who")
@click.argument("to")
@click.argument("protocol")
def why(who: str, to: str, protocol: str, *, as_json: bool) -> None:
    """Say whether WHO may reach TO over PROTOCOL now, and why.

    Each check that leads there is shown. The exit code is 0 whatever the answer.
    """
    found = client().get("why", who=who, to=to, protocol=protocol)
    if as_json:
        output.as_document(found)
        return
    conduit = f", by conduit {output.clean(found['conduit'])}" if found["conduit"] else ""
    output.say(f"{'allowed' if found['allowed'] else 'denied'}{conduit}")
    for check in found["checks"]:
        output.say(f"  {'ok' if check['ok'] else 'NO'}  {output.clean(check['text'])}")
