"""What the controller signs for all nodes: authority, fabric map and grants (docs/protocol/control.md, A-01 to A-07).

Pure: what is in force, the time and the key are arguments.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from overlay import limits
from overlay.errors import LimitError
from overlay.fabric.authority import Authority, FabricMap, Kill, Revocation, RouterEntry, Withdrawal
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, sign_body
from overlay.policy.evaluate import GrantSpec
from overlay.policy.grant import NO_END, Grant
from overlay.wire.codec import encode
from overlay.wire.timestamps import SECOND

NOT_BEFORE_MARGIN = 60 * SECOND
"""Grants begin that much earlier than their conduit: a node's clock may be a little behind before its first answer."""
MAX_SIGNED = limits.MAX_CONTROL - 16 * 1024
"""What an authority or map may have in bytes, its signature and chain and the message around it aside."""
RESERVED_FOR_KILLS = MAX_SIGNED // 4
"""Room that only kills may fill (A-08)."""


@dataclass(frozen=True)
class Restrictions:
    """What is void: the content of an authority."""

    kills: tuple[Kill, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    withdrawn: tuple[Withdrawal, ...] = ()

    def check(self, *, kill: bool) -> None:
        """Does it fit into an authority (A-08)? `kill`: the change is a kill, for which room is reserved.

        Raises:
            LimitError: too many, or too long together.
        """
        size = len(encode((self.kills, self.revoked, self.withdrawn)))
        if (
            len(self.kills) > limits.KILLS
            or len(self.revoked) > limits.REVOCATIONS
            or len(self.withdrawn) > limits.REVOCATIONS
            or size > (MAX_SIGNED if kill else MAX_SIGNED - RESERVED_FOR_KILLS)
        ):
            raise LimitError(
                "there are too many kills, revocations and ended conduits to publish: "
                "restore kills that are not needed any more"
            )


def sign_authority(
    credentials: Credentials, restrictions: Restrictions, version: int, now: int, head: bytes
) -> bytes:
    """A signed authority with the signer's chain, so that every node can check it (P-14). `head`: signed tree head."""
    body = Authority(
        version, now, restrictions.kills, restrictions.revoked, restrictions.withdrawn, head
    )
    return sign_body(body, credentials.key, credentials.anchor, credentials.chain)


def sign_map(credentials: Credentials, version: int, routers: Sequence[RouterEntry]) -> bytes:
    """A signed fabric map with the signer's chain."""
    body = FabricMap(version, tuple(routers))
    return sign_body(body, credentials.key, credentials.anchor, credentials.chain)


def grant_id(spec: GrantSpec, key_id: bytes) -> bytes:
    """The id of a grant: the same for each refresh, so that the newer replaces the older."""
    parts = (spec.conduit, spec.who, spec.via, spec.service, str(spec.transport))
    text = "\0".join((*parts, str(spec.integrity))).encode()
    return hashlib.sha256(b"ferrule/1/grant-id\0" + key_id + text).digest()[:16]


def make_grant(spec: GrantSpec, leaf: Leaf, epoch: int, now: int) -> Grant:
    """The grant of a spec for the key in `leaf`: refresh-by, hold-until and end as G-02 says."""

    def capped(time: int) -> int:
        return time if spec.end == NO_END else min(time, spec.end)

    refresh_by = now + int(limits.REFRESH_BY * SECOND)
    return Grant(
        id=grant_id(spec, leaf.key_id),
        conduit=spec.conduit,
        caller_key=leaf.key_id,
        who=spec.who,
        via=spec.via,
        service=spec.service,
        asset=spec.asset,
        hosts=spec.hosts,
        ranks=spec.ranks,
        weights=spec.weights,
        transport=spec.transport,
        integrity=spec.integrity,
        not_before=max(0, spec.not_before - NOT_BEFORE_MARGIN),
        refresh_by=capped(refresh_by),
        hold_until=capped(refresh_by + spec.hold * SECOND),
        end=spec.end,
        max_session=spec.max_session,
        who_zones=spec.who_zones,
        asset_zones=spec.asset_zones,
        epoch=epoch,
        generation=leaf.generation,
        who_address=spec.who_address,
    )


def sign_grant(credentials: Credentials, grant: Grant) -> bytes:
    """A signed grant; without chain, since every node has it from the authority.

    Raises:
        LimitError: longer than `MAX_GRANT`.
    """
    signed = sign_body(grant, credentials.key, credentials.anchor)
    if len(signed) > limits.MAX_GRANT:
        raise LimitError(f"the grant of {grant.who} for {grant.service} is too long")
    return signed
