"""Tokens and the proof of holding one (E-01 to E-04)."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import DecodeError, TrustError
from overlay.identity.certificate import Role, make_csr
from overlay.identity.enrolment import (
    MAX_ROUTERS,
    MAX_TOKEN,
    PREFIX,
    Token,
    check_proof,
    proof,
    token_key,
)
from overlay.identity.keys import SigningKey
from overlay.wire.codec import encode
from tests.support.pki import DAY, NOW, Pki

PKI = Pki()
TOKEN = Token(
    plant="mill",
    role=Role.EDGE,
    name="edge-a",
    id=bytes(range(16)),
    secret=bytes(range(32)),
    root=PKI.root,
    routers=("r1.example:8443", "192.0.2.1:8443"),
    expires=NOW + DAY,
)
TEXT = TOKEN.encode()


def altered(**changes: object) -> str:
    values = {name: getattr(TOKEN, name) for name in Token.__struct_fields__} | changes
    return coded(encode(list(values.values())))


def coded(data: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_e_01_a_token_is_one_line_of_text_and_comes_back():
    assert TEXT.startswith("ferrule-token-1.")
    assert "\n" not in TEXT
    assert "=" not in TEXT
    assert Token.parse(TEXT) == TOKEN
    assert Token.parse(TEXT).anchor == PKI.anchor
    assert Token.parse(altered()) == TOKEN


def test_a_token_survives_mail_and_files():
    folded = "\r\n".join(TEXT[at : at + 60] for at in range(0, len(TEXT), 60))
    assert Token.parse(f"  {folded}\n\n") == TOKEN


def test_a_token_does_not_show_its_secret():
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ferrule-token-2." + TEXT.removeprefix(PREFIX),
        PREFIX,
        TEXT[:-3],
        TEXT + "AAAA",
        TEXT + "*",
        TEXT.replace("A", "é", 1),
        TEXT + "A" * MAX_TOKEN,
        altered(plant="other"),
        altered(plant="Mill"),
        altered(name="Edge"),
        altered(name=""),
        altered(name="edge/a"),
        altered(role="admin"),
        altered(role=""),
        altered(id=bytes(15)),
        altered(secret=bytes(31)),
        altered(secret=bytes(33)),
        altered(root=b""),
        altered(root=PKI.issuing),
        altered(root=bytes(5000)),
        altered(root=PKI.edge().chain[0]),
        altered(routers=["r:1"] * (MAX_ROUTERS + 1)),
        altered(routers=[""]),
        altered(routers=["x" * 256]),
        altered(expires=-1),
        altered(expires="tomorrow"),
        coded(b"\x91" * 100_0),
        coded(encode({})),
    ],
)
def test_e_01_what_is_not_a_whole_token_is_refused(text: str):
    with pytest.raises(DecodeError):
        Token.parse(text)


@given(st.text(max_size=200) | st.binary(max_size=300).map(coded))
def test_random_text_raises_only_decode_errors(text: str):
    with pytest.raises(DecodeError):
        Token.parse(text)


@given(st.integers(len(PREFIX), len(TEXT) - 1), st.integers(0, 4), st.text(max_size=4))
def test_damaged_tokens_raise_only_decode_errors(at: int, cut: int, put: str):
    try:
        Token.parse(TEXT[:at] + put + TEXT[at + cut :])
    except DecodeError as error:
        assert str(error)  # noqa: PT017


# --- proof ----------------------------------------------------------------------------------------

NEW = SigningKey.generate(b"n" * 32)
CSR = make_csr(NEW)
MATERIAL = token_key(TOKEN.secret)
EXPORTER = b"e" * 32
PROOF = proof(MATERIAL, Role.EDGE, EXPORTER, CSR)


def test_e_02_the_stored_key_is_not_the_secret():
    assert len(MATERIAL) == 32
    assert MATERIAL not in (TOKEN.secret, bytes(32))
    assert token_key(bytes(32)) != MATERIAL


def test_e_04_a_proof_holds():
    check_proof(MATERIAL, Role.EDGE, EXPORTER, CSR, PROOF)


@pytest.mark.parametrize(
    ("key", "role", "exporter", "csr", "given"),
    [
        (token_key(b"o" * 32), Role.EDGE, EXPORTER, CSR, PROOF),
        (MATERIAL, Role.ROUTER, EXPORTER, CSR, PROOF),
        (MATERIAL, Role.EDGE, b"o" * 32, CSR, PROOF),
        (MATERIAL, Role.EDGE, EXPORTER, make_csr(SigningKey.generate(b"o" * 32)), PROOF),
        (MATERIAL, Role.EDGE, EXPORTER, CSR, PROOF[:-1]),
        (MATERIAL, Role.EDGE, EXPORTER, CSR, b""),
        (MATERIAL, Role.EDGE, EXPORTER, CSR, PROOF + b"\0"),
        (TOKEN.secret, Role.EDGE, EXPORTER, CSR, PROOF),
    ],
    ids=[
        "another token", "another role", "another connection", "another key", "short", "none", "long", "the secret",
    ],
)  # fmt: skip
def test_e_04_a_proof_for_anything_else_is_refused(
    key: bytes, role: Role, exporter: bytes, csr: bytes, given: bytes
):
    with pytest.raises(TrustError):
        check_proof(key, role, exporter, csr, given)
