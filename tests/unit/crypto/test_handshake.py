"""The handshake: what both ends agree on, and everything that a peer may not be (L-01, L-03, L-05, L-06, I-01, I-03, I-05).

Peers that Ferrule itself cannot play (TLS 1.2, other groups, no ALPN, no certificate) are played by OpenSSL directly.
"""

import contextlib
import hashlib
import ssl
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from OpenSSL.crypto import X509

from overlay import limits
from overlay.crypto import handshake
from overlay.crypto.handshake import CIRCUIT, ENROL, FULL, GROUP, HEADER, TLS, PeerCertificate, Tls
from overlay.errors import (
    Code,
    DecodeError,
    LimitError,
    ProtocolError,
    TamperError,
    TrustError,
)
from overlay.identity.certificate import Identity, Role, self_signed
from overlay.identity.fields import moment
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from tests.support.pki import DAY, NOW, Pki

PKI = Pki()
OTHER = Pki()
EDGE = PKI.edge()
ROUTER = PKI.router()
NEW_KEY = SigningKey.generate(b"n" * 32)
NEWCOMER = Credentials.newcomer(PKI.anchor, NEW_KEY)


def anybody(peer: PeerCertificate) -> None:
    """Admits everybody."""


def end(credentials: Credentials, server: bool, **options: Any) -> Tls:
    given: dict[str, Any] = {"alpn": HEADER, "now": NOW, "admit": anybody}
    return Tls(credentials, server=server, **(given | options))


def run(client: Tls, server: Tls) -> None:
    """All flights; an error of either side comes out."""
    server.receive(client.pending())
    client.receive(server.pending())
    server.receive(client.pending())


def joined(**options: Any) -> tuple[Tls, Tls]:
    client, server = end(EDGE, server=False, **options), end(ROUTER, server=True, **options)
    run(client, server)
    return client, server


# --- what is agreed on ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpn", [HEADER, FULL, TLS, CIRCUIT, ENROL])
def test_both_ends_know_each_other_and_the_same_keys(alpn: bytes):
    client, server = joined(alpn=alpn)
    for one, peer in ((client, ROUTER), (server, EDGE)):
        assert one.done
        assert one.peer == peer.leaf
        assert one.peer_public == peer.key.public
        assert one.peer_der == peer.chain[0]
        assert one.alpn == alpn
        assert one.group == GROUP == "X25519MLKEM768"
    digests = [hashlib.sha256(each.chain[0]).digest() for each in (EDGE, ROUTER)]
    assert client.binding == server.binding == b"".join(digests)
    key = client.export("ferrule/1/link", client.binding, 64)
    assert key == server.export("ferrule/1/link", server.binding, 64)
    assert len(key) == 64
    assert key != client.export("ferrule/1/association", client.binding, 64)
    assert key != client.export("ferrule/1/link", client.binding + b"\0", 64)


def test_l_05_one_flight_each_and_no_tickets():
    client, server = end(EDGE, server=False), end(ROUTER, server=True)
    first = client.pending()
    assert client.pending() == b""
    server.receive(first)
    second = server.pending()
    client.receive(second)
    third = client.pending()
    assert client.done
    assert not server.done
    server.receive(third)
    assert server.done
    assert server.pending() == b""
    assert [len(each) < limits.MAX_FLIGHT for each in (first, second, third)] == [True] * 3


def test_l_05_what_tls_says_after_the_handshake_is_discarded():
    client, server = joined()
    tickets = server._drain()
    assert tickets
    before = client.export("x", b"", 32)
    client.receive(tickets)
    client.receive(b"junk")
    assert client.pending() == b""
    assert client.export("x", b"", 32) == before


def test_flights_may_come_in_pieces():
    client, server = end(EDGE, server=False), end(ROUTER, server=True)
    for _ in range(2):
        for sender, receiver in ((client, server), (server, client)):
            flight = sender.pending()
            for at in range(0, len(flight), 100):
                receiver.receive(memoryview(flight)[at : at + 100])
    assert client.done
    assert server.done


