"""Receipts: what both ends of a circuit signed last, kept with its `circuit.close` (C-43; audit.md, U-07).

In normal integrity a receipt proves how many frames and bytes were sent, in which order and with which authentication
tags; it does not bind their content against a receiver that lies (C-43).
"""

import base64
import binascii
from collections.abc import Collection
from typing import Annotated

import msgspec
from msgspec import Meta

from overlay import limits
from overlay.crypto.checkpoint import CALLER, HOST, Checkpoint, verify_checkpoint
from overlay.errors import DecodeError, TamperError, TrustError

Raw = bytes  # `Side` has an attribute of that name
_HASH_SIZE = 32
_Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last checkpoint of one direction: `hash` in hex, `signature` in base64."""

    frames: _Count
    bytes: _Count
    hash: str
    signature: str


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both last checkpoints; None where that side sent none, because the circuit broke before."""

    caller: Side | None
    host: Side | None


class _Close(msgspec.Struct, frozen=True):
    """What matters here of a `circuit.close` event's `detail`."""

    receipt: Receipt | None = None


_decoder = msgspec.json.Decoder(_Close)


def make_receipt(caller: Checkpoint | None, host: Checkpoint | None) -> Receipt:
    """The receipt of two checkpoints."""
    return Receipt(_side(caller), _side(host))


def _side(checkpoint: Checkpoint | None) -> Side | None:
    if checkpoint is None:
        return None
    return Side(
        frames=checkpoint.frames,
        bytes=checkpoint.bytes,
        hash=checkpoint.digest.hex(),
        signature=base64.b64encode(checkpoint.signature).decode(),
    )


def receipt_of(detail: str) -> Receipt | None:
    """The receipt in the `detail` of a `circuit.close`; None where there is none, or what is there is none."""
    try:
        return _decoder.decode(detail).receipt
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def verify_receipt(
    receipt: Receipt,
    circuit: Raw,
    callers: Collection[Raw],
    hosts: Collection[Raw],
    plant: Raw,
) -> None:
    """Check each side that is there against the keys that its edge has ever had: one of them signed it.

    Raises:
        DecodeError, TrustError: as `verify_side`.
    """
    for side, direction, keys in ((receipt.caller, CALLER, callers), (receipt.host, HOST, hosts)):
        if side is None:
            continue
        failure: TrustError | None = TrustError(_unsigned(direction))
        for public in keys:
            try:
                verify_side(side, direction, circuit, public, plant)
            except TrustError as error:
                failure = error
            else:
                failure = None
                break
        if failure is not None:
            raise failure


def verify_side(side: Side, direction: int, circuit: Raw, public: Raw, plant: Raw) -> None:
    """Check who signed one side of a receipt (C-40).

    Args:
        side: the checkpoint.
        direction: `CALLER` or `HOST` of `overlay.crypto.checkpoint`.
        circuit: the circuit's id, 16 bytes.
        public: the raw Ed25519 key of the edge that sent this direction.
        plant: SHA-256 of the plant root.

    Raises:
        DecodeError: hash or signature are not what they should be.
        TrustError: that edge did not sign this.
    """
    try:
        digest = bytes.fromhex(side.hash)
        signature = base64.b64decode(side.signature, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DecodeError(f"not a receipt: {error}") from None
    if len(digest) != _HASH_SIZE or len(signature) != limits.SIGNATURE_SIZE or len(circuit) != 16:
        raise DecodeError("a receipt has hashes of 32 and signatures of 64 bytes")
    checkpoint = Checkpoint(side.frames, side.bytes, digest, signature)
    try:
        verify_checkpoint(checkpoint, public, plant, circuit, direction)
    except TamperError:
        raise TrustError(_unsigned(direction)) from None


def _unsigned(direction: int) -> str:
    end = "caller" if direction == CALLER else "host"
    return f"the receipt was not signed by the {end}'s edge"
