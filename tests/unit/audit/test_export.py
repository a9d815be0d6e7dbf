"""Exports verify offline against the plant's root alone, and every way of changing one is found."""

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from overlay import limits
from overlay.audit.export import (
    MAX_HEAD_LINE,
    MAX_PROBLEMS,
    Verifier,
    export_head,
    export_record,
    read_head,
)
from overlay.audit.record import make_record
from overlay.errors import DecodeError
from overlay.identity.certificate import Role
from overlay.identity.trust import sign_body
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode, encode
from tests.support.log import Log
from tests.support.pki import DAY, NOW, Pki

PKI = Pki()
LOG = Log(PKI, 7)
LINES = [export_record(leaf) for leaf in LOG.leaves] + [export_head(LOG.head())]


def verify(lines, anchor=PKI.anchor):
    verifier = Verifier(anchor)
    for line in lines:
        verifier.line(line)
    return verifier.verdict()


def problem(lines, anchor=PKI.anchor):
    verdict = verify(lines, anchor)
    assert not verdict.ok
    assert verdict.problems
    return " | ".join(verdict.problems)


def test_a_true_export_verifies():
    verdict = verify(LINES)
    assert verdict.ok
    assert (verdict.records, verdict.first, verdict.last) == (7, 1, 7)
    assert verdict.signed_by == "controller-1"
    assert verdict.problems == ()
    assert verdict.unproven == 0
    for line in LINES:
        assert line.endswith(b"\n")
        json.loads(line)


def test_it_verifies_years_later_and_without_line_ends():
    """The certificates have long ended: what counts is when it was signed."""
    assert verify([line.rstrip(b"\n") for line in LINES]).ok
    assert verify([line.replace(b"\n", b"\r\n") for line in LINES]).ok


def test_an_empty_log_has_an_export():
    lines = [export_head(LOG.head([]))]
    verdict = verify(lines)
    assert verdict.ok
    assert (verdict.records, verdict.first, verdict.last) == (0, 0, 0)


def test_the_head_says_in_plain_words_what_was_signed():
    head = json.loads(LINES[-1])["head"]
    assert {"size", "root", "first", "last", "time", "signature", "chain"} <= set(head)
    assert (head["size"], head["first"], head["last"]) == (7, 1, 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "does not end with a signed tree head"),
        (lambda lines: lines[:-1], "does not end with a signed tree head"),
        (lambda lines: lines[:2] + lines[3:], "record 4 follows record 2"),
        (lambda lines: lines[:2] + lines[3:], "the tree head is over other records"),
        (lambda lines: lines[1:], "the tree head is over other records"),
        (lambda lines: lines[:-2] + lines[-1:], "it covers 7, the file holds 6"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "record 1 follows record 2"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "record 3 follows record 3"),
        (lambda lines: [*lines, lines[0]], "something follows the tree head"),
        (lambda lines: [*lines, lines[-1]], "something follows the tree head"),
        (lambda lines: [lines[0].replace(b"hmi-a", b"hmi-b"), *lines[1:]], "line 1: the record or"),
        (lambda lines: [b"", *lines], "line 1: not a record"),
        (lambda lines: [b"x" * (limits.MAX_RECORD + 1), *lines], "line 1: a record has at most"),
        (lambda lines: [*lines[:-1], b'{"head":null}'], "not a tree head"),
        (lambda lines: [*lines[:-1], b'{"head":' + b" " * MAX_HEAD_LINE], "line 8: the line of a"),
    ],
)
def test_a_changed_export_is_found(change, said):
    assert said in problem(change(LINES))


def test_a_rewritten_record_with_a_right_hash_is_found_by_its_root():
    """Whoever changes a record and its hash does not have the controller's key."""
    forged = replace(LOG.records[2], asset="plc-x")
    lines = [*LINES]
    lines[2] = export_record(forged.leaf())
    assert "over other records" in problem(lines)


def test_a_controller_that_rewrites_what_a_node_said_is_found_by_the_nodes_event():
    """The controller has its own key and signs a head over the forged record."""
    forged = replace(LOG.records[2], who="nobody")
    leaves = [*LOG.leaves]
    leaves[2] = forged.leaf()
    lines = [*(export_record(leaf) for leaf in leaves), export_head(LOG.head(leaves))]
    assert "contradicts the node's signed event in 'who'" in problem(lines)


def test_a_controller_that_makes_up_an_event_is_found_by_the_nodes_signature():
    made_up = sign_body(replace(LOG.events[2], who="nobody"), PKI.key("other"), PKI.anchor)
    envelope = decode(Signed, made_up)
    signed = encode(Signed(envelope.type, envelope.body, LOG.edge.key_id, envelope.signature))
    leaves = [*LOG.leaves]
    leaves[2] = make_record(3, signed).leaf()
    lines = [*(export_record(leaf) for leaf in leaves), export_head(LOG.head(leaves))]
    assert "line 3: the signature does not hold" in problem(lines)


