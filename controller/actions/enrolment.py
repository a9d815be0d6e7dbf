"""Becoming and staying a node: redeeming tokens, renewing leaves, and who may speak on `_control` (E-01 to E-08)."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions.core import Core, RecordLimiter, Work
from controller.actions.sovereignty import revoke_up_to
from controller.pki import BACKDATED, serial_number
from controller.store.tables import CertificateRow, NodeRow, RevocationRow, TokenRow
from overlay.audit.event import EventName, Outcome
from overlay.errors import FerruleError, TrustError
from overlay.identity.certificate import Identity, Leaf, Role, read_csr, read_leaf
from overlay.identity.enrolment import check_proof
from overlay.identity.keys import key_id

REFUSED = "the token is unknown, used, expired or not for this key"
"""The one text for every refused token (E-05)."""
RENEWALS_EVERY = 60 * 1_000_000
"""A node gets a new leaf at most this often (microseconds)."""


class Refusal(FerruleError):
    """Why a token is refused, for the audit; the newcomer is told `REFUSED`."""


class Enrolment(Core):
    """Leaves for nodes."""

    def _prepare(self) -> None:
        super()._prepare()
        self._refusals = RecordLimiter()

    async def redeem_token(
        self, token: bytes, csr: bytes, proof: bytes, exporter: bytes, peer_public: bytes
    ) -> tuple[bytes, ...]:
        """Enrol a newcomer: its chain, leaf first.

        Args:
            token: the token's id, 16 bytes.
            csr: PKCS #10 request; its key must be `peer_public`, the key of the newcomer's self-signed certificate.
            proof: HMAC of E-04 over `exporter`, the end-to-end exporter of the handshake.
            exporter: 32 bytes.
            peer_public: raw Ed25519 key, 32 bytes.

        Raises:
            TrustError: the token or the proof does not hold, always with the same text.
        """
        async with self.change(self.itself, None, EventName.NODE_ENROL, "enrol") as work:
            try:
                return await self._redeem(work, token, csr, proof, exporter, peer_public)
            except (Refusal, TrustError) as error:
                # What was refused is recorded, merged when it comes in masses, and nothing else changes.
                if count := self._refusals.take(work.now):
                    work.note(
                        EventName.NODE_ENROL,
                        Outcome.DENIED,
                        reason=str(error),
                        count=count,
                        detail={"token": token.hex(), "key": key_id(peer_public).hex()},
                    )
        raise TrustError(REFUSED)

    async def _redeem(
        self,
        work: Work,
        token: bytes,
        csr: bytes,
        proof: bytes,
        exporter: bytes,
        peer_public: bytes,
    ) -> tuple[bytes, ...]:
        row = await work.session.get(TokenRow, token.hex())
        if row is None:
            raise Refusal("unknown token")
        check_proof(row.key, Role(row.role), exporter, csr, proof)
        if read_csr(csr) != peer_public:
            raise Refusal("the request is for another key than the connection's")
        owner = key_id(peer_public)
        if row.spent:
            raise Refusal(f"the token of {row.name} was used before")
        if row.owner is not None and row.owner != owner:
            raise Refusal(f"the token of {row.name} was used by another key")
        if work.now >= row.expires:
            raise Refusal(f"the token of {row.name} has expired")
        node = await work.session.get(NodeRow, row.name)
        if node is None:
            raise Refusal(f"{row.name} was removed")
        again = row.owner is not None
        if not again:
            node.generation += 1  # E-06
            row.owner, row.generation = owner, node.generation
        assert row.generation is not None  # noqa: S101 - set with the owner
        chain = await self._issue(work, node, peer_public, row.generation)
        work.note(
            EventName.NODE_ENROL,
            reason=f"{row.role} {row.name}" + (" again, its answer was lost" if again else ""),
            via=row.name,
            detail={"generation": row.generation, "key": owner.hex()},
        )
        work.topics.update(("policy", "map", "presence"))
        return chain

    async def renew(self, leaf: Leaf, csr: bytes) -> tuple[bytes, ...]:
        """A new leaf for a node that has proved on its control circuit who it is; also after its old one ended (I-05).

        Raises:
            TrustError: not a request, the node is not known any more or revoked, or it asks too often.
        """
        public = read_csr(csr)
        name = leaf.identity.name
        async with self.change(self.itself, None, EventName.NODE_RENEW, name) as work:
            node = await self._speaker(work.session, leaf)
            newest = await work.session.execute(
                select(CertificateRow)
                .where(CertificateRow.name == name)
                .order_by(CertificateRow.not_after.desc())
                .limit(1)
            )
            last = newest.scalar_one_or_none()
            if last is not None:
                issued = read_leaf(last.der)
                if work.now < issued.not_before + BACKDATED + RENEWALS_EVERY:
                    if (issued.public, issued.generation) == (public, leaf.generation):
                        return issued.der, self.pki.issuing  # the answer was lost: it gets the same
                    raise TrustError("it renews too often: try again in a minute")
            chain = await self._issue(work, node, public, leaf.generation)
            work.note(
                EventName.NODE_RENEW,
                reason=f"{leaf.identity.role.value} {name}",
                via=name,
                detail={"generation": leaf.generation, "key": key_id(public).hex()},
            )
            work.topics.add("policy")
        return chain

    async def check_leaf(self, leaf: Leaf) -> None:
        """May this node speak on `_control`?

        Raises:
            TrustError: it was removed, its generation was revoked, or the name was enrolled anew elsewhere.
        """
        async with self.reading() as session:
            await self._speaker(session, leaf)

    async def _speaker(self, session: AsyncSession, leaf: Leaf) -> NodeRow:
        name = leaf.identity.name
        node = await session.get(NodeRow, name)
        if node is None or node.role != leaf.identity.role.value:
            raise TrustError(f"there is no {leaf.identity.role.value} {name} in this plant")
        revocation = await session.get(RevocationRow, name)
        if revocation is not None and leaf.generation <= revocation.generation:
            raise TrustError(f"{name} is revoked: {revocation.reason}")
        if leaf.generation > node.generation:
            raise TrustError(f"no such generation of {name} was ever enrolled here")
        return node

    async def _issue(
        self, work: Work, node: NodeRow, public: bytes, generation: int
    ) -> tuple[bytes, ...]:
        identity = Identity(self.plant, Role(node.role), node.name)
        serial = serial_number(self.world)
        chain = self.pki.issue(public, identity, generation, work.now, serial)
        leaf = read_leaf(chain[0])
        work.session.add(
            CertificateRow(
                fingerprint=leaf.fingerprint,
                key=leaf.key_id,
                name=node.name,
                role=node.role,
                generation=generation,
                not_after=leaf.not_after,
                der=leaf.der,
            )
        )
        work.topics.add("certificates")
        return chain

    async def first_link(self, work: Work, leaf: Leaf) -> None:
        """The node is there with its leaf: the token is spent (E-05), and older generations of the name are void."""
        name = leaf.identity.name
        rows = await work.session.execute(
            select(TokenRow).where(
                TokenRow.name == name,
                TokenRow.generation == leaf.generation,
                TokenRow.spent == 0,
            )
        )
        for row in rows.scalars():
            row.spent = work.now
            work.topics.add("presence")
        revocation = await work.session.get(RevocationRow, name)
        older = leaf.generation - 1
        if older >= 1 and (revocation is None or revocation.generation < older):
            await revoke_up_to(work, name, older, f"replaced by generation {leaf.generation}")
            work.note(
                EventName.NODE_REVOKE,
                reason=f"{name} was enrolled anew: its older certificates are void",
                via=name,
                detail={"name": name, "generation": older},
            )
            work.topics.update(("authority", "policy"))
