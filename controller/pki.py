"""The plant's certificate authority: root, issuing CA, the controller's own leaf, the API's TLS certificate.

Everything lies in the controller's folder. The root's key is needed only to make issuing CAs: it can be taken away to
a safe place (`pki/root.key`), and the controller runs on without it.
"""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from overlay.aio.world import World
from overlay.errors import FerruleError, TrustError
from overlay.identity import fields
from overlay.identity.certificate import (
    Identity,
    Role,
    issue_leaf,
    make_issuing,
    make_root,
    read_ca,
)
from overlay.identity.keys import SigningKey, ca_key_from_pem, ca_key_to_pem, new_ca_key
from overlay.identity.trust import Anchor, Credentials, verify_chain

DAY = 86_400 * 1_000_000
ROOT_LIFE = 25 * 365 * DAY
ISSUING_LIFE = 10 * 365 * DAY
CONTROLLER_LIFE = 30 * DAY
NODE_LIFE = 7 * DAY
API_LIFE = 365 * DAY
BACKDATED = DAY
"""Certificates begin a day in the past: a node whose clock is behind can use them, and nothing older exists."""

FOLDER = "pki"
API_CA = "api-ca.pem"
API_CERTIFICATE = "api.pem"
API_KEY = "api.key"


@dataclass(frozen=True)
class Pki:
    """The authority in memory. `credentials` are this controller's own; its chain is leaf and issuing CA."""

    folder: Path
    anchor: Anchor
    issuing: bytes
    issuing_key: ec.EllipticCurvePrivateKey
    credentials: Credentials

    def issue(
        self, public: bytes, identity: Identity, generation: int, now: int, serial: int
    ) -> tuple[bytes, ...]:
        """A node's chain (leaf, issuing CA) for its raw Ed25519 key, valid for `NODE_LIFE`."""
        leaf = issue_leaf(
            self.issuing,
            self.issuing_key,
            public,
            identity,
            generation,
            max(0, now - BACKDATED),
            now + NODE_LIFE,
            serial,
        )
        return leaf, self.issuing

    @property
    def root_pem(self) -> str:
        """The root in PEM: what `login` keeps, and what `verify` trusts."""
        return pem(self.anchor.root).decode()


def pem(*certificates: bytes) -> bytes:
    """DER certificates as one PEM text."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates
    )


def serial_number(world: World) -> int:
    """A fresh unpredictable serial number, below 2^159 and never 0 (RFC 5280 §4.1.2.2)."""
    return (int.from_bytes(world.entropy.bytes(20), "big") >> 2) | 1


def _controller_leaf(
    issuing: bytes,
    issuing_key: ec.EllipticCurvePrivateKey,
    public: bytes,
    identity: Identity,
    now: int,
    serial: int,
) -> bytes:
    start, end = max(0, now - BACKDATED), now + CONTROLLER_LIFE
    return issue_leaf(issuing, issuing_key, public, identity, 1, start, end, serial)


async def create(world: World, directory: Path, plant: str, name: str, now: int) -> Pki:
    """Make a plant's authority in `directory/pki` and `directory/api-ca.pem`; `name` is this controller's.

    Raises:
        OSError: the files cannot be written.
        ValueError: plant or name is not canonical.
    """
    folder = directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    start = max(0, now - BACKDATED)
    root_key, issuing_key = new_ca_key(), new_ca_key()
    root = make_root(plant, root_key, start, now + ROOT_LIFE)
    issuing = make_issuing(root, root_key, issuing_key, start, now + ISSUING_LIFE)
    key = SigningKey.generate(world.entropy.bytes(32))
    identity = Identity(plant, Role.CONTROLLER, name)
    leaf = _controller_leaf(issuing, issuing_key, key.public, identity, now, serial_number(world))
    for file, data in {
        "root.key": ca_key_to_pem(root_key),
        "root.pem": pem(root),
        "issuing.key": ca_key_to_pem(issuing_key),
        "issuing.pem": pem(issuing),
        "controller.key": key.to_pem(),
        "controller.pem": pem(leaf),
    }.items():
        await world.disk.replace(folder / file, data)
    await world.disk.replace(directory / API_CA, pem(root))
    anchor = Anchor.of(root)
    return Pki(
        folder, anchor, issuing, issuing_key, Credentials.enrolled(anchor, key, (leaf, issuing))
    )


async def load(world: World, directory: Path, now: int) -> Pki:
    """Read the authority; the controller's own leaf is renewed when two thirds of its life are over.

    Raises:
        FerruleError: as `read` and `renew`.
        OSError: a file cannot be read or written.
    """
    return await renew(world, await read(world, directory), now)


async def read(world: World, directory: Path) -> Pki:
    """Read the authority as it lies there, whatever the time.

    Raises:
        FerruleError: a file is missing, damaged or does not belong to the others; the text names the file.
        OSError: a file cannot be read.
    """
    folder = directory / FOLDER
    root = await _certificate(world, folder / "root.pem")
    issuing = await _certificate(world, folder / "issuing.pem")
    leaf = await _certificate(world, folder / "controller.pem")
    try:
        anchor = Anchor.of(root)
    except TrustError as error:
        raise FerruleError(_damaged(folder / "root.pem", str(error))) from None
    issuing_key = await _key(world, folder / "issuing.key", ca_key_from_pem)
    key = await _key(world, folder / "controller.key", SigningKey.from_pem)
    try:
        if read_ca(issuing).certificate.public_key() != issuing_key.public_key():
            raise FerruleError(_damaged(folder / "issuing.key", "it is not the issuing CA's key"))
        credentials = Credentials.enrolled(anchor, key, (leaf, issuing))
    except TrustError as error:
        files = folder / "controller.pem, controller.key or issuing.pem"
        raise FerruleError(_damaged(files, str(error))) from None
    return Pki(folder, anchor, issuing, issuing_key, credentials)


def due(pki: Pki, now: int) -> bool:
    """Whether two thirds of the life of the controller's own leaf are over (E-08)."""
    leaf = pki.credentials.leaf
    assert leaf is not None  # noqa: S101 - a controller's credentials are always enrolled
    return now >= leaf.not_after - (leaf.not_after - leaf.not_before) // 3


