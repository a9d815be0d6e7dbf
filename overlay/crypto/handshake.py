"""TLS 1.3 between two nodes, without I/O: bytes in, bytes out, keys at the end (L-01 to L-07, C-01).

OpenSSL runs the handshake on memory buffers and draws its own randomness (ADR 0002). What it cannot be told to enforce
is enforced here, before any byte is handed out that would commit us: group, ALPN, the exact chain, and the owner's
`admit`.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import X509

from overlay import limits
from overlay.errors import DecodeError, TamperError, TrustError
from overlay.identity.certificate import Leaf, read_key
from overlay.identity.fields import UNREADABLE
from overlay.identity.trust import Credentials, verify_chain

GROUP = "X25519MLKEM768"
"""The only key exchange that is accepted (L-03): X25519 and ML-KEM-768 together."""
HEADER = b"ferrule/1/header"
FULL = b"ferrule/1/full"
TLS = b"ferrule/1/tls"
ENROL = b"ferrule/1/enrol"
CIRCUIT = b"ferrule/1/circuit"

_CIPHER = b"TLS_AES_256_GCM_SHA384"
_CONTEXTS = 64
_READ = 64 * 1024

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME."""
_SELF_SIGNED = 18
_PROBLEMS = {
    _SELF_SIGNED: "is signed by itself, not by this plant",
    19: "is another plant's",
    20: "was not issued by this plant",
    21: "was not issued by this plant",
}
"""X509_V_ERR_… of OpenSSL, in words."""

Buffer = bytes | bytearray | memoryview


class PeerCertificate(NamedTuple):
    """Who is at the other end, for `admit`: `leaf` is None for a newcomer, of whom only its key is known."""

    leaf: Leaf | None
    public: bytes
    der: bytes
    alpn: bytes


class _Rules(NamedTuple):
    """What OpenSSL's callbacks must know of one connection."""

    server: bool
    alpns: frozenset[bytes]
    accept_self_signed: bool
    expired_leaf_ok: bool


