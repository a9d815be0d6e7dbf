"""Checkpoints, and signed frames of strict circuits (C-40 to C-44)."""

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from overlay.crypto.checkpoint import (
    CALLER,
    CHECKPOINT_SIZE,
    HOST,
    Checkpoint,
    RunningHash,
    check_received,
    decode_checkpoint,
    sign_checkpoint,
    sign_frame,
    verify_checkpoint,
    verify_frame,
)
from overlay.errors import DecodeError, TamperError
from overlay.identity.keys import SigningKey

KEY = SigningKey.generate(b"k" * 32)
OTHER = SigningKey.generate(b"o" * 32)
PLANT = b"p" * 32
CIRCUIT = b"c" * 16
FRAMES = [(bytes((n,)) * 14, bytes((n,)) * 16, 100 + n) for n in range(3)]


def running(frames: list[tuple[bytes, bytes, int]] = FRAMES) -> RunningHash:
    made = RunningHash()
    for fields, tag, size in frames:
        made.add(fields, tag, size)
    return made


GOOD = sign_checkpoint(running(), KEY, PLANT, CIRCUIT, CALLER)


def test_c_40_the_hash_runs_over_fields_and_tags():
    expected = hashlib.sha256(b"".join(fields + tag for fields, tag, _ in FRAMES)).digest()
    one = running()
    assert (one.frames, one.size, one.digest()) == (3, 303, expected)
    assert one.digest() == expected  # asking does not end it
    assert RunningHash().digest() == hashlib.sha256(b"").digest()


def test_c_40_a_checkpoint_has_112_bytes_and_comes_back():
    raw = GOOD.encode()
    assert len(raw) == CHECKPOINT_SIZE == 112
    assert raw == ((3).to_bytes(8, "big") + (303).to_bytes(8, "big") + GOOD.digest + GOOD.signature)
    assert decode_checkpoint(memoryview(raw)) == GOOD


@given(st.binary(max_size=200).filter(lambda data: len(data) != 112))
def test_what_is_not_a_checkpoint(data: bytes):
    with pytest.raises(DecodeError):
        decode_checkpoint(data)


@given(st.binary(min_size=112, max_size=112))
def test_random_checkpoints_do_not_hold(data: bytes):
    checkpoint = decode_checkpoint(data)
    assert checkpoint.encode() == data
    with pytest.raises(TamperError):
        verify_checkpoint(checkpoint, KEY.public, PLANT, CIRCUIT, CALLER)


def test_c_42_a_true_checkpoint_holds():
    verify_checkpoint(GOOD, KEY.public, PLANT, CIRCUIT, CALLER)
    check_received(GOOD, running(), KEY.public, PLANT, CIRCUIT, CALLER)


@pytest.mark.parametrize(
    ("public", "plant", "circuit", "direction"),
    [
        (OTHER.public, PLANT, CIRCUIT, CALLER),
        (KEY.public, b"o" * 32, CIRCUIT, CALLER),
        (KEY.public, PLANT, b"o" * 16, CALLER),
        (KEY.public, PLANT, CIRCUIT, HOST),
    ],
    ids=["another signer", "another plant", "another circuit", "the other direction"],
)
def test_c_40_a_checkpoint_is_bound_to_signer_plant_circuit_and_direction(
    public: bytes, plant: bytes, circuit: bytes, direction: int
):
    with pytest.raises(TamperError):
        verify_checkpoint(GOOD, public, plant, circuit, direction)
    with pytest.raises(TamperError):
        check_received(GOOD, running(), public, plant, circuit, direction)


@pytest.mark.parametrize(
    "wrong",
    [
        Checkpoint(GOOD.frames + 1, GOOD.bytes, GOOD.digest, GOOD.signature),
        Checkpoint(GOOD.frames, GOOD.bytes - 1, GOOD.digest, GOOD.signature),
        Checkpoint(GOOD.frames, GOOD.bytes, bytes(32), GOOD.signature),
        Checkpoint(GOOD.frames, GOOD.bytes, GOOD.digest, bytes(64)),
    ],
    ids=["frames", "bytes", "digest", "signature"],
)
def test_c_42_a_changed_checkpoint_is_refused(wrong: Checkpoint):
    with pytest.raises(TamperError):
        verify_checkpoint(wrong, KEY.public, PLANT, CIRCUIT, CALLER)
    with pytest.raises(TamperError):
        check_received(wrong, running(), KEY.public, PLANT, CIRCUIT, CALLER)


@pytest.mark.parametrize(
    "came",
    [
        FRAMES[:2],
        [*FRAMES, FRAMES[0]],
        FRAMES[::-1],
        [*FRAMES[:2], (FRAMES[2][0], bytes(16), FRAMES[2][2])],
        [*FRAMES[:2], (bytes(14), *FRAMES[2][1:])],
        [*FRAMES[:2], (*FRAMES[2][:2], FRAMES[2][2] + 1)],
    ],
    ids=["one missing", "one more", "another order", "another tag", "other fields", "another size"],
)
def test_c_42_a_checkpoint_about_other_frames_is_refused(came: list[tuple[bytes, bytes, int]]):
    with pytest.raises(TamperError):
        check_received(GOOD, running(came), KEY.public, PLANT, CIRCUIT, CALLER)


# --- strict ---------------------------------------------------------------------------------------

SEALED = b"ciphertext and tag"
SIGNATURE = sign_frame(KEY, PLANT, CIRCUIT, HOST, 5, SEALED)


def test_c_44_a_frame_signature_covers_content_and_place():
    place = CIRCUIT + b"\x01" + (5).to_bytes(8, "big") + blake3(SEALED).digest()
    assert KEY.sign(b"ferrule/1/frame\0" + PLANT + place) == SIGNATURE
    verify_frame(KEY.public, SIGNATURE, PLANT, CIRCUIT, HOST, 5, memoryview(SEALED))


@pytest.mark.parametrize(
    "given",
    [
        (OTHER.public, SIGNATURE, PLANT, CIRCUIT, HOST, 5, SEALED),
        (KEY.public, bytes(64), PLANT, CIRCUIT, HOST, 5, SEALED),
        (KEY.public, SIGNATURE[:63], PLANT, CIRCUIT, HOST, 5, SEALED),
        (KEY.public, b"", PLANT, CIRCUIT, HOST, 5, SEALED),
        (KEY.public, SIGNATURE, b"o" * 32, CIRCUIT, HOST, 5, SEALED),
        (KEY.public, SIGNATURE, PLANT, b"o" * 16, HOST, 5, SEALED),
        (KEY.public, SIGNATURE, PLANT, CIRCUIT, CALLER, 5, SEALED),
        (KEY.public, SIGNATURE, PLANT, CIRCUIT, HOST, 6, SEALED),
        (KEY.public, SIGNATURE, PLANT, CIRCUIT, HOST, 5, SEALED[:-1]),
        (KEY.public, GOOD.signature, PLANT, CIRCUIT, HOST, 5, SEALED),
    ],
    ids=[
        "signer", "signature", "short", "none", "plant", "circuit", "direction", "sequence", "content",
        "a checkpoint's signature",
    ],
)  # fmt: skip
def test_c_44_a_signature_for_anything_else_is_refused(
    given: tuple[bytes, bytes, bytes, bytes, int, int, bytes],
):
    with pytest.raises(TamperError):
        verify_frame(*given)
