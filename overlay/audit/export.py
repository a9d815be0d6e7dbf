"""Exports of the audit log, and their offline verification (docs/protocol/audit.md, U-08).

An export is JSON lines: each record with its `hash`, in the order of `seq`, then one line `{"head": …}` with the tree
head that a controller signed over exactly these records. Whoever verifies trusts the plant's root, and nothing in the
file.
"""

import base64
import binascii
from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.audit.merkle import Frontier, leaf_hash
from overlay.audit.record import check_event, read_leaf, signed_event, with_hash, without_hash
from overlay.audit.signing import EventReader
from overlay.errors import DecodeError, FerruleError, TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import Anchor, Signers, open_signed
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode, encode
from overlay.wire.timestamps import format_time, read_time

MAX_HEAD_LINE = 64 * 1024
MAX_PROBLEMS = 20
_encoder = msgspec.json.Encoder(order="sorted")


class Head(msgspec.Struct, frozen=True):
    """The last line's content: the tree head in plain words, and the parts of its signature.

    `root` and `signer` in hex; `body`, `signature` and the certificates of `chain` (DER, leaf first) in base64.
    """

    size: Annotated[int, Meta(ge=0)]
    root: str
    first: Annotated[int, Meta(ge=0)]
    last: Annotated[int, Meta(ge=0)]
    time: str
    body: str
    signer: str
    signature: str
    chain: Annotated[tuple[str, ...], Meta(max_length=4)]


class _HeadLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    head: Head


_decoder = msgspec.json.Decoder(_HeadLine)


class Verdict(msgspec.Struct, frozen=True):
    """What `ferrule audit verify` answers; `signed_by` names the controller, empty when no signature holds.

    `unproven` counts records whose node's own signature could not be checked, since its certificate is not in the file;
    the controller's signature over them was.
    """

    ok: bool
    records: int
    first: int
    last: int
    signed_by: str
    problems: tuple[str, ...]
    unproven: int = 0


def export_record(leaf: bytes) -> bytes:
    """The line of one record, with its line end."""
    return with_hash(leaf) + b"\n"


def export_head(signed: bytes) -> bytes:
    """The last line, with its line end, from a `Signed` tree head with the signer's chain over all records exported.

    Raises:
        DecodeError: not a signed tree head.
    """
    envelope = decode(Signed, signed)
    body = decode(TreeHead, envelope.body)
    head = Head(
        size=body.size,
        root=body.root.hex(),
        first=min(1, body.size),
        last=body.size,
        time=format_time(body.time),
        body=_base64(envelope.body),
        signer=envelope.signer.hex(),
        signature=_base64(envelope.signature),
        chain=tuple(_base64(certificate) for certificate in envelope.chain),
    )
    return _encoder.encode({"head": head}) + b"\n"


def read_head(line: bytes) -> tuple[Head, bytes]:
    """The head of a last line (without its line end), and the `Signed` envelope that it holds; nothing verified.

    Raises:
        DecodeError: something else, plain fields that contradict the signed body, or another form than `export_head`'s.
    """
    if len(line) > MAX_HEAD_LINE:
        raise DecodeError(f"the line of a tree head has at most {MAX_HEAD_LINE} bytes")
    try:
        head = _decoder.decode(line).head
        body = base64.b64decode(head.body, validate=True)
        signature = base64.b64decode(head.signature, validate=True)
        chain = tuple(base64.b64decode(one, validate=True) for one in head.chain)
        signer = bytes.fromhex(head.signer)
    except (msgspec.MsgspecError, RecursionError, binascii.Error, ValueError) as error:
        raise DecodeError(f"not a tree head: {error}") from None
    signed = encode(Signed(TreeHead.TYPE, body, signer, signature, chain))
    if export_head(signed) != line + b"\n":
        raise DecodeError(
            "the tree head's plain fields contradict what was signed, or its form is not canonical"
        )
    return head, signed


class Verifier:
    """Takes the lines of an export one after the other; memory does not grow with the export."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._signers = Signers(anchor)
        self._reader = EventReader(self._signers)
        self._tree = Frontier()
        self._first = 0
        self._last = 0
        self._lines = 0
        self._unproven = 0
        self._signed_by = ""
        self._headed = False
        self._problems: list[str] = []

    def line(self, line: bytes) -> None:
        """The next line, with or without its line end; what is wrong with it is kept for the verdict."""
        self._lines += 1
        text = line.rstrip(b"\r\n")
        try:
            if self._headed:
                raise TrustError("something follows the tree head")
            if text.startswith(b'{"head":'):
                self._take_head(text)
            else:
                self._take_record(text)
        except FerruleError as error:
            self._problem(f"line {self._lines}: {error}")

    def _problem(self, text: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(text)
        elif len(self._problems) == MAX_PROBLEMS:
            self._problems.append("and more")

    def _take_record(self, line: bytes) -> None:
        leaf = without_hash(line)
        record = read_leaf(leaf)
        self._tree.append(leaf_hash(leaf))
        if self._last and record.seq != self._last + 1:
            self._problem(f"record {record.seq} follows record {self._last}")
        self._first = self._first or record.seq
        self._last = record.seq
        event = check_event(record)
        signed = signed_event(record)
        envelope = decode(Signed, signed)
        if not envelope.chain and self._signers.known(envelope.signer) is None:
            self._unproven += 1
            return
        self._reader.open(signed, event.time, name=event.node)

    def _take_head(self, line: bytes) -> None:
        self._headed = True
        head, signed = read_head(line)
        _, leaf = open_signed(
            TreeHead, signed, self._signers, read_time(head.time), role=Role.CONTROLLER
        )
        if head.size != self._tree.size or head.root != self._tree.root().hex():
            raise TrustError(
                f"the tree head is over other records: it covers {head.size}, "
                f"the file holds {self._tree.size}"
            )
        if (head.first, head.last) != (self._first, self._last):
            raise TrustError(f"the tree head covers records {head.first} to {head.last}")
        self._signed_by = leaf.identity.name

    def verdict(self) -> Verdict:
        """The answer, after the last line."""
        problems = list(self._problems)
        if not self._headed:
            problems.append("the file does not end with a signed tree head")
        return Verdict(
            ok=not problems,
            records=self._tree.size,
            first=self._first,
            last=self._last,
            signed_by=self._signed_by,
            problems=tuple(problems),
            unproven=self._unproven,
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
