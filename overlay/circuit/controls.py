"""What travels under a circuit's control keys: READY, REFUSE, CREDIT and RESUME (C-14, C-20, C-30, C-60)."""

import hashlib
from typing import NamedTuple, TypeVar

from overlay.circuit.frames import CREDIT_SIZE, Buffer, Frame, decode_credit, encode_credit
from overlay.crypto.circuit_keys import ControlOpener, Sealer
from overlay.errors import DecodeError, ProtocolError
from overlay.wire.bodies import Resume, ResumeIntent, ResumeState
from overlay.wire.codec import decode, encode
from overlay.wire.header import Flag, Header, Kind

T = TypeVar("T")
_HASH_SIZE = 32
_GRANT = int(Flag.GRANT)
_FLIGHT = int(Flag.FLIGHT)


class Names(NamedTuple):
    """What a circuit is called and is for; the same at both ends. `host` is the hosting node's name."""

    circuit: bytes
    association: bytes
    number: int
    host: str
    service: str
    integrity: int
    transport: int

    def resume_intent(self, grant: bytes) -> ResumeIntent:
        """What a RESUME is for, under this grant (C-60, C-64)."""
        return ResumeIntent(
            self.circuit, self.association, self.number, self.host, self.service, grant
        )


class Controls:
    """Seals and opens one end's control frames. Numbers only rise; a frame may be lost with its path."""

    __slots__ = ("_opener", "_sealer")

    def __init__(self, sealer: Sealer, opener: ControlOpener) -> None:
        self._sealer = sealer
        self._opener = opener

    @property
    def expected(self) -> int:
        """The lowest number that the other end may use now."""
        return self._opener.expected

    def seal(self, kind: Kind, flags: int, body: object) -> Frame:
        """READY or REFUSE."""
        sealed = self._sealer.seal(kind, flags, encode(body))
        return Frame(kind, flags, sealed.sequence, sealed.data)

    def open(self, header: Header, payload: memoryview, kind: type[T]) -> T:
        """The body of READY or REFUSE.

        Raises:
            LateError: its number does not rise. TamperError: it does not authenticate.
            ProtocolError: it does not decode.
        """
        return decoded(kind, self._opener.open(header, payload))

    def credit(self, flags: int, ack: int, limit: int, tail: bytes = b"") -> Frame:
        """CREDIT; `tail` is the grant (GRANT, bound by the seal) or the TLS flight (FLIGHT, not bound)."""
        grant = tail if flags & _GRANT else b""
        sealed = self._sealer.seal(Kind.CREDIT, flags, encode_credit(ack, limit), beside=grant)
        payload: Buffer = bytes(sealed.data) + tail if tail else sealed.data
        return Frame(Kind.CREDIT, flags, sealed.sequence, payload)

    def open_credit(self, header: Header, payload: memoryview) -> tuple[int, int, bytes]:
        """(ack, limit, grant) of a CREDIT; a flight behind it is not looked at.

        Raises:
            TamperError, ProtocolError: as `open`; also a grant without its flag and the reverse.
        """
        tail = bytes(payload[CREDIT_SIZE:])
        flags = header.flags
        if bool(tail) != bool(flags & (_GRANT | _FLIGHT)) or (flags & _GRANT and flags & _FLIGHT):
            raise ProtocolError("a CREDIT whose flags do not say what it holds")
        grant, less = (tail, 0) if flags & _GRANT else (b"", len(tail))
        plain = self._opener.open(header, payload[:CREDIT_SIZE], beside=grant, less=less)
        try:
            ack, limit = decode_credit(plain)
        except DecodeError as error:
            raise ProtocolError(str(error)) from None
        return ack, limit, grant

    def resume(
        self,
        intent: bytes,
        state: ResumeState,
        route: tuple[str, ...] = (),
        path: tuple[str, ...] = (),
    ) -> Frame:
        """RESUME. The seal covers the intent by its hash, and of the length only its own part: routers change
        the rest.
        """
        digest = hashlib.sha256(intent).digest()
        sealed = self._sealer.seal(
            Kind.RESUME, 0, encode(state), beside=digest, trailer=-_HASH_SIZE
        )
        body = Resume(intent, bytes(sealed.data), route, path)
        return Frame(Kind.RESUME, 0, sealed.sequence, encode(body))

    def open_resume(self, header: Header, body: Resume) -> ResumeState:
        """What a RESUME asks for.

        Raises:
            TamperError, ProtocolError: as `open`; nothing has changed then, so that a forged one hurts no circuit.
        """
        state = self.peek_resume(header, body)
        self._opener.commit(header.sequence)
        return state

    def peek_resume(self, header: Header, body: Resume) -> ResumeState:
        """`open_resume` that uses up no number."""
        digest = hashlib.sha256(body.intent).digest()
        less = header.length - len(body.sealed)
        return decoded(
            ResumeState, self._opener.peek(header, body.sealed, beside=digest, less=less)
        )


def decoded(kind: type[T], plain: Buffer) -> T:
    """A body that the other end sent.

    Raises:
        ProtocolError: it does not decode.
    """
    try:
        return decode(kind, plain)
    except DecodeError as error:
        raise ProtocolError(str(error)) from None