def test_an_event_signed_by_another_node_is_found():
    key = PKI.key("edge-b")
    chain = PKI.chain(key.public, Role.EDGE, "edge-b")
    leaves = [*LOG.leaves]
    leaves[2] = make_record(3, sign_body(LOG.events[2], key, PKI.anchor, chain)).leaf()
    lines = [*(export_record(leaf) for leaf in leaves), export_head(LOG.head(leaves))]
    assert "must be signed by edge-a, not edge-b" in problem(lines)


def test_events_of_nodes_whose_certificate_is_not_there_are_counted():
    leaves = [make_record(n, signed).leaf() for n, signed in enumerate(LOG.signed[1:], start=1)]
    lines = [*(export_record(leaf) for leaf in leaves), export_head(LOG.head(leaves))]
    verdict = verify(lines)
    assert verdict.ok
    assert verdict.unproven == 6


def test_another_plant_with_the_same_names_is_not_believed():
    other = Pki()
    lines = [export_record(leaf) for leaf in LOG.leaves]
    foreign = Log(other, 0)
    lines.append(export_head(foreign.head(LOG.leaves)))
    verdict = verify(lines)
    assert not verdict.ok
    assert verdict.signed_by == ""
    assert not verify(LINES, other.anchor).ok


@pytest.mark.parametrize("role", [Role.EDGE, Role.ROUTER])
def test_only_a_controller_signs_heads(role):
    key = PKI.key("x")
    body = decode(TreeHead, decode(Signed, LOG.head()).body)
    signed = sign_body(body, key, PKI.anchor, PKI.chain(key.public, role, "x"))
    assert "must be signed by a controller" in problem([*LINES[:-1], export_head(signed)])


def test_a_head_signed_outside_the_life_of_its_certificate_is_refused():
    signed = LOG.head(time=NOW + 31 * DAY)
    assert "expired" in problem([*LINES[:-1], export_head(signed)])


def test_a_key_in_the_file_is_never_trusted():
    """A head without chain cannot be verified: nothing in the file says who its signer is."""
    bare = replace(decode(Signed, LOG.head()), chain=())
    assert "is not known here" in problem([*LINES[:-1], export_head(encode(bare))])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 6),
        ("root", "00" * 32),
        ("first", 2),
        ("last", 8),
        ("time", "2027-01-15T08:01:01.000000Z"),
        ("time", "yesterday"),
        ("body", "!"),
        ("signature", base64.b64encode(b"\0" * 64).decode()),
        ("signature", ""),
        ("signer", "00" * 32),
        ("signer", "zz"),
        ("chain", []),
        ("chain", ["AAAA", "AAAA"]),
        ("chain", ["", "", "", "", ""]),
    ],
)
def test_each_field_of_the_head_counts(field, value):
    head = json.loads(LINES[-1])
    head["head"][field] = value
    line = json.dumps(head, separators=(",", ":")).encode()
    assert problem([*LINES[:-1], line])


@pytest.mark.parametrize("field", ["signer", "root", "signature"])
def test_a_head_has_one_form_only(field):
    """Letters of another case, and bits that base64 leaves unused, are a change like any other."""
    head = json.loads(LINES[-1])["head"]
    text = head[field]
    if field in {"signer", "root"}:
        changed = text.upper()
        assert bytes.fromhex(changed) == bytes.fromhex(text)
    else:
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        at = len(text.rstrip("=")) - 1
        changed = text[:at] + alphabet[alphabet.index(text[at]) ^ 1] + text[at + 1 :]
        assert base64.b64decode(changed, validate=True) == base64.b64decode(text)
    line = LINES[-1].replace(text.encode(), changed.encode())
    assert line != LINES[-1]
    assert problem([*LINES[:-1], line])


def test_problems_are_bounded():
    verdict = verify([b"?"] * 1000)
    assert len(verdict.problems) == MAX_PROBLEMS + 2
    assert verdict.problems[MAX_PROBLEMS] == "and more"


@settings(max_examples=200)
@given(st.data())
def test_any_single_change_anywhere_is_found(data):
    text = bytearray(b"".join(LINES))
    at = data.draw(st.integers(0, len(text) - 2))
    text[at] ^= data.draw(st.integers(1, 255))
    assert not verify(bytes(text).split(b"\n")[:-1]).ok


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda b: b'{"head":' + b)))
def test_any_bytes_are_a_head_or_one_error(data):
    with suppress(DecodeError):
        read_head(data)
    assert not verify([data]).ok
