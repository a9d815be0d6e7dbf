"""Sealed frames of one link, in the three record modes (docs/protocol/link.md, L-06, L-10 to L-16).

Every frame is a 24-byte header and its payload. `seal` gives the buffers to write, in order. Reading goes in steps, so
that the reader can place large payloads where it likes: `inflow` takes what came from the connection, then
`header_size` bytes go to `open_header`, then `wire_length(header)` bytes to `open_payload`. The cipher is AES-256-GCM
always (L-14).
"""

import struct
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from overlay import limits
from overlay.crypto.handshake import Tls
from overlay.errors import DecodeError, LimitError, TamperError
from overlay.wire.header import (
    CLEAR_KINDS,
    HEADER_SIZE,
    Header,
    HeaderFields,
    Kind,
    decode_header,
    encode_header,
    pack_header,
)

Buffer = bytes | bytearray | memoryview
MAX_OPERATIONS = 1 << 48
"""AEAD operations of one direction (L-16)."""

_nonce = struct.Struct("!4xQ").pack
_NOTHING: frozenset[Kind] = frozenset()


class Records(Protocol):
    """One connection's two directions. Not safe to share between tasks: the order of calls is the order on the wire."""

    header_size: int
    """Bytes of a header as `open_header` takes it."""
    clear: frozenset[Kind]
    """Kinds whose payload needs no opening: as long as the header says, and it is what it is."""

    def seal(
        self,
        header: HeaderFields,
        payload: Buffer | Sequence[Buffer] = b"",
        room: memoryview | None = None,
    ) -> list[Buffer]:
        """The buffers to write for one frame.

        Args:
            header: `length` must be the size of the payload.
            payload: may come in parts; parts that need no sealing here are passed on without a copy.
            room: where a sealed payload may be put instead of new memory, at least payload + 16 bytes.

        Raises:
            LimitError: this direction has used up its nonces (L-16); the link must be replaced.
        """
        ...

    def seal_head(
        self, kind: Kind, flags: int, length: int, circuit: int, sequence: int
    ) -> bytes | None:
        """The sealed header of a frame whose payload follows as it is; None where the payload has to be sealed, too:
        then `seal` does both. The short way for what a link carries most.

        Raises:
            LimitError: as `seal`.
        """
        ...

    def inflow(self, data: Buffer) -> Buffer:
        """From bytes of the connection to bytes of records.

        Raises:
            TamperError: they do not authenticate (`tls` mode).
        """
        ...

    def open_header(self, raw: Buffer) -> Header:
        """Read `header_size` bytes.

        Raises:
            TamperError: they do not authenticate, or are not a valid header (L-15).
        """
        ...

    def wire_length(self, header: Header) -> int:
        """Bytes that follow the header on the wire, before its payload can be opened."""
        ...

    def open_payload(self, header: Header, raw: Buffer) -> Buffer:
        """The payload, `header.length` bytes.

        Raises:
            TamperError: it does not authenticate.
        """
        ...


class _Direction:
    """One key and its counter: the nonce is 4 zero bytes and the number of AEAD operations before (L-11)."""

    __slots__ = ("_aead", "_decrypt", "_encrypt", "counter")

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._encrypt = self._aead.encrypt
        self._decrypt = self._aead.decrypt
        self.counter = 0

    def seal(self, data: Buffer, associated: bytes | None) -> bytes:
        counter = self.counter
        if counter >= MAX_OPERATIONS:
            raise _used_up()
        sealed = self._encrypt(_nonce(counter), data, associated)
        self.counter = counter + 1
        return sealed

    def seal_into(self, data: Buffer, associated: bytes | None, room: memoryview) -> memoryview:
        counter = self.counter
        if counter >= MAX_OPERATIONS:
            raise _used_up()
        out = room[: len(data) + limits.TAG_SIZE]
        self._aead.encrypt_into(_nonce(counter), data, associated, out)
        self.counter = counter + 1
        return out

    def open(self, data: Buffer, associated: bytes | None) -> bytes:
        counter = self.counter
        if counter >= MAX_OPERATIONS:
            raise _used_up()
        try:
            plain = self._decrypt(_nonce(counter), data, associated)
        except InvalidTag:
            raise TamperError(f"record {counter} of the link does not authenticate") from None
        self.counter = counter + 1
        return plain


