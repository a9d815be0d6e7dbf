"""The keys of one circuit, edge to edge: three counters per direction (C-01, C-11, C-12, C-20 to C-23).

A sealer numbers its frames itself; the number is the nonce and the header's sequence. An opener says what it expects,
and changes nothing when a frame does not authenticate; what fails, repeats or skips is a `TamperError` (C-22).
"""

import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from overlay import limits
from overlay.crypto.handshake import Tls
from overlay.crypto.hkdf import expand, extract, next_key
from overlay.errors import LateError, LimitError, TamperError
from overlay.wire.header import Header, Kind, end_to_end_fields, pack_fields

Buffer = bytes | bytearray | memoryview
SECRET_SIZE = 32
MAX_SEQUENCE = 1 << 62
"""Frames of one key's counter, far above what an hour (C-70) can hold."""

_nonce = struct.Struct("!4xQ").pack
_ZERO_NONCE = bytes(12)
_PREFIX = b"ferrule/1/"
_new = tuple.__new__  # twice as fast as calling a NamedTuple
_EPOCH_BITS = limits.KEY_FRAMES.bit_length() - 1
_EPOCH_MASK = limits.KEY_FRAMES - 1
_WINDOW = (1 << limits.REPLAY_WINDOW) - 1


class Sealed(NamedTuple):
    """A sealed frame part: `sequence` and `length` go into the header, `fields` are the 14 bytes that were
    authenticated with it and that the running hash takes (C-21, C-40)."""

    sequence: int
    length: int
    fields: bytes
    data: Buffer
    """Ciphertext and 16-byte tag."""


class Sealer:
    """Seals one counter's frames of the sending direction."""

    __slots__ = ("_aead", "_key", "sequence")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead = AESGCM(key)
        self.sequence = 0
        """The next frame's number."""

    def seal(
        self,
        kind: Kind,
        flags: int,
        plain: Buffer,
        *,
        beside: bytes = b"",
        bound: bytes = b"",
        trailer: int = 0,
    ) -> Sealed:
        """Seal one frame.

        Args:
            kind: the frame's kind.
            flags: its flags; only the end-to-end half is covered.
            plain: what is sealed.
            beside: what travels in the clear after the sealed part and is authenticated with it (a refreshed grant).
            bound: what is authenticated with it and does not follow it (the hash of a RESUME's intent, C-60).
            trailer: size of what else follows and counts to the end-to-end length (a signature, C-44).

        Raises:
            LimitError: the counter is used up.
        """
        sequence = self.sequence
        if sequence >= MAX_SEQUENCE:
            raise _used_up()
        length = len(plain) + limits.TAG_SIZE + len(beside) + trailer
        fields = end_to_end_fields(kind, flags, length, sequence)
        associated = fields + beside + bound if beside or bound else fields
        data = self._aead.encrypt(_nonce(sequence), plain, associated)
        self._next()
        return _new(Sealed, (sequence, length, fields, data))

    def seal_plain(self, kind: Kind, plain: Buffer) -> Sealed:
        """`seal` for what has no flags and nothing beside it: nearly all DATA and DATAGRAM that leaves."""
        sequence = self.sequence
        if sequence >= MAX_SEQUENCE:
            raise _used_up()
        length = len(plain) + limits.TAG_SIZE
        fields = pack_fields(kind, 0, length, sequence)
        data = self._aead.encrypt(_nonce(sequence), plain, fields)
        self._next()
        return _new(Sealed, (sequence, length, fields, data))

    def seal_into(
        self, kind: Kind, flags: int, plain: Buffer, room: memoryview, *, trailer: int = 0
    ) -> Sealed:
        """`seal` into the beginning of `room` (at least plain + 16 bytes), without new memory for the payload."""
        sequence = self.sequence
        if sequence >= MAX_SEQUENCE:
            raise _used_up()
        data = room[: len(plain) + limits.TAG_SIZE]
        length = len(data) + trailer
        fields = end_to_end_fields(kind, flags, length, sequence)
        self._aead.encrypt_into(_nonce(sequence), plain, fields, data)
        self._next()
        return _new(Sealed, (sequence, length, fields, data))

    def skip_first(self) -> None:
        """Number 0 was early data, under its own key (C-12)."""
        if self.sequence:
            raise ValueError("only a fresh key can skip its first number")
        self.sequence = 1

    def _next(self) -> None:
        self.sequence += 1
        if not self.sequence & _EPOCH_MASK:
            self._key = next_key(self._key)
            self._aead = AESGCM(self._key)