class Tls:
    """One handshake, and for `tls` mode the connection after it.

    Call `pending` after construction (a client speaks first) and after each `receive`; send what it returns. After an
    error the object gives out nothing any more.

    Args:
        credentials: what we show; its anchor is whom we believe.
        server: whether the other side speaks first.
        alpn: protocol that the client offers, or that the server accepts.
        now: plant time in microseconds, for certificates.
        admit: sees the peer once its certificate is verified, before anything is sent or exported on its strength;
            raises a `FerruleError` (role, name, revocation) to refuse it.
        accept_self_signed: also accept a newcomer's certificate, if the ALPN is `ferrule/1/enrol` (E-03).
        expired_leaf_ok: also accept a leaf after its end (I-05); `admit` sees it and restricts what it may do.
        alpns: further protocols that a server accepts.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        server: bool,
        alpn: bytes,
        now: int,
        admit: Callable[[PeerCertificate], None],
        accept_self_signed: bool = False,
        expired_leaf_ok: bool = False,
        alpns: Iterable[bytes] = (),
    ) -> None:
        rules = _Rules(server, frozenset((alpn, *alpns)), accept_self_signed, expired_leaf_ok)
        self.done = False
        """Finished was received and the peer is verified and admitted."""
        self.peer: Leaf | None = None
        """The peer's leaf; None before `done`, and for a newcomer."""
        self.peer_public = b""
        self.peer_der = b""
        self.alpn = b""
        """The protocol agreed on; empty before `done`."""
        self.group = ""
        """The key exchange, as OpenSSL names it; empty before `done`."""
        self._credentials = credentials
        self._rules = rules
        self._now = now
        self._admit = admit
        self._received = 0
        self._failed = False
        self._out = b""
        self._context = _context(credentials, server=server)
        self._connection = SSL.Connection(self._context, None)
        self._connection.set_app_data(rules)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_alpn_protos([alpn])
            self._connection.set_connect_state()
            self._advance()

    def receive(self, data: Buffer) -> None:
        """Take handshake bytes from the peer. What TLS says after the handshake is discarded (L-05), but for `unwrap`.

        Raises:
            TrustError: version, group, ALPN, certificate or signature are refused, or `admit` refuses the peer.
            DecodeError: more than `HANDSHAKE_BYTES` came.
        """
        if self._failed:
            raise TrustError("the handshake has failed before")
        if self.done or not data:
            return
        self._received += len(data)
        self._failed = True  # unless all of the following holds
        if self._received > limits.HANDSHAKE_BYTES:
            raise DecodeError(f"the handshake is longer than {limits.HANDSHAKE_BYTES} bytes")
        self._connection.bio_write(bytes(data))
        self._advance()
        self._failed = False

    def pending(self) -> bytes:
        """The flight to send now, possibly empty; given out once, and not at all after an error."""
        out, self._out = self._out, b""
        return b"" if self._failed else out

    @property
    def binding(self) -> bytes:
        """SHA-256 of the client's leaf and of the server's, 64 bytes, for the context of keys (L-06, C-01).

        Raises:
            TrustError: the handshake is not done.
        """
        self._require_done()
        hashes = [hashlib.sha256(self._credentials.chain[0]), hashlib.sha256(self.peer_der)]
        if self._rules.server:
            hashes.reverse()
        return b"".join(each.digest() for each in hashes)

    def export(self, label: str, context: bytes, length: int) -> bytes:
        """Keys from the exporter (RFC 8446 §7.5).

        OpenSSL would let a server export before it knows the client (an exporter does not cover client authentication);
        this does not (L-06).

        Raises:
            TrustError: Finished, verification or `admit` are missing, or the handshake failed.
        """
        self._require_done()
        return self._connection.export_keying_material(label.encode(), length, context)

    def wrap(self, parts: Iterable[Buffer]) -> bytes:
        """Application data as TLS records (`tls` mode). The first call also carries the tickets OpenSSL insists on.

        Raises:
            TamperError: a record from the peer has failed before.
        """
        self._require_done()
        try:
            for part in parts:
                if len(part):
                    self._connection.sendall(bytes(part))
        except SSL.Error as error:
            raise TamperError(f"the TLS connection is broken: {_reason(error)}") from None
        return self._drain()

    def unwrap(self, data: Buffer) -> bytes:
        """Application data from TLS records (`tls` mode). The first call may find bytes that came with the handshake.

        Raises:
            TamperError: a record does not authenticate, or is none.
        """
        self._require_done()
        plain: list[bytes] = []
        try:
            if len(data):
                self._connection.bio_write(bytes(data))
            while True:
                plain.append(self._connection.recv(_READ))
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return b"".join(plain)
        except SSL.Error as error:
            raise TamperError(f"a TLS record fails: {_reason(error)}") from None

    def _advance(self) -> None:
        """Let OpenSSL go on, and check all there is to check before its bytes go out."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            finished = False
        except SSL.Error as error:
            raise TrustError(f"the TLS handshake fails: {_reason(error)}") from None
        else:
            finished = True
        if self._connection.get_group_name() is not None:  # both hellos are there
            _check_group(self._connection)
            if self._rules.server:
                _check_alpn(self._connection, self._rules)
        if finished:
            self._finish()
        if not (finished and self._rules.server):  # after Finished a server has tickets only
            self._out += self._drain()

    def _finish(self) -> None:
        """The whole of what makes a peer somebody: exact chain, identity from the leaf alone (I-01, I-03), `admit`."""
        _check_group(self._connection)
        _check_alpn(self._connection, self._rules)
        chain = self._chain()
        der = chain[0]
        alpn = self._connection.get_alpn_proto_negotiated()
        if len(chain) == 1 and self._rules.accept_self_signed and alpn == ENROL:
            leaf, public = None, read_key(der)
        else:
            leaf = verify_chain(
                chain,
                self._credentials.anchor,
                self._now,
                expired_leaf_ok=self._rules.expired_leaf_ok,
            )
            public = leaf.public
        self._admit(PeerCertificate(leaf, public, der, alpn))
        self.peer, self.peer_public, self.peer_der, self.alpn = leaf, public, der, alpn
        self.group = self._connection.get_group_name() or ""
        self.done = True

    def _chain(self) -> list[bytes]:
        """What the peer showed, as it showed it, leaf first."""
        try:
            leaf = self._connection.get_peer_certificate(as_cryptography=True)
            shown = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        except UNREADABLE:
            raise TrustError("the peer shows a certificate that cannot be read") from None
        if leaf is None:
            raise TrustError("the peer shows no certificate")
        if not self._rules.server:
            shown = shown[1:]  # OpenSSL counts the leaf in for a client only
        return [each.public_bytes(Encoding.DER) for each in (leaf, *shown)]

    def _drain(self) -> bytes:
        out: list[bytes] = []
        try:
            while True:
                out.append(self._connection.bio_read(_READ))
        except SSL.WantReadError:
            return b"".join(out)

    def _require_done(self) -> None:
        if not self.done:
            raise TrustError("there are no keys before the handshake is done and the peer verified")


def _check_group(connection: SSL.Connection) -> None:
    """Refuse another key exchange: OpenSSL prefers ours, but agrees to any (L-03)."""
    group = connection.get_group_name()
    if group != GROUP:
        raise TrustError(f"the key exchange would be {group}, and must be {GROUP}")


def _check_alpn(connection: SSL.Connection, rules: _Rules) -> None:
    """Refuse a handshake without our protocol: OpenSSL goes on without any ALPN (L-01)."""
    if connection.get_alpn_proto_negotiated() not in rules.alpns:
        raise TrustError("the peer does not speak this protocol (no ALPN that is ours)")


def _verified(
    connection: SSL.Connection, _certificate: X509, problem: int, depth: int, ok: int
) -> bool:
    """OpenSSL's verify callback, once or more per certificate of the path that it built."""
    rules: _Rules = connection.get_app_data()
    _check_group(connection)
    _check_alpn(connection, rules)
    if ok:
        return True
    if depth == 0:
        newcomer = rules.accept_self_signed and connection.get_alpn_proto_negotiated() == ENROL
        # A chain that is more than that one certificate is refused by `_finish`.
        if newcomer and problem == _SELF_SIGNED:
            return True
    what = "peer's certificate" if depth == 0 else "CA certificate that the peer shows"
    raise TrustError(f"the {what} {_PROBLEMS.get(problem, f'is refused (OpenSSL {problem})')}")