async def renew(world: World, pki: Pki, now: int) -> Pki:
    """The same authority with a new leaf for the same key where it is due.

    Raises:
        FerruleError: the issuing CA's certificate has ended.
        OSError: the leaf cannot be written.
    """
    if not due(pki, now):
        return pki
    old = pki.credentials.leaf
    assert old is not None  # noqa: S101
    leaf = _controller_leaf(
        pki.issuing, pki.issuing_key, old.public, old.identity, now, serial_number(world)
    )
    chain = (leaf, pki.issuing)
    try:
        verify_chain(chain, pki.anchor, now)
    except TrustError as error:
        raise FerruleError(f"The controller cannot renew its certificate: {error}.") from None
    await world.disk.replace(pki.folder / "controller.pem", pem(leaf))
    credentials = Credentials.enrolled(pki.anchor, pki.credentials.key, chain)
    return Pki(pki.folder, pki.anchor, pki.issuing, pki.issuing_key, credentials)


# --- the API's certificate --------------------------------------------------------------------------


async def api_certificate(
    world: World, pki: Pki, directory: Path, hosts: Iterable[str], now: int
) -> tuple[Path, Path]:
    """A new key and certificate for the API's TLS under the plant's root, for `hosts` (names and addresses).

    It names no node: its alternative names are hosts, so no overlay peer takes it for an identity (I-01). P-256, since
    browsers do not take Ed25519. Gives (certificate chain, key), both PEM files in `directory`.

    Raises:
        OSError: the files cannot be written.
    """
    key = new_ca_key()
    issuer = read_ca(pki.issuing).certificate
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(serial_number(world))
        .not_valid_before(fields.moment(max(0, now - BACKDATED)))
        .not_valid_after(fields.moment(now + API_LIFE))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_server_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)]),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(pki.issuing_key.public_key()),
            critical=False,
        )
        .sign(pki.issuing_key, hashes.SHA256())
    )
    chain = directory / API_CERTIFICATE
    await world.disk.replace(directory / API_KEY, ca_key_to_pem(key))
    await world.disk.replace(chain, certificate.public_bytes(Encoding.PEM) + pem(pki.issuing))
    return chain, directory / API_KEY


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _server_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


# --- files ------------------------------------------------------------------------------------------


async def _read(world: World, path: Path) -> bytes:
    data = await world.disk.read(path)
    if data is None:
        raise FerruleError(f"{path} is missing: restore the controller's folder from a backup.")
    return data


Key = TypeVar("Key")


async def _key(world: World, path: Path, read: Callable[[bytes], Key]) -> Key:
    data = await _read(world, path)
    try:
        return read(data)
    except FerruleError as error:
        raise FerruleError(_damaged(path, str(error))) from None


async def check_spare_files(world: World, directory: Path, pki: Pki) -> list[str]:
    """Look after files that the running controller does not need; what is wrong with them, in words.

    `api-ca.pem` is written again; the root's key may be away in a safe place, but not damaged.

    Raises:
        OSError: a file cannot be read or written.
    """
    said = []
    root = pem(pki.anchor.root)
    if await world.disk.read(directory / API_CA) != root:
        await world.disk.replace(directory / API_CA, root)
        said.append(f"{directory / API_CA} was missing or damaged and is written again")
    path = pki.folder / "root.key"
    data = await world.disk.read(path)
    if data is None:
        return said
    try:
        key = ca_key_from_pem(data)
        if read_ca(pki.anchor.root).certificate.public_key() != key.public_key():
            raise FerruleError("it is not the root's key")
    except FerruleError as error:
        said.append(_damaged(path, str(error)))
    return said


async def _certificate(world: World, path: Path) -> bytes:
    try:
        found = x509.load_pem_x509_certificate(await _read(world, path))
    except ValueError:
        raise FerruleError(_damaged(path, "it is not a certificate in PEM")) from None
    return found.public_bytes(Encoding.DER)


def _damaged(path: Path, why: str) -> str:
    return f"{path} is damaged ({why}): restore the controller's folder from a backup."
