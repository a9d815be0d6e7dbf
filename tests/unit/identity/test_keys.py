"""Keys: both libraries hold the same one, signatures are strict, PEM comes back (I-02, I-06)."""

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from overlay.errors import FerruleError, TrustError
from overlay.identity.keys import (
    SigningKey,
    ca_key_from_pem,
    ca_key_to_pem,
    is_ca_key,
    key_id,
    new_ca_key,
    verify,
)

KEY = SigningKey.generate(bytes(range(32)))


def test_a_seed_gives_the_key_of_rfc_8032():
    # RFC 8032 §7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    key = SigningKey.generate(seed)
    assert key.public.hex() == public
    assert key.sign(b"").hex() == signature
    assert key.key_id == hashlib.sha256(key.public).digest() == key_id(key.public)


def test_both_libraries_hold_the_same_key():
    KEY.private_key.public_key().verify(KEY.sign(b"data"), b"data")
    verify(KEY.public, KEY.private_key.sign(b"data"), b"data")
    with pytest.raises(InvalidSignature):
        KEY.private_key.public_key().verify(KEY.sign(b"data"), b"other")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size: int):
    with pytest.raises(ValueError):
        SigningKey.generate(bytes(size))


def test_pem_comes_back():
    assert SigningKey.from_pem(KEY.to_pem()).public == KEY.public


def test_the_key_does_not_show_itself():
    seed = bytes(range(32))
    assert seed.hex() not in repr(KEY)
    assert str(seed) not in repr(KEY)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not PEM",
        ca_key_to_pem(new_ca_key()),
        KEY.to_pem()[:-40],
        ca_key_to_pem(new_ca_key(), b"password"),
    ],
)
def test_what_is_not_an_identity_key_is_refused_in_one_sentence(pem: bytes):
    with pytest.raises(FerruleError, match="private key"):
        SigningKey.from_pem(pem)


@pytest.mark.parametrize(
    ("public", "signature", "data"),
    [
        (KEY.public, KEY.sign(b"x"), b"y"),
        (KEY.public, KEY.sign(b"x")[:-1], b"x"),
        (KEY.public, KEY.sign(b"x") + b"\0", b"x"),
        (KEY.public, b"", b"x"),
        (KEY.public[:-1], KEY.sign(b"x"), b"x"),
        (b"", KEY.sign(b"x"), b"x"),
        (bytes(32), bytes(64), b"x"),
        (b"\x01" + bytes(31), b"\x01" + bytes(63), b"x"),
        (SigningKey.generate(b"o" * 32).public, KEY.sign(b"x"), b"x"),
    ],
    ids=[
        "other data", "short", "long", "none", "short key", "no key", "zero", "small order", "other key",
    ],
)  # fmt: skip
def test_a_signature_that_does_not_hold(public: bytes, signature: bytes, data: bytes):
    with pytest.raises(TrustError):
        verify(public, signature, data)


def test_a_signature_with_a_scalar_out_of_range_is_refused():
    # RFC 8032 §5.1.7: s + L verifies the same equation and must be refused (malleability).
    order = 2**252 + 27742317777372353535851937790883648493
    good = KEY.sign(b"x")
    scalar = int.from_bytes(good[32:], "little") + order
    with pytest.raises(TrustError):
        verify(KEY.public, good[:32] + scalar.to_bytes(32, "little"), b"x")


@pytest.mark.parametrize("password", [None, b"secret"])
def test_ca_keys_come_back_from_pem(password: bytes | None):
    key = new_ca_key()
    pem = ca_key_to_pem(key, password)
    assert (b"ENCRYPTED" in pem) is (password is not None)
    assert ca_key_from_pem(pem, password).private_numbers() == key.private_numbers()


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("pem", "password"),
    [
        (KEY.to_pem(), None),
        (_pem(ec.generate_private_key(ec.SECP521R1())), None),
        (_pem(rsa.generate_private_key(65537, 2048)), None),
        (ca_key_to_pem(new_ca_key(), b"secret"), None),
        (ca_key_to_pem(new_ca_key(), b"secret"), b"wrong"),
        (ca_key_to_pem(new_ca_key()), b"none needed"),
        (b"junk", None),
    ],
    ids=["Ed25519", "P-521", "RSA", "no password", "wrong password", "needless password", "junk"],
)
def test_what_is_not_a_ca_key_is_refused(pem: bytes, password: bytes | None):
    with pytest.raises(FerruleError):
        ca_key_from_pem(pem, password)


def test_p384_may_be_a_ca_key_too():
    key = ec.generate_private_key(ec.SECP384R1())
    assert is_ca_key(key)
    assert is_ca_key(key.public_key())
    assert not is_ca_key(KEY.private_key)