class _Opener:
    """Opens one counter's frames of the receiving direction; nothing changes when a frame does not authenticate."""

    __slots__ = ("_aead", "_epoch", "_key", "_previous", "expected")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead = AESGCM(key)
        self._previous: AESGCM | None = None
        self._epoch = 0
        self.expected = 0
        """One above the highest number that was opened."""

    def _decrypt(self, header: Header, sealed: Buffer, associated: bytes, less: int) -> bytes:
        length = header.length - less
        if length < 0:
            raise _unauthentic(header)
        fields = end_to_end_fields(header.kind, header.flags, length, header.sequence)
        aead = self._aead_of(header.sequence)
        try:
            return aead.decrypt(_nonce(header.sequence), sealed, fields + associated)
        except InvalidTag:
            raise _unauthentic(header) from None

    def _aead_of(self, sequence: int) -> AESGCM:
        """The key of a number, at most one step ahead, so that a lying header costs one derivation at most (C-23)."""
        step = (sequence >> _EPOCH_BITS) - self._epoch
        if step == 0:
            return self._aead
        if step == 1:
            return AESGCM(next_key(self._key))
        if step == -1 and self._previous is not None:
            return self._previous
        raise TamperError(f"frame {sequence} is far from {self.expected}, which was expected")

    def _accept(self, sequence: int) -> None:
        """The frame authenticated: all that depends on that happens here."""
        if sequence >> _EPOCH_BITS > self._epoch:
            self._previous = self._aead
            self._key = next_key(self._key)
            self._aead = AESGCM(self._key)
            self._epoch += 1
        self.expected = max(self.expected, sequence + 1)


class StreamOpener(_Opener):
    """DATA, CHECKPOINT, CLOSE: every number once, in order (C-20)."""

    __slots__ = ()

    def open(self, header: Header, sealed: Buffer, fields: bytes | None = None) -> bytes:
        """The plain bytes of the frame that `expected` names.

        Args:
            header: the frame's header as it arrived.
            sealed: ciphertext and tag; a signature that follows them (C-44) is left out.
            fields: `header.end_to_end()`, where it is known already.

        Raises:
            TamperError: another number, or the frame does not authenticate.
        """
        sequence = header.sequence
        if sequence != self.expected:
            self._check(header)
        same = sequence >> _EPOCH_BITS == self._epoch
        aead = self._aead if same else self._aead_of(sequence)
        try:
            plain = aead.decrypt(_nonce(sequence), sealed, fields or header.end_to_end())
        except InvalidTag:
            raise _unauthentic(header) from None
        if same:
            self.expected = sequence + 1
        else:
            self._accept(sequence)
        return plain

    def open_into(self, header: Header, sealed: Buffer, room: memoryview) -> int:
        """`open` into the beginning of `room`; how many bytes it wrote. On an error `room` is undefined."""
        self._check(header)
        size = len(sealed) - limits.TAG_SIZE
        if size < 0:
            raise _unauthentic(header)
        nonce = _nonce(header.sequence)
        aead = self._aead_of(header.sequence)
        try:
            aead.decrypt_into(nonce, sealed, header.end_to_end(), room[:size])
        except InvalidTag:
            raise _unauthentic(header) from None
        self._accept(header.sequence)
        return size

    def skip_first(self) -> None:
        """Number 0 was early data, under its own key (C-12)."""
        if self.expected:
            raise ValueError("only a fresh key can skip its first number")
        self.expected = 1

    def _check(self, header: Header) -> None:
        if header.sequence != self.expected:
            raise TamperError(
                f"{header.kind.name} {header.sequence} came, {self.expected} was expected"
            )


class ControlOpener(_Opener):
    """READY, REFUSE, CREDIT, RESUME: numbers that rise, with gaps where a path was lost (C-20)."""

    __slots__ = ()

    def open(
        self,
        header: Header,
        sealed: Buffer,
        *,
        beside: bytes = b"",
        bound: bytes = b"",
        less: int = 0,
    ) -> bytes:
        """The plain bytes of a frame with a number not below `expected`.

        Args:
            header: the frame's header as it arrived.
            sealed: ciphertext and tag.
            beside: as for `Sealer.seal`.
            bound: as for `Sealer.seal`.
            less: how much of `header.length` is not end to end: a TLS flight, or all of RESUME but its `sealed`.

        Raises:
            LateError: it authenticates, but its number does not rise. TamperError: it does not authenticate.
        """
        plain = self.peek(header, sealed, beside=beside, bound=bound, less=less)
        self.commit(header.sequence)
        return plain

    def peek(
        self,
        header: Header,
        sealed: Buffer,
        *,
        beside: bytes = b"",
        bound: bytes = b"",
        less: int = 0,
    ) -> bytes:
        """`open` without a trace; whoever then believes the frame calls `commit`."""
        plain = self._decrypt(header, sealed, beside + bound, less)
        if header.sequence < self.expected:
            raise LateError(
                f"{header.kind.name} {header.sequence} came again or late; {self.expected} is next"
            )
        return plain

    def commit(self, sequence: int) -> None:
        """The frame that `peek` opened counts: its number and all below are used up."""
        self._accept(sequence)


