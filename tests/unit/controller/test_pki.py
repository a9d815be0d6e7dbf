"""The plant's authority on disk: made, read again, renewed; each damaged file is named."""

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from controller import pki
from overlay.errors import FerruleError, TrustError
from overlay.identity.certificate import Identity, Role, read_leaf
from overlay.identity.trust import verify_chain
from tests.support.controllers import HandWorld
from tests.support.pki import DAY, NOW


@pytest.fixture
async def made(tmp_path: Path) -> pki.Pki:
    return await pki.create(HandWorld(), tmp_path, "mill", "controller", NOW)


async def test_what_is_made_holds_together(made: pki.Pki, tmp_path: Path):
    leaf = verify_chain(made.credentials.chain, made.anchor, NOW)
    assert leaf.identity == Identity("mill", Role.CONTROLLER, "controller")
    assert made.anchor.plant == "mill"
    again = await pki.load(HandWorld(), tmp_path, NOW)
    assert again.credentials.chain == made.credentials.chain
    assert again.anchor == made.anchor
    assert (tmp_path / "api-ca.pem").read_text() == made.root_pem
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"


async def test_it_issues_leaves(made: pki.Pki):
    key = b"\x01" * 32
    identity = Identity("mill", Role.EDGE, "edge-a")
    chain = made.issue(key, identity, 3, NOW, pki.serial_number(HandWorld()))
    leaf = verify_chain(chain, made.anchor, NOW)
    assert (leaf.identity, leaf.generation, leaf.public) == (identity, 3, key)
    assert leaf.not_after - NOW == pki.NODE_LIFE
    with pytest.raises(TrustError, match="expired"):
        verify_chain(chain, made.anchor, NOW + pki.NODE_LIFE + 1_000_000)


def test_serial_numbers_differ():
    world = HandWorld()
    numbers = {pki.serial_number(world) for _ in range(100)}
    assert len(numbers) == 100
    assert all(0 < number < 1 << 159 for number in numbers)


async def test_the_controllers_leaf_is_renewed_at_two_thirds_with_the_same_key(
    made: pki.Pki, tmp_path: Path
):
    early = await pki.load(HandWorld(), tmp_path, NOW + 18 * DAY)
    assert early.credentials.chain == made.credentials.chain
    late = await pki.load(HandWorld(), tmp_path, NOW + 21 * DAY)
    assert late.credentials.chain != made.credentials.chain
    assert late.credentials.key.public == made.credentials.key.public
    verify_chain(late.credentials.chain, late.anchor, NOW + 50 * DAY)
    assert (await pki.load(HandWorld(), tmp_path, NOW + 22 * DAY)).credentials.chain == (
        late.credentials.chain
    )


async def test_an_ended_issuing_ca_is_said(made: pki.Pki, tmp_path: Path):
    with pytest.raises(FerruleError, match="cannot renew"):
        await pki.load(HandWorld(), tmp_path, NOW + 11 * 365 * DAY)


NEEDED = ("root.pem", "issuing.key", "issuing.pem", "controller.key", "controller.pem")


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("how", ["missing", "cut", "scrambled", "empty", "foreign"])
async def test_a_damaged_file_is_named(made: pki.Pki, tmp_path: Path, name: str, how: str):
    path = tmp_path / "pki" / name
    good = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "foreign":
        other = tmp_path / "other"
        other.mkdir()
        await pki.create(HandWorld(), other, "mill", "controller", NOW)
        path.write_bytes((other / "pki" / name).read_bytes())
    else:
        path.write_bytes(
            {"cut": good[: len(good) // 2], "scrambled": good[::-1], "empty": b""}[how]
        )
    with pytest.raises(FerruleError) as caught:
        await pki.load(HandWorld(), tmp_path, NOW)
    said = str(caught.value)
    assert "backup" in said
    assert how == "foreign" or name in said


async def test_spare_files_are_looked_after(made: pki.Pki, tmp_path: Path):
    world = HandWorld()
    assert await pki.check_spare_files(world, tmp_path, made) == []
    (tmp_path / "api-ca.pem").write_text("x")
    (tmp_path / "pki/root.key").write_bytes(b"x")
    said = await pki.check_spare_files(world, tmp_path, made)
    assert len(said) == 2
    assert "api-ca.pem" in said[0]
    assert "root.key" in said[1]
    assert (tmp_path / "api-ca.pem").read_text() == made.root_pem
    (tmp_path / "pki/root.key").unlink()  # in the safe
    assert await pki.check_spare_files(world, tmp_path, made) == []


async def test_the_apis_certificate_names_hosts_and_no_node(made: pki.Pki, tmp_path: Path):
    hosts = ["127.0.0.1", "plant.example", "::1", "127.0.0.1"]
    chain, key = await pki.api_certificate(HandWorld(), made, tmp_path, hosts, NOW)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key)
    certificate, issuing = x509.load_pem_x509_certificates(chain.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == ["127.0.0.1", "plant.example", "::1"]
    certificate.verify_directly_issued_by(issuing)
    from cryptography.hazmat.primitives.serialization import Encoding

    with pytest.raises(TrustError):
        read_leaf(certificate.public_bytes(Encoding.DER))
