"""`audit`: what happened, and the proof that nothing was cut out or rewritten."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from controller.cli import home, output
from controller.cli.client import Json, Lost
from controller.cli.failure import Failure, Misuse
from controller.cli.files import whole_file
from controller.cli.words import client, command, group

if TYPE_CHECKING:
    from overlay.identity.trust import Anchor

COLUMNS = ("seq", "time", "event", "outcome", "who", "service", "address", "node", "reason")
VERIFY_SECONDS = 660.0
RETRY = 2.0
MAX_LINE = 256 * 1024
HEAD = b'{"head":'


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    audit = group(
        "audit",
        "Read, check and export the audit log.",
        "ferrule audit search --service plc-b.modbus --outcome denied --since 24h",
    )
    root.add_command(audit)
    command(audit, "tail", "ferrule audit tail --follow")(tail)
    command(audit, "prove", "ferrule audit prove 1042")(prove)
    command(audit, "search", _SEARCH_EXAMPLE)(search)
    command(audit, "verify", "ferrule audit verify --file audit.jsonl --ca api-ca.pem")(verify)
    command(audit, "export", "ferrule audit export audit.jsonl")(export)


_SEARCH_EXAMPLE = "ferrule audit search --who hmi-a --outcome denied --since 'monday 06:00'"


@click.option("--follow", is_flag=True, help="Go on with each record as it is written.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="How many to begin with (50; 10 with --follow).",
)
def tail(limit: int | None, *, follow: bool, as_json: bool) -> None:
    """Show the newest records. With --follow and --json: JSON lines."""
    if not follow:
        _print(client().get("audit", limit=limit), as_json=as_json)
        return
    after: int | None = None
    while True:
        try:
            for record in client().follow("audit", "follow", after=after, limit=limit):
                after = record["seq"]
                if as_json:
                    output.as_line(record)
                else:
                    output.now("  ".join(output.cell(record, column) for column in COLUMNS))
            raise Lost("the controller ended the stream")
        except Lost as error:
            if after is None:
                raise
            sys.stderr.write(f"ferrule: {error.message}; trying again\n")
            time.sleep(RETRY)


@click.argument("seq", type=click.IntRange(min=1))
def prove(seq: int, *, as_json: bool) -> int:
    """Prove that record SEQ is in the log.

    The proof is checked here against the plant's root.
    """
    proof = client().get("audit", str(seq), "proof")
    _check_proof(proof, _anchor(None), seq)
    if as_json:
        output.as_document(proof)
    else:
        output.say(
            f"record {seq} is in the log of {proof['size']} records, whose head"
            f" {output.clean(proof['signed_by'])} has signed; its hash is {output.clean(proof['hash'])}"
        )
    return 0


@click.option("--who", metavar="WHO", help="Who tried.")
@click.option("--service", metavar="SERVICE", help="What they tried to reach.")
@click.option("--outcome", metavar="OUTCOME", help="allowed, denied, done or failed.")
@click.option("--since", metavar="TIME", help='ISO 8601, "friday 18:00", or how long ago: 24h.')
@click.option("--until", metavar="TIME", help="As --since.")
@click.option("--limit", type=click.IntRange(1, 100_000), metavar="N", help="The newest N (1000).")
def search(
    who: str | None,
    service: str | None,
    outcome: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
    *,
    as_json: bool,
) -> None:
    """Show the records that match all that is asked for, by number."""
    found = client().get(
        "audit", "search",
        who=who, service=service, outcome=outcome, since=since, until=until, limit=limit,
    )  # fmt: skip
    _print(found, as_json=as_json)


@click.option("--file", "file", metavar="EXPORT", help="An export, checked here and offline.")
@click.option("--ca", metavar="FILE", help="The plant's root certificate, for --file.")
def verify(file: str | None, ca: str | None, *, as_json: bool) -> int:
    """Check that the log is whole; the exit code is 1 when it is not.

    With --file only the plant's root is trusted, which `ferrule login` has kept, or --ca; never a key in the file.
    """
    if file is None:
        if ca is not None:
            raise Misuse("--ca belongs to --file")
        found = client().get("audit", "verify", seconds=VERIFY_SECONDS)
    else:
        found = _verify_file(file, _anchor(ca))
    if as_json:
        output.as_document(found)
    else:
        signed = output.clean(found["signed_by"])
        if found["ok"]:
            output.say(
                f"whole: {found['records']} records, {output.clean(found['first'])} to"
                f" {output.clean(found['last'])}, head signed by {signed}"
            )
        for problem in found["problems"]:
            output.say(output.clean(problem))
    if not found["ok"]:
        sys.stderr.write("ferrule: the audit log does not verify\n")
    return 0 if found["ok"] else 1


@click.argument("file")
def export(file: str, *, as_json: bool) -> None:
    """Write the whole log to FILE as JSON lines.

    The last one is a signed head that proves it whole.
    """
    lines = client().lines("audit", "export")
    with whole_file(file) as out:
        records = _write(lines, out)
    if as_json:
        output.as_document({"file": file, "records": records})
    else:
        output.say(f"{records} records in {file}: `ferrule audit verify --file {file}` checks them")


def _write(lines: Iterator[bytes], out: IO[bytes]) -> int:
    """Write all lines; the number of records. An export without its head is none."""
    records = 0
    headed = False
    for line in lines:
        headed = line.startswith(HEAD)
        records += not headed
        out.write(line)
    if not headed:
        raise Failure("the export ended without its signed head: try again")
    return records


def _print(records: Json, *, as_json: bool) -> None:
    if as_json:
        output.as_document(records)
    else:
        output.table(records, COLUMNS, "no records")


def _anchor(ca: str | None) -> "Anchor":
    """The plant's root: from `--ca`, else from the session."""
    import ssl

    from overlay.errors import TrustError
    from overlay.identity.trust import Anchor

    if ca is not None:
        pem, place = home.read_pem(ca), ca
    else:
        session = home.kept()
        pem, place = (session.root if session is not None else ""), "the session"
        if not pem:
            raise Failure("the plant's root is not known: log in once, or give --ca FILE")
    try:
        return Anchor.of(ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN") :].strip()))
    except (ValueError, TrustError) as error:
        raise Failure(f"{place} holds no root certificate of a plant: {error}") from None


def _verify_file(file: str, anchor: "Anchor") -> Json:
    import msgspec

    from overlay.audit.export import Verifier

    verifier = Verifier(anchor)
    try:
        with Path(file).open("rb") as lines:
            while line := lines.readline(MAX_LINE):
                verifier.line(line)
    except OSError as error:
        raise Misuse(f"cannot read {file}: {error.strerror}") from None
    return msgspec.to_builtins(verifier.verdict())


def _check_proof(proof: Json, anchor: "Anchor", seq: int) -> None:
    """Believe nothing but the plant's root: record, path and head are checked as an export's are.

    Raises:
        Failure: the proof does not hold; the text says where.
    """
    from overlay.audit.export import read_head
    from overlay.audit.merkle import leaf_hash
    from overlay.audit.proofs import Proven
    from overlay.audit.record import read_leaf, without_hash
    from overlay.errors import FerruleError, TrustError
    from overlay.identity.certificate import Role
    from overlay.identity.trust import Signers, open_signed
    from overlay.wire.bodies import TreeHead
    from overlay.wire.timestamps import read_time

    try:
        leaf = without_hash(proof["record"].rstrip("\n").encode())
        head, signed = read_head(proof["head"].rstrip("\n").encode())
        tree, signer = open_signed(
            TreeHead, signed, Signers(anchor), read_time(head.time), role=Role.CONTROLLER
        )
        if read_leaf(leaf).seq != seq or leaf_hash(leaf).hex() != proof["hash"]:
            raise TrustError("it is about another record")
        if (tree.size, tree.root.hex()) != (proof["size"], proof["root"]):
            raise TrustError("its head is over another tree")
        if signer.identity.name != proof["signed_by"]:
            raise TrustError("another controller signed its head")
        path = [bytes.fromhex(one) for one in proof["path"]]
        Proven(tree.size, tree.root).check(leaf_hash(leaf), seq - 1, path)
    except (FerruleError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Failure(f"the proof does not hold: {error}") from None
