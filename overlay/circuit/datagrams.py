"""Datagrams of a circuit: sealed one by one, never retransmitted, duplicates dropped and counted (C-20, L-25)."""

from collections import deque

from overlay import limits
from overlay.circuit.frames import Buffer, Frame
from overlay.circuit.signatures import Signing, Verifying
from overlay.crypto.circuit_keys import DatagramOpener, Sealer
from overlay.errors import ProtocolError, TamperError
from overlay.wire.header import Flag, Header, Kind

MAX_DATAGRAM = limits.MAX_DATAGRAM - limits.TAG_SIZE - limits.SIGNATURE_SIZE
"""Largest payload, bytes: what fits into one UDP datagram over IPv4."""
_SIGNED = int(Flag.SIGNED)
_DATAGRAM = Kind.DATAGRAM  # 3.11 looks members of an enumeration up slowly
_new = tuple.__new__  # twice as fast as calling a NamedTuple


class Newest:
    """Datagrams that wait, the oldest give way: at most `DATAGRAM_QUEUE` of them with `DATAGRAM_QUEUE_BYTES`."""

    __slots__ = ("_bytes", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, data: Buffer) -> int:
        """One more; how many gave way."""
        self._waiting.append(bytes(data))
        self._bytes += len(data)
        gone = 0
        while len(self._waiting) > limits.DATAGRAM_QUEUE or (
            self._bytes > limits.DATAGRAM_QUEUE_BYTES
        ):
            self.pop()
            gone += 1
        return gone

    def pop(self) -> bytes:
        """The oldest. Raises: IndexError: none waits."""
        data = self._waiting.popleft()
        self._bytes -= len(data)
        return data


class DatagramPair:
    """Both directions; without keys in a circuit for a stream, which has none.

    `sent` and `received` count payload bytes, `dropped` datagrams that went nowhere.
    """

    __slots__ = (
        "_opener",
        "_sealer",
        "_signing",
        "_strict",
        "_verifying",
        "dropped",
        "received",
        "sent",
    )

    def __init__(
        self,
        sealer: Sealer | None,
        opener: DatagramOpener | None,
        signing: Signing,
        verifying: Verifying,
        *,
        strict: bool,
    ) -> None:
        self._sealer = sealer
        self._opener = opener
        self._signing = signing
        self._verifying = verifying
        self._strict = strict
        self.sent = 0
        self.received = 0
        self.dropped = 0

    def seal(self, plain: Buffer) -> Frame:
        """One DATAGRAM frame.

        Raises:
            ValueError: more than `MAX_DATAGRAM` bytes, or the circuit carries a stream.
        """
        if self._sealer is None:
            raise ValueError("a circuit for a stream sends no datagrams")
        if len(plain) > MAX_DATAGRAM:
            raise ValueError(f"a datagram has at most {MAX_DATAGRAM} bytes")
        self.sent += len(plain)
        if not self._strict:
            sealed = self._sealer.seal_plain(_DATAGRAM, plain)
            return _new(Frame, (_DATAGRAM, 0, sealed.sequence, sealed.data))
        sealed = self._sealer.seal(_DATAGRAM, _SIGNED, plain, trailer=limits.SIGNATURE_SIZE)
        signed = bytes(sealed.data) + self._signing.frame(sealed.sequence, sealed.data)
        return Frame(_DATAGRAM, _SIGNED, sealed.sequence, signed)

    def open(self, header: Header, payload: memoryview) -> bytes | None:
        """The plaintext; None for a duplicate or one that is too old.

        Raises:
            TamperError: it fails, or is not signed where it must be. ProtocolError: the circuit carries a stream.
        """
        if self._opener is None:
            raise ProtocolError("DATAGRAM in a circuit for a stream")
        if bool(header.flags & _SIGNED) is not self._strict:
            raise TamperError("a datagram without its signature, or with one that nobody asked for")
        sealed = payload
        if self._strict:
            sealed = payload[: -limits.SIGNATURE_SIZE]
            self._verifying.frame(header.sequence, sealed, payload[-limits.SIGNATURE_SIZE :])
        plain = self._opener.open(header, sealed)
        if plain is None:
            self.dropped += 1
        else:
            self.received += len(plain)
        return plain
