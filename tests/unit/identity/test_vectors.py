"""Tokens, proofs and certificates that other implementations can check against (tests/vectors)."""

import hashlib
import json
from pathlib import Path
from typing import Any

from overlay.identity.certificate import Role, read_csr
from overlay.identity.enrolment import Token, check_proof, proof, token_key
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Anchor, verify_chain

VECTORS = Path(__file__).parents[2] / "vectors"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


TOKEN = load("token.json")
ENROLMENT = load("enrolment.json")


def test_e_01_a_token():
    fields = TOKEN["fields"]
    token = Token.parse(TOKEN["text"])
    assert (token.plant, token.role, token.name) == ("mill", Role.EDGE, "edge-a")
    for name in ("id", "secret", "root"):
        assert getattr(token, name) == raw(fields[name])
    assert list(token.routers) == fields["routers"]
    assert token.expires == fields["expires"]
    assert token.encode() == TOKEN["text"]
    assert token.anchor.digest.hex() == TOKEN["plant_digest"]


def test_e_02_the_key_that_is_kept():
    assert token_key(raw(TOKEN["fields"]["secret"])).hex() == TOKEN["key"] == ENROLMENT["key"]


def test_e_04_a_proof():
    given = raw(ENROLMENT["key"]), Role(ENROLMENT["role"]), raw(ENROLMENT["exporter"])
    csr = raw(ENROLMENT["csr"])
    assert proof(*given, csr).hex() == ENROLMENT["proof"]
    check_proof(*given, csr, raw(ENROLMENT["proof"]))
    assert read_csr(csr) == raw(ENROLMENT["public"])


def test_i_02_a_key():
    key = SigningKey.generate(raw(ENROLMENT["seed"]))
    assert key.public.hex() == ENROLMENT["public"]
    assert key.key_id.hex() == ENROLMENT["key_id"]


def test_i_03_a_chain():
    root = raw(ENROLMENT["root"])
    chain = [raw(each) for each in ENROLMENT["chain"]]
    anchor = Anchor.of(root)
    assert anchor.digest == hashlib.sha256(root).digest()
    leaf = verify_chain(chain, anchor, ENROLMENT["not_before"])
    assert leaf.identity.uri == ENROLMENT["uri"]
    assert leaf.generation == ENROLMENT["generation"]
    assert leaf.public.hex() == ENROLMENT["public"]
    assert (leaf.not_before, leaf.not_after) == (ENROLMENT["not_before"], ENROLMENT["not_after"])