def test_a_server_takes_any_of_several_protocols_and_a_client_its_own():
    client = end(EDGE, server=False, alpn=FULL)
    server = end(ROUTER, server=True, alpns=(FULL, ENROL))
    run(client, server)
    assert client.alpn == server.alpn == FULL


def test_credentials_share_one_context_per_direction():
    handshake._context.cache_clear()
    for _ in range(3):
        joined()
    assert handshake._context.cache_info().misses == 2


# --- no keys before their time --------------------------------------------------------------------


def assert_no_keys(tls: Tls) -> None:
    assert not tls.done
    assert tls.peer is None
    assert tls.peer_public == tls.peer_der == tls.alpn == b""
    for use in (
        lambda: tls.export("ferrule/1/link", b"", 64),
        lambda: tls.binding,
        lambda: tls.wrap([b"x"]),
        lambda: tls.unwrap(b"x"),
    ):
        with pytest.raises(TrustError, match="before the handshake is done"):
            use()


def test_l_06_a_server_does_not_export_before_finished():
    # OpenSSL itself would: the exporter's secret is there once the server has spoken.
    client, server = end(EDGE, server=False), end(ROUTER, server=True)
    assert_no_keys(client)
    server.receive(client.pending())
    assert server._connection.export_keying_material(b"ferrule/1/link", 64, b"")
    assert_no_keys(server)
    client.receive(server.pending())
    last = client.pending()
    server.receive(last[:-1])
    assert_no_keys(server)
    server.receive(last[-1:])
    assert server.export("ferrule/1/link", server.binding, 64)


def refused(client: Tls, server: Tls, *, by: str, match: str | None = None) -> None:
    """One end refuses: it raises, has no keys, and sends nothing that belongs to this handshake any more."""
    at = ""
    with pytest.raises(TrustError, match=match) as caught:
        for turn in range(4):
            sender, receiver = (client, server) if turn % 2 == 0 else (server, client)
            at = "server" if turn % 2 == 0 else "client"
            receiver.receive(sender.pending())
    assert at == by
    assert "\n" not in str(caught.value)
    one = client if by == "client" else server
    assert one.pending() == b""
    assert_no_keys(one)
    with pytest.raises(TrustError, match="failed before"):
        one.receive(b"more")
    assert_no_keys(one)


# --- certificates ---------------------------------------------------------------------------------


def with_chain(credentials: Credentials, chain: Sequence[bytes]) -> Credentials:
    """Credentials that show something else than they should."""
    return Credentials(PKI.anchor, credentials.key, tuple(chain), credentials.leaf)


def foreign(role: Role) -> Credentials:
    own = OTHER.node(role, "intruder")
    return Credentials(PKI.anchor, own.key, own.chain, own.leaf)


BAD_CHAINS: dict[str, Callable[[Credentials, Role], Credentials]] = {
    "foreign chain": lambda good, role: foreign(role),
    "foreign leaf with our CA": lambda good, role: with_chain(
        foreign(role), (foreign(role).chain[0], PKI.issuing)
    ),
    "foreign CA as filler": lambda good, role: with_chain(good, (*good.chain, OTHER.issuing)),
    "foreign leaf as filler": lambda good, role: with_chain(
        good, (*good.chain, OTHER.controller().chain[0])
    ),
    "another node's leaf as filler": lambda good, role: with_chain(
        good, (*good.chain, PKI.controller().chain[0])
    ),
    "foreign leaf, then a good chain": lambda good, role: with_chain(
        foreign(role), (*foreign(role).chain[:1], *good.chain)
    ),
    "root as filler": lambda good, role: with_chain(good, (*good.chain, PKI.root)),
    "leaf alone": lambda good, role: with_chain(good, good.chain[:1]),
    "self-signed": lambda good, role: Credentials.newcomer(PKI.anchor, good.key),
    "expired": lambda good, role: PKI.node(role, "late", start=NOW - 3 * DAY, end=NOW - DAY),
    "not valid yet": lambda good, role: PKI.node(role, "soon", start=NOW + DAY, end=NOW + 2 * DAY),
}


