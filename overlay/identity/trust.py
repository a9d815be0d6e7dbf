"""Who is believed: the plant's root, chains under it, and what their keys signed (I-03, P-12 to P-14).

Revocation is not looked at here: who gets a `Leaf` asks the authority (`overlay.fabric`), as A-02 and A-04 say.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol, TypeVar

from overlay.errors import TrustError
from overlay.identity import fields
from overlay.identity.certificate import (
    CaCertificate,
    Leaf,
    Role,
    check_issued,
    read_ca,
    read_leaf,
    self_signed,
)
from overlay.identity.keys import SigningKey, verify
from overlay.wire.codec import Signed, decode, encode, signing_input

CHAIN_LENGTH = 2
"""Leaf and issuing CA; the root is known (I-03)."""
SIGNERS = 8192
"""Nodes whose certificates are remembered for signatures without a chain, the controllers aside."""
CONTROLLERS = 256
"""The same for controllers: kept apart, so that no number of edges pushes a controller out."""

_ISSUING_CACHE = 64
_LEAF_CACHE = 4096


class SignedBody(Protocol):
    """A body that travels signed (a class with `TYPE`, see P-12)."""

    TYPE: ClassVar[str]


T = TypeVar("T", bound=SignedBody)


@dataclass(frozen=True)
class Anchor:
    """A plant's root certificate (DER), its plant's name and the SHA-256 of its DER, which every signature covers."""

    root: bytes
    plant: str
    digest: bytes

    @classmethod
    def of(cls, root: bytes) -> "Anchor":
        """The anchor of a root certificate that came by a way that is trusted (token, own disk).

        Raises:
            TrustError: not a self-signed CA certificate of the form that I-02 asks for.
        """
        ca = read_ca(root)
        check_issued(root, ca.certificate)
        return cls(root, ca.plant, hashlib.sha256(root).digest())


@dataclass(frozen=True)
class Credentials:
    """What a node shows: its key and its certificates, leaf first. `leaf` is None for a newcomer, whose chain is one
    self-signed certificate (E-03)."""

    anchor: Anchor
    key: SigningKey
    chain: tuple[bytes, ...]
    leaf: Leaf | None

    @classmethod
    def enrolled(cls, anchor: Anchor, key: SigningKey, chain: Sequence[bytes]) -> "Credentials":
        """A node's own credentials, whatever the time: an expired leaf may still renew (I-05).

        Raises:
            TrustError: the chain does not lead to the anchor, or is another key's.
        """
        leaf = _signed_leaf(tuple(chain), anchor)
        if leaf.public != key.public:
            raise TrustError("the certificate belongs to another key")
        return cls(anchor, key, tuple(chain), leaf)

    @classmethod
    def newcomer(cls, anchor: Anchor, key: SigningKey) -> "Credentials":
        """Credentials before enrolment: the certificate's time has no meaning, since nobody vouches for it."""
        return cls(anchor, key, (self_signed(key, 0, _FOREVER),), None)


_FOREVER = (1 << 63) - 1


def verify_chain(
    chain: Sequence[bytes], anchor: Anchor, now: int, *, expired_leaf_ok: bool = False
) -> Leaf:
    """Check a chain as I-03 says, and read whom its leaf names.

    Args:
        chain: DER, leaf and issuing CA, exactly; a certificate that has no place in the chain is refused, not skipped.
        anchor: the plant's root.
        now: plant time, microseconds; a `FloorTime` before this node was told the time.
        expired_leaf_ok: accept a leaf after its end (I-05); the rest of the chain must hold even so.

    Raises:
        TrustError: a rule of I-01 to I-04 does not hold; the text says which.
    """
    leaf = _signed_leaf(tuple(chain), anchor)
    _check_time("root certificate", *_validity(_issuing(anchor.root, anchor.root)), now)
    _check_time("issuing CA's certificate", *_validity(_issuing(chain[1], anchor.root)), now)
    end = now if expired_leaf_ok and now > leaf.not_after else leaf.not_after
    _check_time(f"certificate of {leaf.identity.name}", leaf.not_before, end, now)
    return leaf


def _signed_leaf(chain: tuple[bytes, ...], anchor: Anchor) -> Leaf:
    """All of `verify_chain` that does not depend on time."""
    if len(chain) != CHAIN_LENGTH:
        raise TrustError(f"a chain has {CHAIN_LENGTH} certificates, this one {len(chain)}")
    leaf = _issued_leaf(chain[0], chain[1], anchor.root)
    if leaf.identity.plant != anchor.plant:
        raise TrustError("the certificate names another plant")
    return leaf


# Caches hold successes only, so nobody without a certificate of this plant can fill them;
# they are keyed by all bytes that the result depends on.


@lru_cache(maxsize=_ISSUING_CACHE)
def _issuing(der: bytes, root: bytes) -> CaCertificate:
    ca = read_ca(der)
    check_issued(der, ca.certificate if der == root else _issuing(root, root).certificate)
    return ca


@lru_cache(maxsize=_LEAF_CACHE)
def _issued_leaf(der: bytes, issuing: bytes, root: bytes) -> Leaf:
    leaf = read_leaf(der)
    ca = _issuing(issuing, root)
    check_issued(der, ca.certificate)
    return leaf


def _validity(ca: CaCertificate) -> tuple[int, int]:
    return ca.not_before, ca.not_after


def _check_time(what: str, first: int, last: int, now: int) -> None:
    if isinstance(now, fields.FloorTime):
        first = min(first, now)
    if not first <= now <= last:
        when, problem = (first, "is not valid before") if now < first else (last, "expired at")
        raise TrustError(f"the {what} {problem} {_text(when)}, and it is {_text(now)} here")