class HeaderRecords:
    """`header` mode: DATA and DATAGRAM payload, sealed end to end already, passes as it is (L-11)."""

    def __init__(
        self, send_key: bytes, receive_key: bytes, *, clear: frozenset[Kind] = CLEAR_KINDS
    ) -> None:
        self.header_size = HEADER_SIZE + limits.TAG_SIZE
        self.clear = clear
        self._send = _Direction(send_key)
        self._receive = _Direction(receive_key)

    def seal(
        self,
        header: HeaderFields,
        payload: Buffer | Sequence[Buffer] = b"",
        room: memoryview | None = None,
    ) -> list[Buffer]:
        """See `Records.seal`."""
        parts = _parts(header, payload)
        clear = encode_header(header)
        out: list[Buffer] = [self._send.seal(clear, None)]
        if not header.length:
            return out
        if header.kind in self.clear:
            out += parts
            return out
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        if room is None:
            out.append(self._send.seal(whole, clear))
        else:
            out.append(self._send.seal_into(whole, clear, room))
        return out

    def seal_head(
        self, kind: Kind, flags: int, length: int, circuit: int, sequence: int
    ) -> bytes | None:
        """See `Records.seal_head`."""
        if length and kind not in self.clear:
            return None
        return self._send.seal(pack_header(kind, flags, 0, length, circuit, sequence), None)

    def inflow(self, data: Buffer) -> Buffer:
        """Nothing to do: sealed records are the connection's own bytes."""
        return data

    def open_header(self, raw: Buffer) -> Header:
        """See `Records.open_header`."""
        try:
            return decode_header(self._receive.open(raw, None))
        except DecodeError as error:
            raise _invalid(error) from None

    def wire_length(self, header: Header) -> int:
        """See `Records.wire_length`."""
        if not header.length or header.kind in self.clear:
            return header.length
        return header.length + limits.TAG_SIZE

    def open_payload(self, header: Header, raw: Buffer) -> Buffer:
        """See `Records.open_payload`."""
        if not header.length or header.kind in self.clear:
            return raw
        return self._receive.open(raw, header.encode())


class FullRecords(HeaderRecords):
    """`full` mode: every payload is sealed, again where it is sealed end to end (L-12)."""

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        super().__init__(send_key, receive_key, clear=_NOTHING)


class TlsRecords:
    """`tls` mode: header and payload inside the TLS connection (L-13)."""

    def __init__(self, tls: Tls) -> None:
        self.header_size = HEADER_SIZE
        self.clear = frozenset(Kind)
        self._tls = tls

    def seal(
        self,
        header: HeaderFields,
        payload: Buffer | Sequence[Buffer] = b"",
        room: memoryview | None = None,
    ) -> list[Buffer]:
        """See `Records.seal`; `room` is of no use to OpenSSL."""
        del room
        return [self._tls.wrap([encode_header(header), *_parts(header, payload)])]

    def seal_head(
        self, kind: Kind, flags: int, length: int, circuit: int, sequence: int
    ) -> bytes | None:
        """See `Records.seal_head`: here everything is sealed."""
        del kind, flags, length, circuit, sequence
        return None

    def inflow(self, data: Buffer) -> Buffer:
        """See `Records.inflow`; call it once with nothing for bytes that came together with the handshake."""
        return self._tls.unwrap(data)

    def open_header(self, raw: Buffer) -> Header:
        """See `Records.open_header`."""
        try:
            return decode_header(raw)
        except DecodeError as error:
            raise _invalid(error) from None

    def wire_length(self, header: Header) -> int:
        """The payload's own length."""
        return header.length

    def open_payload(self, header: Header, raw: Buffer) -> Buffer:
        """The payload is what it is."""
        del header
        return raw


def _parts(header: HeaderFields, payload: Buffer | Sequence[Buffer]) -> list[Buffer]:
    if isinstance(payload, bytes | bytearray | memoryview):
        parts, size = [payload], len(payload)
    else:
        parts = list(payload)
        size = sum(map(len, parts))
    if size != header.length:
        raise ValueError("the header's length is not the payload's")
    return parts


def _invalid(error: DecodeError) -> TamperError:
    return TamperError(f"an authenticated header is not valid: {error}")


def _used_up() -> LimitError:
    return LimitError("the link has used up its nonces and must be replaced")