@pytest.mark.parametrize("kind", BAD_CHAINS)
def test_a_client_with_a_bad_chain_is_refused(kind: str):
    client = end(BAD_CHAINS[kind](EDGE, Role.EDGE), server=False)
    refused(client, end(ROUTER, server=True), by="server")


@pytest.mark.parametrize("kind", BAD_CHAINS)
def test_a_server_with_a_bad_chain_is_refused(kind: str):
    server = end(BAD_CHAINS[kind](ROUTER, Role.ROUTER), server=True)
    refused(end(EDGE, server=False), server, by="client")


def test_what_is_refused_is_said_in_words():
    client = end(PKI.node(Role.EDGE, "late", start=NOW - 3 * DAY, end=NOW - DAY), server=False)
    refused(client, end(ROUTER, server=True), by="server", match="expired at")
    refused(
        end(foreign(Role.EDGE), server=False),
        end(ROUTER, server=True),
        by="server",
        match="not issued by this plant",
    )


def test_i_01_identity_comes_from_the_leaf_alone():
    # The published mistake of others: any certificate in the chain counts. Here a filler voids the handshake, and the
    # certificate that proves its key is the one that names.
    filled = with_chain(EDGE, (*EDGE.chain, PKI.controller().chain[0], PKI.issuing))
    refused(end(filled, server=False), end(ROUTER, server=True), by="server", match="chain has 2")


def test_a_chain_that_the_library_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    def unreadable(*args: object, **kwargs: object) -> None:
        raise ValueError("odd certificate")

    monkeypatch.setattr(SSL.Connection, "get_peer_cert_chain", unreadable)
    refused(end(EDGE, server=False), end(ROUTER, server=True), by="client", match="cannot be read")


def test_a_key_that_is_not_the_certificates_is_refused():
    client = end(EDGE, server=False)
    # OpenSSL does not load such a pair, so the signature is made wrong instead.
    server = end(ROUTER, server=True)
    server.receive(client.pending())
    client.receive(server.pending())
    last = bytearray(client.pending())
    last[len(last) // 2] ^= 1
    with pytest.raises(TrustError, match="TLS handshake fails"):
        server.receive(last)
    assert_no_keys(server)


def test_certificate_time_is_plant_time():
    # The machine's clock says something else entirely; both directions of wrong are seen.
    for now in (NOW + 31 * DAY, NOW - 2 * DAY):
        refused(end(EDGE, server=False), end(ROUTER, server=True, now=now), by="server")
    # One context, alternating times.
    joined()
    refused(end(EDGE, server=False), end(ROUTER, server=True, now=NOW + 31 * DAY), by="server")
    joined()
    later = PKI.node(Role.EDGE, "later", start=NOW + 20 * DAY, end=NOW + 40 * DAY)
    run(end(later, server=False, now=NOW + 25 * DAY), end(ROUTER, server=True, now=NOW + 25 * DAY))
    joined()


def test_i_05_an_expired_leaf_is_let_in_only_where_it_may_renew():
    late = PKI.node(Role.EDGE, "late", start=NOW - 3 * DAY, end=NOW - DAY)
    seen: list[PeerCertificate] = []
    client = end(late, server=False)
    server = end(ROUTER, server=True, expired_leaf_ok=True, admit=seen.append)
    run(client, server)
    assert server.peer == late.leaf
    assert [each.leaf for each in seen] == [late.leaf]
    soon = PKI.node(Role.EDGE, "soon", start=NOW + DAY, end=NOW + 2 * DAY)
    refused(end(soon, server=False), end(ROUTER, server=True, expired_leaf_ok=True), by="server")
    refused(
        end(foreign(Role.EDGE), server=False),
        end(ROUTER, server=True, expired_leaf_ok=True),
        by="server",
    )


# --- newcomers ------------------------------------------------------------------------------------


def test_e_03_a_newcomer_shows_a_key_and_nothing_else():
    seen: list[PeerCertificate] = []
    client = end(NEWCOMER, server=False, alpn=ENROL)
    server = end(ROUTER, server=True, alpns=(ENROL,), accept_self_signed=True, admit=seen.append)
    run(client, server)
    assert server.peer is None
    assert server.peer_public == NEW_KEY.public
    assert seen == [PeerCertificate(None, NEW_KEY.public, NEWCOMER.chain[0], ENROL)]
    assert client.peer == ROUTER.leaf
    assert client.export("ferrule/1/enrol", b"", 32) == server.export("ferrule/1/enrol", b"", 32)


def test_e_07_a_router_that_is_not_enrolled_is_dialed_by_a_controller():
    client = end(PKI.controller(), server=False, alpn=ENROL, accept_self_signed=True)
    server = end(NEWCOMER, server=True, alpn=ENROL)
    run(client, server)
    assert client.peer is None
    assert client.peer_public == NEW_KEY.public
    assert server.peer is not None
    assert server.peer.identity.role is Role.CONTROLLER


@pytest.mark.parametrize("alpn", [HEADER, FULL, TLS, CIRCUIT])
def test_e_03_a_self_signed_certificate_is_of_no_use_for_anything_but_enrolment(alpn: bytes):
    client = end(NEWCOMER, server=False, alpn=alpn)
    server = end(ROUTER, server=True, alpn=alpn, alpns=(ENROL,), accept_self_signed=True)
    refused(client, server, by="server", match="signed by itself")


def test_e_03_enrolment_must_be_asked_for_by_the_acceptor():
    refused(
        end(NEWCOMER, server=False, alpn=ENROL), end(ROUTER, server=True, alpn=ENROL), by="server"
    )


def test_a_self_signed_certificate_names_nobody_whatever_it_says():
    # Self-signed with a controller's URI: still only a key.
    impostor = forged_identity()
    server = end(ROUTER, server=True, alpn=ENROL, accept_self_signed=True)
    run(end(impostor, server=False, alpn=ENROL), server)
    assert server.peer is None


def forged_identity() -> Credentials:
    key = NEW_KEY.private_key
    original = x509.load_der_x509_certificate(PKI.controller().chain[0])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(moment(NOW - DAY))
        .not_valid_after(moment(NOW + DAY))
    )
    for extension in original.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier | x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, critical=extension.critical)
    der = builder.sign(key, None).public_bytes(Encoding.DER)
    return Credentials(PKI.anchor, NEW_KEY, (der,), None)


