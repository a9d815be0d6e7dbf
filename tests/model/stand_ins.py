"""What two real cores need to be searched: stand-ins for what cannot be copied, and copying itself."""

import copyreg
import io
import pickle
from hashlib import blake2b, sha256
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from overlay.circuit.circuit import Circuit
from overlay.circuit.controls import Names
from overlay.circuit.frames import CREDIT_SIZE, decode_close, decode_credit
from overlay.crypto.checkpoint import CALLER, HOST, Checkpoint, RunningHash
from overlay.crypto.circuit_keys import CircuitKeys
from overlay.errors import TamperError
from overlay.wire.bodies import Resume, ResumeState
from overlay.wire.codec import decode
from overlay.wire.header import Flag, Header, Kind

NAMES = Names(b"i" * 16, b"a" * 16, 1, "edge-b", "plc-b.modbus", 0, 0)


class StandInHash:
    """Can be copied with the rest, which hashlib's cannot."""

    def __init__(self) -> None:
        self.state = b""

    def update(self, data: Any) -> None:
        self.state = blake2b(self.state + bytes(data), digest_size=32).digest()

    def digest(self) -> bytes:
        return self.state.ljust(32, b"\0")


class StandInSigning:
    """`Signing` and `Verifying` without a public-key operation."""

    def checkpoint(self, *told: Any) -> Checkpoint:
        running: RunningHash = told[-1]
        now = Checkpoint(running.frames, running.size, running.digest(), bytes(64))
        if len(told) == 2 and told[0] != now:
            raise TamperError("a checkpoint is not about what came")
        return now


def new_core(role: int) -> Any:
    """One end of the circuit, after the handshake."""
    keys = CircuitKeys.derive(
        b"s" * 32, b"1" * 32, b"2" * 32, b"3" * 32, caller=role == CALLER, datagrams=False
    )
    signing: Any = StandInSigning()
    core: Any = Circuit(NAMES, role, keys, signing, signing)
    for half in (core._sending, core._receiving):
        half._running._hash = StandInHash()
    return core


_SPIES = [
    CircuitKeys.derive(
        b"s" * 32, b"1" * 32, b"2" * 32, b"3" * 32, caller=role == CALLER, datagrams=False
    )
    for role in (HOST, CALLER)
]
"""By the role of who sealed it: the keys that open it."""


def meaning(role: int, header: Header, payload: bytes) -> tuple[Any, ...]:
    """(kind, number, what it says...) of a control frame, and of CLOSE."""
    if header.kind is Kind.CLOSE:
        stream = _SPIES[role].receive_stream
        stream.expected = header.sequence
        closing = decode_close(stream.open(header, payload))
        return ("CLOSE", header.sequence, closing.ack, closing.code, header.flags)
    spy = _SPIES[role].receive_control
    if header.kind is Kind.CREDIT:
        tail = payload[CREDIT_SIZE:]
        grant = tail if header.flags & Flag.GRANT else b""
        less = 0 if grant else len(tail)
        plain = spy.peek(header, payload[:CREDIT_SIZE], beside=grant, less=less)
        return ("CREDIT", header.sequence, *decode_credit(plain), header.flags)
    if header.kind is Kind.RESUME:
        body = decode(Resume, payload)
        digest, less = sha256(body.intent).digest(), header.length - len(body.sealed)
        state = decode(ResumeState, spy.peek(header, body.sealed, beside=digest, less=less))
        return ("RESUME", header.sequence, state.generation, state.expected, state.limit)
    if header.kind is Kind.READY:
        return ("READY", header.sequence)
    return ()


# --- copying a state ----------------------------------------------------------------------------------

_ciphers: dict[int, AESGCM] = {}


def _cipher(key: int) -> AESGCM:
    return _ciphers[key]


def _keep_cipher(cipher: AESGCM) -> tuple[Any, ...]:
    """A cipher has no state: all copies of a state share it."""
    _ciphers[id(cipher)] = cipher
    return _cipher, (id(cipher),)


_TABLE = copyreg.dispatch_table | {AESGCM: _keep_cipher}


def freeze(state: Any) -> bytes:
    """A copy to keep; `thaw` makes a state of it again."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _TABLE
    pickler.dump(state)
    return file.getvalue()


def thaw(frozen: bytes) -> Any:
    """As often as wanted."""
    return pickle.loads(frozen)
