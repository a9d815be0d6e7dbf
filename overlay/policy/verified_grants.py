"""Grants whose signature was verified, so that each circuit need not verify it again. Pure."""

from collections.abc import Callable

from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Signers, open_signed
from overlay.policy.grant import Grant

VERIFIED_GRANTS = 8192
"""Grants that are remembered; the oldest gives way."""


class VerifiedGrants:
    """Opens signed grants. `admit` raises TrustError for a controller that is revoked."""

    def __init__(self, signers: Signers, admit: Callable[[Leaf], None]) -> None:
        self._signers = signers
        self._admit = admit
        self._known: dict[bytes, tuple[Grant, Leaf]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def open(self, grant: bytes, now: int) -> Grant:
        """The grant, if a controller of this plant that is still good signed it; `now` in microseconds of plant time.

        Raises:
            DecodeError: not a signed grant.
            TrustError: signature, signer or role do not hold.
        """
        known = self._known.get(grant)
        if known is not None and known[1].valid_at(now):
            self._admit(known[1])
            return known[0]
        body, signer = open_signed(Grant, grant, self._signers, now, role=Role.CONTROLLER)
        self._admit(signer)
        if len(self._known) >= VERIFIED_GRANTS:
            del self._known[next(iter(self._known))]
        self._known[grant] = (body, signer)
        return body