@pytest.mark.parametrize("chain", ["root", "another newcomer", "our CA"])
def test_a_newcomer_shows_one_certificate_only(chain: str):
    second = {
        "root": PKI.root,
        "another newcomer": self_signed(EDGE.key, 0, NOW + DAY),
        "our CA": PKI.issuing,
    }[chain]
    client = end(with_chain(NEWCOMER, (*NEWCOMER.chain, second)), server=False, alpn=ENROL)
    server = end(ROUTER, server=True, alpn=ENROL, accept_self_signed=True)
    refused(client, server, by="server")


def test_a_newcomers_wrong_clock_does_not_matter():
    key = NEW_KEY
    for first, last in ((0, DAY), (NOW + DAY, NOW + 2 * DAY)):
        odd = Credentials(PKI.anchor, key, (self_signed(key, first, last),), None)
        server = end(ROUTER, server=True, alpn=ENROL, accept_self_signed=True)
        run(end(odd, server=False, alpn=ENROL), server)
        assert server.peer_public == key.public


def test_a_newcomer_believes_its_tokens_root_only():
    elsewhere = Credentials.newcomer(OTHER.anchor, NEW_KEY)
    server = end(ROUTER, server=True, alpn=ENROL, accept_self_signed=True)
    refused(end(elsewhere, server=False, alpn=ENROL), server, by="client")


# --- admit ----------------------------------------------------------------------------------------


def only(role: Role, name: str | None = None) -> Callable[[PeerCertificate], None]:
    def admit(peer: PeerCertificate) -> None:
        identity = None if peer.leaf is None else peer.leaf.identity
        if identity is None or identity.role is not role or name not in (None, identity.name):
            raise TrustError("not whom we want")

    return admit


def test_l_03_a_wrong_role_is_refused_by_either_side():
    client = end(EDGE, server=False, admit=only(Role.CONTROLLER))
    refused(client, end(ROUTER, server=True), by="client", match="not whom")
    server = end(ROUTER, server=True, admit=only(Role.ROUTER))
    refused(end(EDGE, server=False), server, by="server", match="not whom")


