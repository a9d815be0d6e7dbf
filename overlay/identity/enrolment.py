"""One-time tokens, and the proof that a newcomer holds one (docs/protocol/README.md, E-01 to E-05)."""

import base64
import binascii
import hashlib
import hmac
from typing import Annotated

from msgspec import Meta

from overlay.errors import DecodeError, TrustError
from overlay.identity import fields
from overlay.identity.certificate import Role, is_name
from overlay.identity.trust import Anchor
from overlay.wire.bodies import Id16, Micros, Name
from overlay.wire.codec import Body, decode, encode

PREFIX = "ferrule-token-1."
EXPORTER_LABEL = "ferrule/1/enrol"
"""Label of the 32-byte end-to-end exporter that the proof is bound to (E-04)."""
SECRET_SIZE = 32
MAX_ROUTERS = 16
MAX_TOKEN = 16 * 1024
"""Largest token text that is looked at, in characters."""

Secret = Annotated[bytes, Meta(min_length=SECRET_SIZE, max_length=SECRET_SIZE)]
Address = Annotated[str, Meta(min_length=1, max_length=255)]


class Token(Body, frozen=True):
    """What a newcomer is given, on paper or as a file: who it will be, whom to trust, where to go, and a secret.

    `secret` is 32 random bytes, `root` the plant's root certificate (DER), `routers` are HOST:PORT, `expires` is plant
    time in microseconds. Whoever holds it may enrol in this name, once.
    """

    plant: Name
    role: Role
    name: Name
    id: Id16
    secret: Secret
    root: Annotated[bytes, Meta(max_length=fields.MAX_CERTIFICATE)]
    routers: Annotated[tuple[Address, ...], Meta(max_length=MAX_ROUTERS)]
    expires: Micros

    def encode(self) -> str:
        """One line of text (E-01)."""
        return PREFIX + base64.urlsafe_b64encode(encode(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Read a token; white space around and inside it (mail, line breaks) does not matter.

        Raises:
            DecodeError: not a whole token of this version, or its parts contradict each other.
        """
        packed = "".join(text[: 2 * MAX_TOKEN].split())
        if not packed.startswith(PREFIX):
            raise DecodeError(f"this is not a token: it does not begin with '{PREFIX}'")
        if len(packed) > MAX_TOKEN:
            raise DecodeError("this is not a token: it is too long")
        coded = packed.removeprefix(PREFIX)
        try:
            data = base64.b64decode(coded + "=" * (-len(coded) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise DecodeError("the token is damaged; copy it again as a whole") from None
        token = decode(cls, data)
        if not is_name(token.plant) or not is_name(token.name):
            raise DecodeError("the token's plant or name is not a valid name")
        try:
            anchor = token.anchor
        except TrustError as error:
            raise DecodeError(f"the token's root certificate is not valid: {error}") from None
        if anchor.plant != token.plant:
            raise DecodeError("the token's root certificate is another plant's")
        return token

    @property
    def anchor(self) -> Anchor:
        """The plant that the newcomer will believe.

        Raises:
            TrustError: the root is none; not after `parse`.
        """
        return Anchor.of(self.root)

    def __repr__(self) -> str:
        return f"Token({self.role.value} {self.name} of {self.plant}, {self.id.hex()})"


def token_key(secret: bytes) -> bytes:
    """What the controller keeps instead of the secret: HKDF-SHA256, no salt, 32 bytes (E-02)."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), secret, "sha256")
    return hmac.digest(extracted, b"ferrule/1/token\x01", "sha256")


def proof(key: bytes, role: Role, exporter: bytes, csr: bytes) -> bytes:
    """The newcomer's proof, 32 bytes (E-04).

    Args:
        key: `token_key` of the token's secret.
        role: the role in the token.
        exporter: 32 bytes of the end-to-end handshake under `EXPORTER_LABEL`, so that a proof cannot be passed on.
        csr: the request (DER) that the certificate is issued for.
    """
    message = b"ferrule/1/enrol/" + role.value.encode() + b"\0" + exporter
    return hmac.digest(key, message + hashlib.sha256(csr).digest(), "sha256")


def check_proof(key: bytes, role: Role, exporter: bytes, csr: bytes, given: bytes) -> None:
    """Compare in constant time (E-04).

    Raises:
        TrustError: the proof is not that of this token on this connection for this request.
    """
    if not hmac.compare_digest(proof(key, role, exporter, csr), given):
        raise TrustError("the token's proof does not hold")