def _text(time: int) -> str:
    return fields.moment(time).strftime("%Y-%m-%dT%H:%M:%SZ")


class Signers:
    """The certificates under one anchor that were verified so far, so that signatures need not repeat them (P-14).

    Bounded: the longest unused makes room, controllers (`CONTROLLERS`) and other nodes (`SIGNERS`) apart.
    """

    def __init__(self, anchor: Anchor) -> None:
        self.anchor = anchor
        self._controllers: dict[bytes, Leaf] = {}
        self._nodes: dict[bytes, Leaf] = {}

    def learn(self, chain: Sequence[bytes], now: int, *, expired_leaf_ok: bool = False) -> Leaf:
        """Verify a chain and remember its leaf.

        Raises:
            TrustError: the chain does not hold.
        """
        leaf = verify_chain(chain, self.anchor, now, expired_leaf_ok=expired_leaf_ok)
        if leaf.identity.role is Role.CONTROLLER:
            pool, room = self._controllers, CONTROLLERS
        else:
            pool, room = self._nodes, SIGNERS
        pool.pop(leaf.key_id, None)
        if len(pool) >= room:
            del pool[next(iter(pool))]
        pool[leaf.key_id] = leaf
        return leaf

    def controllers(self) -> tuple[bytes, ...]:
        """The controllers' leaves (DER), for another process of this node."""
        return tuple(leaf.der for leaf in self._controllers.values())

    def adopt(self, leaves: Sequence[bytes]) -> None:
        """Believe exactly these controllers' leaves, whose chains another process of this node has verified.

        Raises:
            TrustError: one is no leaf, or not a controller's; nothing has changed.
        """
        read = [read_leaf(der) for der in leaves]
        for leaf in read:
            if leaf.identity.role is not Role.CONTROLLER:
                raise TrustError(f"{leaf.identity.name} is not a controller")
        self._controllers = {leaf.key_id: leaf for leaf in read}

    def known(self, key_id: bytes) -> Leaf | None:
        """The leaf with this key, if its chain was verified before. It may have expired since."""
        leaf = self._controllers.get(key_id)
        if leaf is None and (leaf := self._nodes.pop(key_id, None)) is not None:
            self._nodes[key_id] = leaf  # used last
        return leaf


def sign_body(
    body: SignedBody, key: SigningKey, anchor: Anchor, chain: Sequence[bytes] = ()
) -> bytes:
    """Encode and sign a body (P-12): bytes of a `Signed` with the label of the body's class."""
    return sign_encoded(body.TYPE, encode(body), key, anchor, chain)


def sign_encoded(
    label: str, data: bytes, key: SigningKey, anchor: Anchor, chain: Sequence[bytes] = ()
) -> bytes:
    """`sign_body` for a body that is encoded already."""
    signature = key.sign(signing_input(label, anchor.digest, data))
    return encode(Signed(label, data, key.key_id, signature, tuple(chain)))


def open_signed(
    kind: type[T],
    data: bytes,
    signers: Signers,
    now: int,
    *,
    role: Role | None = None,
    name: str | None = None,
    expired_leaf_ok: bool = False,
) -> tuple[T, Leaf]:
    """Verify something signed and read it: what it says and who signed it (P-11 to P-14).

    Args:
        kind: the body class; its `TYPE` must be the label that was signed.
        data: bytes of a `Signed`.
        signers: the certificates known so far; a chain in `data` is verified and added.
        now: plant time, microseconds; where something old is verified (an export), the time when it was signed.
        role: the role that the signer must have (P-13).
        name: the name that the signer must have.
        expired_leaf_ok: accept a signer whose leaf has ended (events that waited in a spool).

    Raises:
        DecodeError: not a `Signed`, or its body is not a valid `kind`.
        TrustError: signature, signer, chain, role or name do not hold.
    """
    signed = decode(Signed, data)
    leaf = signer_of(
        signed, kind.TYPE, signers, now, role=role, name=name, expired_leaf_ok=expired_leaf_ok
    )
    verify(
        leaf.public, signed.signature, signing_input(kind.TYPE, signers.anchor.digest, signed.body)
    )
    return decode(kind, signed.body), leaf


def signer_of(
    signed: Signed,
    label: str,
    signers: Signers,
    now: int,
    *,
    role: Role | None = None,
    name: str | None = None,
    expired_leaf_ok: bool = False,
) -> Leaf:
    """Who signed this, by its certificate; the signature itself is not checked. Arguments as of `open_signed`.

    Raises:
        TrustError: another label, or signer, chain, role or name do not hold.
    """
    if signed.type != label:
        raise TrustError(f"a signed {label} was expected, not another type")
    if signed.chain:
        leaf = signers.learn(signed.chain, now, expired_leaf_ok=expired_leaf_ok)
    else:
        found = signers.known(signed.signer)
        if found is None:
            raise TrustError(f"the signer of this {label} is not known here")
        if not found.valid_at(now) and not (expired_leaf_ok and now > found.not_after):
            raise TrustError(f"the certificate of the signer of this {label} is not valid now")
        leaf = found
    if leaf.key_id != signed.signer:
        raise TrustError(f"the {label} names another signer than its certificate")
    if role is not None and leaf.identity.role is not role:
        raise TrustError(f"a {label} must be signed by a {role}, not a {leaf.identity.role}")
    if name is not None and leaf.identity.name != name:
        raise TrustError(f"the {label} must be signed by {name}, not {leaf.identity.name}")
    return leaf