def test_l_03_a_wrong_name_is_refused():
    client = end(EDGE, server=False, admit=only(Role.ROUTER, "router-2"))
    refused(client, end(ROUTER, server=True), by="client", match="not whom")
    run(end(EDGE, server=False, admit=only(Role.ROUTER, "router-1")), end(ROUTER, server=True))


def test_a_revoked_peer_is_refused_through_admit():
    revoked = {("edge-a", 1)}

    def admit(peer: PeerCertificate) -> None:
        assert peer.leaf is not None
        if (peer.leaf.identity.name, peer.leaf.generation) in revoked:
            raise TrustError("edge-a is revoked")

    refused(
        end(EDGE, server=False), end(ROUTER, server=True, admit=admit), by="server", match="revoked"
    )
    again = PKI.node(Role.EDGE, "edge-a", generation=2, number=1)
    run(end(again, server=False), end(ROUTER, server=True, admit=admit))


@pytest.mark.parametrize(
    "error", [LimitError("full"), ProtocolError("no", Code.BUSY), KeyError("bug")]
)
def test_whatever_admit_raises_ends_the_handshake(error: Exception):
    def admit(peer: PeerCertificate) -> None:
        raise error

    client, server = end(EDGE, server=False, admit=admit), end(ROUTER, server=True)
    server.receive(client.pending())
    with pytest.raises(type(error)):
        client.receive(server.pending())
    assert client.pending() == b""
    assert_no_keys(client)


def test_a_client_gives_nothing_away_to_a_server_that_it_refuses():
    # L-03: not even its own certificate.
    client = end(EDGE, server=False, admit=only(Role.CONTROLLER))
    server = end(ROUTER, server=True)
    server.receive(client.pending())
    with pytest.raises(TrustError):
        client.receive(server.pending())
    assert client.pending() == b""


# --- peers that speak TLS otherwise ---------------------------------------------------------------