class DatagramOpener(_Opener):
    """DATAGRAM: any order within a window, each number once (C-20)."""

    __slots__ = ("_seen", "dropped")

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._seen = 0
        """Bit n: number `expected - 1 - n` has come."""
        self.dropped = 0
        """How many were dropped: duplicates, too old ones, and those too far ahead (C-23)."""

    def open(self, header: Header, sealed: Buffer) -> bytes | None:
        """The plain bytes, or None where the number came before, is too old to know, or too far ahead.

        Raises:
            TamperError: it does not authenticate.
        """
        sequence = header.sequence
        if sequence == self.expected and sequence >> _EPOCH_BITS == self._epoch:  # nearly all
            try:
                plain = self._aead.decrypt(_nonce(sequence), sealed, header.end_to_end())
            except InvalidTag:
                raise _unauthentic(header) from None
            self.expected = sequence + 1
            self._seen = (self._seen << 1 | 1) & _WINDOW
            return plain
        age = self.expected - 1 - sequence
        known = age >= limits.REPLAY_WINDOW or (age >= 0 and self._seen >> age & 1)
        if known or (sequence >> _EPOCH_BITS) - self._epoch > 1:
            self.dropped += 1
            return None
        plain = self._decrypt(header, sealed, b"", 0)
        self._accept(sequence)
        if age >= 0:
            self._seen |= 1 << age
        else:
            self._seen = (self._seen << min(-age, limits.REPLAY_WINDOW) | 1) & _WINDOW
        return plain


class CircuitKeys:
    """All keys of a circuit, from one side: `send_…` seal, `receive_…` open."""

    __slots__ = (
        "receive_control", "receive_datagram", "receive_stream", "send_control", "send_datagram", "send_stream",
    )  # fmt: skip

    def __init__(self, prk: bytes, intent_hash: bytes, *, caller: bool, datagrams: bool) -> None:
        own, other = (b"caller ", b"host ") if caller else (b"host ", b"caller ")

        def key(side: bytes, what: bytes) -> bytes:
            return expand(prk, _PREFIX + side + what + b"\0" + intent_hash)

        self.send_stream = Sealer(key(own, b"stream"))
        self.send_control = Sealer(key(own, b"control"))
        self.receive_stream = StreamOpener(key(other, b"stream"))
        self.receive_control = ControlOpener(key(other, b"control"))
        self.send_datagram = Sealer(key(own, b"datagram")) if datagrams else None
        self.receive_datagram = DatagramOpener(key(other, b"datagram")) if datagrams else None

    @classmethod
    def derive(
        cls,
        secret: bytes,
        caller_random: bytes,
        host_random: bytes,
        intent_hash: bytes,
        *,
        caller: bool,
        datagrams: bool,
    ) -> "CircuitKeys":
        """The keys of C-11.

        Args:
            secret: the association's, 32 bytes.
            caller_random: `OpenIntent.random`.
            host_random: `Accept.random`.
            intent_hash: SHA-256 of OPEN's intent as transported.
            caller: whether this side is the caller.
            datagrams: whether the circuit carries datagrams; the keys for them are left out where it does not.
        """
        prk = extract(caller_random + host_random, secret)
        return cls(prk, intent_hash, caller=caller, datagrams=datagrams)


def association_secret(tls: Tls) -> bytes:
    """The secret of an association from its finished handshake, 32 bytes (C-01); the caller was the TLS client.

    Raises:
        TrustError: the handshake is not done.
    """
    return tls.export("ferrule/1/association", tls.binding, SECRET_SIZE)


def early_seal(secret: bytes, caller_random: bytes, intent_hash: bytes, data: Buffer) -> bytes:
    """Seal a later circuit's early data, possibly empty (C-12). A random may serve one OPEN only.

    Raises:
        LimitError: more than `MAX_EARLY_DATA` bytes.
    """
    if len(data) > limits.MAX_EARLY_DATA:
        raise LimitError(f"early data is at most {limits.MAX_EARLY_DATA} bytes")
    return _early_key(secret, caller_random, intent_hash).encrypt(_ZERO_NONCE, data, intent_hash)


def early_open(secret: bytes, caller_random: bytes, intent_hash: bytes, sealed: Buffer) -> bytes:
    """Early data that `early_seal` sealed.

    Raises:
        TamperError: it does not authenticate, or is too long.
    """
    if len(sealed) > limits.MAX_EARLY_DATA + limits.TAG_SIZE:
        raise TamperError("the early data is too long")
    try:
        return _early_key(secret, caller_random, intent_hash).decrypt(
            _ZERO_NONCE, sealed, intent_hash
        )
    except InvalidTag:
        raise TamperError("the early data does not authenticate") from None


def early_fields(sealed: Buffer) -> bytes:
    """The 14 bytes by which early data enters the running hash: as DATA with number 0 (C-12, C-40)."""
    return end_to_end_fields(Kind.DATA, 0, len(sealed), 0)


def _early_key(secret: bytes, caller_random: bytes, intent_hash: bytes) -> AESGCM:
    info = _PREFIX + b"early\0" + intent_hash
    return AESGCM(expand(extract(caller_random, secret), info))


def _used_up() -> LimitError:
    return LimitError("the circuit has used up its numbers")


def _unauthentic(header: Header) -> TamperError:
    return TamperError(f"{header.kind.name} {header.sequence} does not authenticate")