def _select(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """OpenSSL's ALPN callback of a server; it is not called when the client offers nothing."""
    rules: _Rules = connection.get_app_data()
    if len(offered) != 1 or offered[0] not in rules.alpns:
        raise TrustError("the peer does not offer exactly one protocol that is ours (ALPN)")
    return offered[0]


@lru_cache(maxsize=_CONTEXTS)
def _context(credentials: Credentials, *, server: bool) -> SSL.Context:
    """Making one costs as much as a third of a handshake, so each set of credentials has one per direction.

    Its certificate time and the errors of its callbacks are set and taken within one call of OpenSSL: one thread only.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_CIPHER)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    # Together with OP_NO_TICKET: no session can be resumed, so every peer shows and proves its certificate.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(x509.load_der_x509_certificate(credentials.chain[0]))
    for der in credentials.chain[1:]:
        context.add_extra_chain_cert(x509.load_der_x509_certificate(der))
    context.use_privatekey(credentials.key.private_key)
    root = x509.load_der_x509_certificate(credentials.anchor.root)
    store = context.get_cert_store()
    assert store is not None  # noqa: S101  (a context has one)
    store.add_cert(X509.from_cryptography(root))
    # Time is `verify_chain`'s alone: a store keeps the first time it was given, whatever is set later.
    store.set_flags(_NO_CHECK_TIME)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verified)
    if server:
        context.set_alpn_select_callback(_select)
    return context


def _reason(error: SSL.Error) -> str:
    """OpenSSL's last word on what went wrong."""
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][-1][-1]) or "no reason given"
    return "no reason given"