def raw(
    credentials: Credentials | None, *, server: bool, alpn: Sequence[bytes] = (HEADER,)
) -> SSL.Connection:
    """OpenSSL without our rules."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER if server else SSL.VERIFY_NONE, lambda *_: True)
    if credentials is not None:
        context.use_certificate(x509.load_der_x509_certificate(credentials.chain[0]))
        for der in credentials.chain[1:]:
            context.add_extra_chain_cert(x509.load_der_x509_certificate(der))
        context.use_privatekey(credentials.key.private_key)
    if server and alpn:
        context.set_alpn_select_callback(lambda _, offered: alpn[0])
    elif alpn:
        context.set_alpn_protos(list(alpn))
    connection = SSL.Connection(context, None)
    connection.set_accept_state() if server else connection.set_connect_state()
    return connection


def step(connection: SSL.Connection, data: bytes = b"") -> bytes:
    if data:
        connection.bio_write(data)
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    try:
        return connection.bio_read(1 << 16)
    except SSL.WantReadError:
        return b""


def test_the_raw_peer_is_accepted_when_it_behaves():
    client, server = raw(EDGE, server=False), end(ROUTER, server=True)
    server.receive(step(client))
    server.receive(step(client, server.pending()))
    assert server.done
    assert server.peer == EDGE.leaf


def test_l_03_a_client_without_certificate_is_refused():
    client, server = raw(None, server=False), end(ROUTER, server=True)
    server.receive(step(client))
    last = step(client, server.pending())  # the client believes that it succeeded
    with pytest.raises(TrustError, match="did not return a certificate"):
        server.receive(last)
    assert_no_keys(server)


@pytest.mark.parametrize(
    "alpn",
    [(), (b"h2",), (CIRCUIT,), (HEADER, FULL), (b"h2", HEADER), (HEADER + b"x",), (b"ferrule/1",)],
)
def test_l_01_a_client_without_exactly_one_protocol_of_ours_is_refused(alpn: Sequence[bytes]):
    client, server = raw(EDGE, server=False, alpn=alpn), end(ROUTER, server=True, alpns=(FULL,))
    with pytest.raises(TrustError, match="ALPN"):
        server.receive(step(client))
    assert server.pending() == b""  # not even our certificate
    assert_no_keys(server)


@pytest.mark.parametrize("alpn", [(), (b"h2",), (FULL,)])
def test_l_01_a_server_that_did_not_select_our_protocol_is_refused(alpn: Sequence[bytes]):
    client, server = end(EDGE, server=False), raw(ROUTER, server=True, alpn=alpn)
    with pytest.raises(TrustError):
        client.receive(step(server, client.pending()))
    assert client.pending() == b""
    assert_no_keys(client)


class Stdlib:
    """Python's own TLS, whose versions and groups can be restricted."""

    def __init__(
        self, *, server: bool, group: str | None = None, version: ssl.TLSVersion | None = None
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([HEADER.decode()])
        if group is not None:
            context.set_ecdh_curve(group)
        if version is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.maximum_version = version
        self.read, self.write = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.context = context
        self.server = server

    def load(self, certificate: str, key: str) -> None:
        self.context.load_cert_chain(certificate, key)

    def start(self) -> None:
        self.tls = self.context.wrap_bio(self.read, self.write, server_side=self.server)

    def step(self, data: bytes = b"") -> bytes:
        self.read.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.write.read()


@pytest.mark.parametrize("group", ["X25519", "prime256v1"])
def test_l_03_a_client_with_a_classical_group_is_refused(group: str):
    client, server = Stdlib(server=False, group=group), end(ROUTER, server=True)
    client.start()
    with pytest.raises(TrustError, match="must be X25519MLKEM768"):
        server.receive(client.step())
    assert server.pending() == b""
    assert_no_keys(server)


def test_l_03_a_server_that_chooses_a_classical_group_is_refused(tmp_path: Any):
    # Our client offers X25519 as well (OpenSSL's default), so such a server gets its way with OpenSSL.
    chain = [x509.load_der_x509_certificate(der) for der in ROUTER.chain]
    (tmp_path / "c.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    (tmp_path / "k.pem").write_bytes(ROUTER.key.to_pem())
    server = Stdlib(server=True, group="X25519")
    server.load(str(tmp_path / "c.pem"), str(tmp_path / "k.pem"))
    server.start()
    client = end(EDGE, server=False)
    with pytest.raises(TrustError, match="key exchange would be"):
        client.receive(server.step(client.pending()))
    assert client.pending() == b""
    assert_no_keys(client)


def test_l_03_tls_1_2_is_refused():
    client, server = Stdlib(server=False, version=ssl.TLSVersion.TLSv1_2), end(ROUTER, server=True)
    client.start()
    with pytest.raises(TrustError, match=r"version|protocol"):
        server.receive(client.step())
    assert server.pending() == b""
    assert_no_keys(server)


def test_no_session_is_ever_resumed():
    # A resumed session would bring its certificate from a ticket, unchecked and unproven.
    first, server = raw(EDGE, server=False), end(ROUTER, server=True, alpn=TLS, alpns=(HEADER,))
    server.receive(step(first))
    server.receive(step(first, server.pending()))
    first.bio_write(server.wrap([b"hello"]))
    assert first.recv(100) == b"hello"  # and the tickets before it
    session = first.get_session()
    assert session is not None
    context = first.get_context()
    again = SSL.Connection(context, None)
    again.set_connect_state()
    again.set_session(session)
    server = end(ROUTER, server=True)
    server.receive(step(again))
    flight = server.pending()
    assert len(flight) > 2000  # a whole flight, with certificates
    server.receive(step(again, flight))
    assert server.peer == EDGE.leaf


def test_no_sni_is_sent():
    assert b"router" not in end(EDGE, server=False).pending()


# --- bounds, and bytes from others ----------------------------------------------------------------


def test_l_04_handshake_bytes_are_bounded():
    server = end(ROUTER, server=True)
    # A record header that promises 16 KiB, again and again: OpenSSL would wait for the end of a long message.
    hello = end(EDGE, server=False).pending()
    record = hello[:5] + b"\x01\x00\xff\xff"
    server.receive(record[:9])
    with pytest.raises((DecodeError, TrustError)):
        for _ in range(limits.HANDSHAKE_BYTES // 1024 + 1):
            server.receive(bytes(1024))
    assert_no_keys(server)


def test_l_04_the_limit_itself_is_what_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "HANDSHAKE_BYTES", 100)
    server = end(ROUTER, server=True)
    flight = end(EDGE, server=False).pending()
    server.receive(flight[:100])
    with pytest.raises(DecodeError, match="longer than 100"):
        server.receive(flight[100:101])
    with pytest.raises(TrustError, match="failed before"):
        server.receive(flight[101:])
    assert_no_keys(server)


CLIENT_FLIGHT = end(EDGE, server=False).pending()


@given(st.binary(min_size=1, max_size=400), st.booleans())
def test_random_bytes_raise_only_the_documented_errors(data: bytes, server: bool):
    one = end(ROUTER, server=server)
    try:
        one.receive(data)
    except (TrustError, DecodeError):
        assert one.pending() == b""
    assert not one.done


def others() -> tuple[bytes, bytes]:
    client, server = end(EDGE, server=False), end(ROUTER, server=True)
    server.receive(client.pending())
    second = server.pending()
    client.receive(second)
    return second, client.pending()


SIZES = [len(each) for each in (CLIENT_FLIGHT, *others())]


@given(st.integers(0, 2), st.integers(0, 4000), st.integers(0, 5), st.binary(max_size=5))
def test_a_damaged_flight_leads_to_an_error_or_changes_nothing(
    turn: int, at: int, cut: int, put: bytes
):
    # A few bytes are ignored by TLS itself (versions in record headers); all others must end it.
    at %= SIZES[turn]
    client, server = end(EDGE, server=False), end(ROUTER, server=True)
    try:
        for number in range(3):
            sender, receiver = (server, client) if number == 1 else (client, server)
            flight = sender.pending()
            if number == turn:
                flight = flight[:at] + put + flight[at + cut :]
            receiver.receive(flight)
    except (TrustError, DecodeError):
        assert not server.done
    if server.done:
        assert client.done
        assert server.export("x", server.binding, 32) == client.export("x", client.binding, 32)
    else:
        assert_no_keys(server)


# --- tls mode -------------------------------------------------------------------------------------


def test_tls_mode_carries_data_both_ways():
    client, server = joined(alpn=TLS)
    assert client.unwrap(b"") == b""
    big = bytes(range(256)) * 1200
    assert client.unwrap(server.wrap([big, b"", memoryview(b"end")])) == big + b"end"
    sent = client.wrap([b"a", b"b"])
    assert server.unwrap(sent[:10]) == b""
    assert server.unwrap(sent[10:]) == b"ab"


def test_tls_mode_data_that_came_with_the_last_flight_is_not_lost():
    client, server = end(EDGE, server=False, alpn=TLS), end(ROUTER, server=True, alpn=TLS)
    server.receive(client.pending())
    client.receive(server.pending())
    server.receive(client.pending() + client.wrap([b"early bird"]))
    assert server.done
    assert server.unwrap(b"") == b"early bird"


@pytest.mark.parametrize("how", ["flip", "replay", "junk", "skip"])
def test_tls_mode_what_does_not_authenticate_is_tamper(how: str):
    client, server = joined(alpn=TLS)
    first, second = client.wrap([b"one"]), client.wrap([b"two"])
    bad = {
        "flip": first[:-1] + bytes((first[-1] ^ 1,)),
        "replay": first + first,
        "junk": b"\x17\x03\x03\x00\x20" + bytes(32),
        "skip": second,
    }[how]
    with pytest.raises(TamperError):
        server.unwrap(bad)
        server.unwrap(b"")
    with pytest.raises(TamperError):
        server.unwrap(second)


def test_the_peers_certificate_is_the_one_openssl_proved():
    client, server = joined()
    proven = server._connection.get_peer_certificate()
    assert isinstance(proven, X509)
    assert server.peer is not None
    assert server.peer.identity == Identity("mill", Role.EDGE, "edge-a")
    assert client.peer_der == ROUTER.chain[0]
