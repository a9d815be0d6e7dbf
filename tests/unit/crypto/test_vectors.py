"""What other implementations can check against: tests/vectors, made from the protocol's text with the libraries alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from overlay.crypto.checkpoint import (
    RunningHash,
    check_received,
    decode_checkpoint,
    sign_checkpoint,
    sign_frame,
    verify_frame,
)
from overlay.crypto.circuit_keys import (
    CircuitKeys,
    ControlOpener,
    Sealer,
    early_fields,
    early_open,
    early_seal,
)
from overlay.crypto.hkdf import next_key
from overlay.crypto.records import FullRecords, HeaderRecords
from overlay.identity.keys import SigningKey
from overlay.wire.header import Header, Kind

VECTORS = Path(__file__).parents[2] / "vectors"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


CIRCUIT = load("circuit_keys.json")
RECORDS = load("records.json")
CHECKPOINT = load("checkpoint.json")


def keys(caller: bool) -> CircuitKeys:
    return CircuitKeys.derive(
        raw(CIRCUIT["secret"]),
        raw(CIRCUIT["caller_random"]),
        raw(CIRCUIT["host_random"]),
        raw(CIRCUIT["intent_hash"]),
        caller=caller,
        datagrams=True,
    )


def own(ends: dict[str, CircuitKeys], label: str) -> tuple[Sealer, Any]:
    """The sealer of a key's owner, and the opener of the other end."""
    side, what = label.split()
    other = {"caller": "host", "host": "caller"}[side]
    return getattr(ends[side], f"send_{what}"), getattr(ends[other], f"receive_{what}")


@pytest.fixture
def ends() -> dict[str, CircuitKeys]:
    return {"caller": keys(True), "host": keys(False)}


def test_c_11_and_c_23_keys(ends: dict[str, CircuitKeys]):
    assert hashlib.sha256(raw(CIRCUIT["intent"])).hexdigest() == CIRCUIT["intent_hash"]
    for label, key in CIRCUIT["keys"].items():
        sealer, opener = own(ends, label)
        assert sealer._key.hex() == opener._key.hex() == key
        assert next_key(raw(key)).hex() == CIRCUIT["next_keys"][label]


def test_c_12_early_data():
    given = raw(CIRCUIT["secret"]), raw(CIRCUIT["caller_random"]), raw(CIRCUIT["intent_hash"])
    early = CIRCUIT["early"]
    assert early_seal(*given, raw(early["plain"])).hex() == early["sealed"]
    assert early_seal(*given, b"").hex() == early["empty"]
    assert early_open(*given, raw(early["sealed"])) == raw(early["plain"])
    assert early_fields(raw(early["sealed"])).hex() == early["fields"]


@pytest.mark.parametrize("number", range(len(CIRCUIT["frames"])))
def test_c_20_frames(number: int, ends: dict[str, CircuitKeys]):
    vector = CIRCUIT["frames"][number]
    sealer, opener = own(ends, vector["key"])
    sequence, kind = vector["sequence"], Kind(vector["kind"])
    for epoch in range(1, (sequence >> 20) + 1):
        # The last frame of each key before, so that sealer and opener go the way that they go in life.
        sealer.sequence = opener.expected = (epoch << 20) - 1
        last = sealer.seal(kind, 0, b"")
        opener.open(Header(kind, 0, last.length, 0, last.sequence), last.data)
    sealer.sequence = opener.expected = sequence
    extra: dict[str, Any] = {name: raw(vector[name]) for name in ("beside", "bound")}
    sealed = sealer.seal(
        kind, vector["flags"], raw(vector["plain"]), trailer=vector["trailer"], **extra
    )
    assert sealed.data.hex() == vector["sealed"]
    assert (sealed.sequence, sealed.length) == (sequence, vector["length"])
    header = Header(kind, vector["flags"], vector["length"], 3, sequence)
    if isinstance(opener, ControlOpener):
        assert opener.open(header, sealed.data, **extra) == raw(vector["plain"])
    else:
        assert opener.open(header, sealed.data) == raw(vector["plain"])


@pytest.mark.parametrize(("mode", "kind"), [("header", HeaderRecords), ("full", FullRecords)])
def test_l_11_and_l_12_records(mode: str, kind: type[HeaderRecords]):
    both = raw(RECORDS["keys"])
    dialer, acceptor = kind(both[:32], both[32:]), kind(both[32:], both[:32])
    for vector in RECORDS[mode]:
        payload = raw(vector["payload"])
        header = Header(
            Kind(vector["kind"]),
            vector["flags"],
            len(payload),
            vector["circuit"],
            vector["sequence"],
        )
        wire = b"".join(dialer.seal(header, payload))
        assert wire.hex() == vector["wire"]
        assert acceptor.open_header(wire[:40]) == header
        assert acceptor.wire_length(header) == len(wire) - 40
        assert acceptor.open_payload(header, wire[40:]) == payload


def place(of: dict[str, Any]) -> tuple[bytes, bytes, int]:
    return raw(CHECKPOINT["plant_digest"]), raw(CHECKPOINT["circuit"]), of["direction"]


@pytest.mark.parametrize("number", range(len(CHECKPOINT["checkpoints"])))
def test_c_40_checkpoints(number: int):
    vector = CHECKPOINT["checkpoints"][number]
    key = SigningKey.generate(raw(CHECKPOINT["seed"]))
    running = RunningHash()
    for frame in vector["frames"]:
        running.add(raw(frame["fields"]), raw(frame["tag"]), frame["size"])
    assert running.digest().hex() == vector["hash"]
    checkpoint = sign_checkpoint(running, key, *place(vector))
    assert checkpoint.encode().hex() == vector["checkpoint"]
    given = decode_checkpoint(raw(vector["checkpoint"]))
    check_received(given, running, raw(CHECKPOINT["public"]), *place(vector))


def test_c_44_a_signed_frame():
    vector = CHECKPOINT["frame"]
    key = SigningKey.generate(raw(CHECKPOINT["seed"]))
    sealed = raw(vector["sealed"])
    signature = sign_frame(key, *place(vector), vector["sequence"], sealed)
    assert signature.hex() == vector["signature"]
    verify_frame(raw(CHECKPOINT["public"]), signature, *place(vector), vector["sequence"], sealed)
