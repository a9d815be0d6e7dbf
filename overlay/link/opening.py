"""From the first byte of a connection to its keys (docs/protocol/link.md, L-01 to L-06).

Pure but for OpenSSL, which draws its own randomness (ADR 0002).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from overlay import limits
from overlay.crypto.handshake import ENROL, FULL, HEADER, TLS, PeerCertificate, Tls
from overlay.crypto.records import FullRecords, HeaderRecords, Records, TlsRecords
from overlay.errors import DecodeError, LimitError
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials
from overlay.wire.bodies import EXPRESS

MAGIC = b"FRL1"
LINK_ID = 16
PREAMBLE = len(MAGIC) + 1 + LINK_ID
TLS_RECORD = 0x16
MODES = {"header": HEADER, "full": FULL, "tls": TLS}
"""Record modes by name, with their ALPN (L-01)."""
ENROL_MODE = "enrol"
EXPORTER = "ferrule/1/link"
KEY_SIZE = 32
_MESSAGE = 16_384
_LENGTH = 2
_NO_ID = bytes(LINK_ID)
_ALPN = MODES | {ENROL_MODE: ENROL}
_MODE_OF = {alpn: mode for mode, alpn in _ALPN.items()}


def lane_of(begin: bytes | bytearray | memoryview) -> int | None:
    """The lane that the first bytes of a connection ask for (L-02); None while it takes more of them.

    Raises:
        DecodeError: no link begins so.
    """
    begin = bytes(begin[:PREAMBLE])
    if begin[:1] == bytes((TLS_RECORD,)):
        return EXPRESS
    if not MAGIC.startswith(begin[: len(MAGIC)]):
        raise DecodeError("the connection does not begin like a link")
    return begin[len(MAGIC)] if len(begin) == PREAMBLE else None


@dataclass(frozen=True)
class Opened:
    """An authenticated connection. `peer` is None for a newcomer; `rest` are record bytes that came along; a `tls` link
    has a zero `link_id` (L-06)."""

    records: Records
    peer: Leaf | None
    peer_public: bytes
    peer_der: bytes
    mode: str
    group: str
    newcomer: bool
    lane: int
    link_id: bytes
    rest: bytes = field(repr=False)


class Opening:
    """One side's handshake: `receive` bytes, send `pending()`, until `result` is there.

    Args:
        credentials: who this side is.
        mode: what the dialer offers: one of `MODES`, or `ENROL_MODE`. None: this side accepts, and takes any mode;
            a side without a leaf takes only `ENROL_MODE` (E-07).
        now: plant time in microseconds, for certificates.
        admit: raises TrustError for a peer that this side does not want.
        link_id: 16 random bytes of the dialer; of no use in `tls` mode.
        lane: which one the dialer asks for (L-08); `tls` and `enrol` know express only.
        lanes: those that an acceptor takes.
        accept_newcomers: a self-signed certificate will do on a connection with ALPN `ferrule/1/enrol`. A newcomer
            itself never accepts another one.
        expired_leaf_ok: see I-05.
    """

    def __init__(
        self,
        credentials: Credentials,
        mode: str | None,
        now: int,
        admit: Callable[[PeerCertificate], None],
        *,
        link_id: bytes = _NO_ID,
        lane: int = EXPRESS,
        lanes: Collection[int] = (EXPRESS,),
        accept_newcomers: bool = False,
        expired_leaf_ok: bool = False,
    ) -> None:
        self._credentials = credentials
        self._mode = mode
        self._now = now
        self._admit = admit
        self._accept_newcomers = accept_newcomers and credentials.leaf is not None
        self._expired_leaf_ok = expired_leaf_ok
        self._lane = lane
        self._link_id = _NO_ID if mode == "tls" else link_id
        self._lanes = lanes
        self._received = 0
        self._in = bytearray()
        self._out = bytearray()
        self._tls: Tls | None = None
        self._framed = mode != "tls"
        self.result: Opened | None = None
        if mode is not None:
            self._tls = self._start((_ALPN[mode],))
            if self._framed:
                self._out += MAGIC + bytes((lane,)) + link_id
            self._flush()

    @property
    def dialer(self) -> bool:
        """This side dialed."""
        return self._mode is not None

    def pending(self) -> bytes:
        """Bytes to send now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the other side. After an error: close.

        Raises:
            DecodeError: not what the protocol says.
            TrustError: the other side's certificate, group, ALPN, role or name does not hold.
            LimitError: more than `HANDSHAKE_BYTES`.
        """
        self._in += data
        if self._tls is None and not self._begin():
            return
        if self._framed:
            self._receive_messages()
        else:
            self._count(len(self._in))
            chunk = bytes(self._in)
            self._in.clear()
            self._advance(chunk)
            if self._done():
                self._finish(b"")

    def _begin(self) -> bool:
        """Tell the modes apart by the first byte (L-02)."""
        if self._in[:1] == bytes((TLS_RECORD,)) and self._credentials.leaf is not None:
            self._take_lane(EXPRESS)
            self._framed = False
            self._tls = self._start((TLS,))
            return True
        if not MAGIC.startswith(self._in[: len(MAGIC)]):
            raise DecodeError("the connection does not begin like a link")
        if len(self._in) < PREAMBLE:
            return False
        self._take_lane(self._in[len(MAGIC)])
        self._link_id = bytes(self._in[len(MAGIC) + 1 : PREAMBLE])
        del self._in[:PREAMBLE]
        if self._credentials.leaf is None:
            self._tls = self._start((ENROL,))
        elif self._accept_newcomers and self._lane == EXPRESS:
            self._tls = self._start((HEADER, FULL, ENROL))
        else:
            self._tls = self._start((HEADER, FULL))
        return True

    def _take_lane(self, lane: int) -> None:
        if lane not in self._lanes:
            raise DecodeError(f"there is no lane {lane} here")
        self._lane = lane

    def _receive_messages(self) -> None:
        while not self._done() and len(self._in) >= _LENGTH:
            size = int.from_bytes(self._in[:_LENGTH], "big")
            if not 1 <= size <= _MESSAGE:
                raise DecodeError(f"a handshake message of {size} bytes")
            if self._received + size > limits.HANDSHAKE_BYTES:
                self._count(size)
            if len(self._in) < _LENGTH + size:
                return
            message = bytes(self._in[_LENGTH : _LENGTH + size])
            del self._in[: _LENGTH + size]
            self._count(size)
            self._advance(message)
        if self._done() and self.result is None:
            rest = bytes(self._in)
            self._in.clear()
            self._finish(rest)

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > limits.HANDSHAKE_BYTES:
            raise LimitError(f"the handshake is longer than {limits.HANDSHAKE_BYTES} bytes")

    def _start(self, alpns: tuple[bytes, ...]) -> Tls:
        return Tls(
            self._credentials,
            server=not self.dialer,
            alpn=alpns[0],
            alpns=alpns,
            now=self._now,
            admit=self._admit,
            accept_self_signed=self._accept_newcomers,
            expired_leaf_ok=self._expired_leaf_ok,
        )

    def _done(self) -> bool:
        return self._tls is not None and self._tls.done

    def _advance(self, data: bytes) -> None:
        assert self._tls is not None  # noqa: S101 - receive() made it
        try:
            self._tls.receive(data)
        finally:
            self._flush()

    def _flush(self) -> None:
        """Each flight is one message (L-05)."""
        assert self._tls is not None  # noqa: S101
        flight = self._tls.pending()
        if not flight:
            return
        if not self._framed:
            self._out += flight
        else:
            self._out += len(flight).to_bytes(_LENGTH, "big") + flight

    def _finish(self, rest: bytes) -> None:
        tls = self._tls
        assert tls is not None  # noqa: S101
        mode = _MODE_OF[tls.alpn]
        records: Records
        if mode == "tls":
            records = TlsRecords(tls)
            rest = b""
        else:
            context = tls.binding + bytes((self._lane,)) + self._link_id
            keys = tls.export(EXPORTER, context, 2 * KEY_SIZE)
            mine, other = keys[:KEY_SIZE], keys[KEY_SIZE:]
            if not self.dialer:
                mine, other = other, mine
            records = FullRecords(mine, other) if mode == "full" else HeaderRecords(mine, other)
        newcomer = mode == ENROL_MODE
        self.result = Opened(
            records, tls.peer, tls.peer_public, tls.peer_der,
            "header" if newcomer else mode, tls.group, newcomer, self._lane, self._link_id, rest,
        )  # fmt: skip
