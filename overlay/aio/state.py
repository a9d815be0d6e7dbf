"""What a node keeps in its folder: identity, authority, map, time, grants, local kill. One program at a time."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificates
from msgspec import Meta

from overlay.aio.shelf import DamagedError, Shelf
from overlay.aio.world import World
from overlay.control.messages import Assignments
from overlay.errors import DecodeError, FerruleError, TrustError
from overlay.fabric.authority import Authority
from overlay.fabric.plant_time import PlantTime
from overlay.fabric.state import AuthorityState, MapState
from overlay.identity.certificate import Leaf, read_leaf
from overlay.identity.fields import FloorTime
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Anchor, Credentials, Signers, verify_chain
from overlay.wire.bodies import LocalKill, Micros
from overlay.wire.codec import Body

T = TypeVar("T")
IDENTITY = "identity.pem"
PENDING = "pending.pem"
AUTHORITY_EVERY = 60_000_000
"""An authority that changes no kill, revocation or withdrawal is written at most so often (microseconds)."""
TIME_EVERY = 30_000_000
"""Plant time is written at least so often; the protocol asks for a minute (A-21)."""
KEPT_CHAINS = 16
"""Chains of signers that are kept beside the one of the newest authority; the oldest gives way."""

_PRIVATE = re.compile(
    rb"-----BEGIN PRIVATE KEY-----[A-Za-z0-9+/=\s]{1,4096}-----END PRIVATE KEY-----\s?"
)


class _Kept(Body, frozen=True):
    """Something signed, and the plant time when it was accepted: its signer was valid then."""

    accepted: Micros
    signed: bytes


class _Chains(Body, frozen=True):
    """Chains of controllers whose signatures this node has accepted, each with a time at which it is valid."""

    chains: Annotated[tuple[tuple[Micros, tuple[bytes, ...]], ...], Meta(max_length=KEPT_CHAINS)]


class _Time(Body, frozen=True):
    floor: Micros


class _Boot(Body, frozen=True):
    boot: Annotated[int, Meta(ge=0)]


class _Grants(Body, frozen=True):
    grants: tuple[bytes, ...]


class _Routers(Body, frozen=True):
    """Addresses from the token, for as long as no map is known."""

    addresses: tuple[str, ...]


class KeptState:
    """The folder of an edge or router. Made by `open`; `close` gives the folder free."""

    def __init__(self, world: World, directory: Path, release: Callable[[], None]) -> None:
        self._world = world
        self._release = release
        self.directory = directory
        self.shelf = Shelf(world, directory)
        self.time = PlantTime()
        self.boot = 0
        self.local_kill: LocalKill | None = None
        self.assignments: Assignments | None = None
        self.grants: tuple[bytes, ...] = ()
        self.token_routers: tuple[str, ...] = ()
        self._credentials: Credentials | None = None
        self._anchor: Anchor | None = None
        self._signers: Signers | None = None
        self._authority: AuthorityState | None = None
        self._fabric: MapState | None = None
        self._chains: list[tuple[int, tuple[bytes, ...]]] = []
        self._written_time = 0
        self._written_authority: Authority | None = None
        self._written_at = 0

    @classmethod
    async def open(cls, world: World, directory: Path) -> "KeptState":
        """Take the folder (made when missing), read all that is in it, count this start.

        Raises:
            FerruleError: another program has it, a file is damaged, or it cannot be read or written.
        """
        try:
            release = world.disk.lock(directory)
        except BlockingIOError:
            raise FerruleError(
                f"{directory} is in use by another running program; stop that first."
            ) from None
        except OSError as error:
            raise FerruleError(f"{directory} cannot be used: {error.strerror or error}.") from None
        state = cls(world, directory, release)
        try:
            await state._load()
        except OSError as error:
            release()
            raise FerruleError(f"{directory} cannot be used: {error.strerror or error}.") from None
        except BaseException:
            release()
            raise
        return state

    async def close(self) -> None:
        """Write what is waiting and give the folder free."""
        self._save_time()
        await self.shelf.flush()
        self._release()

    # --- identity ---------------------------------------------------------------------------------

    @property
    def enrolled(self) -> bool:
        """There is a key with a certificate of a plant."""
        return self._credentials is not None

    @property
    def leaf(self) -> Leaf:
        """This node's certificate. Raises: FerruleError: not enrolled."""
        leaf = self.credentials().leaf
        assert leaf is not None  # noqa: S101  (only enrolled credentials are kept)
        return leaf

    def credentials(self) -> Credentials:
        """Key and chain. Raises: FerruleError: not enrolled."""
        if self._credentials is None:
            raise FerruleError(f"{self.directory} is not enrolled yet; start with --token FILE.")
        return self._credentials

    @property
    def signers(self) -> Signers:
        """Who may sign for the plant. Raises: FerruleError: the plant is not known yet."""
        return _known(self._signers)

    @property
    def authority(self) -> AuthorityState:
        """The authority in force. Raises: FerruleError: the plant is not known yet."""
        return _known(self._authority)

    @property
    def fabric(self) -> MapState:
        """The fabric map in force. Raises: FerruleError: the plant is not known yet."""
        return _known(self._fabric)

    async def newcomer(self, anchor: Anchor, routers: tuple[str, ...]) -> Credentials:
        """Credentials to enrol with under `anchor`: a key that an interrupted enrolment left, else a new
        one, on disk (E-05).

        Raises:
            OSError: the key cannot be written.
        """
        path = self.shelf.path(PENDING)
        raw = await self._world.disk.read(path)
        if raw is None:
            key = SigningKey.generate(self._world.entropy.bytes(32))
            await self._world.disk.replace(path, key.to_pem())
        else:
            try:
                key = SigningKey.from_pem(raw)
            except FerruleError:
                raise _damaged(path, "enrol with a new key and a fresh token") from None
        self.token_routers = routers
        self._trust(anchor)
        return Credentials.newcomer(anchor, key)

    async def enrol(self, newcomer: Credentials, chain: tuple[bytes, ...]) -> Leaf:
        """Keep what the controller issued for the newcomer's key; from now on this node has an identity.

        Raises:
            TrustError: the chain does not hold or names another key.
            OSError: it cannot be written.
        """
        await self.shelf.save("routers", _Routers(self.token_routers))
        leaf = await self.renew(newcomer.key, chain, anchor=newcomer.anchor)
        await self._world.disk.remove(self.shelf.path(PENDING))
        return leaf

    async def renew(
        self, key: SigningKey, chain: tuple[bytes, ...], *, anchor: Anchor | None = None
    ) -> Leaf:
        """Replace key and chain, in one write (E-08).

        Raises:
            TrustError: the chain does not hold, or names another key or, at a renewal, another node.
            OSError: it cannot be written; the old ones are still in use.
        """
        anchor = self.credentials().anchor if anchor is None else anchor
        leaf = verify_chain(chain, anchor, FloorTime(self.time.floor))
        if self.enrolled and leaf.identity != self.leaf.identity:
            raise TrustError(f"the certificate that came is for {leaf.identity.uri}")
        credentials = Credentials.enrolled(anchor, key, chain)
        pem = key.to_pem() + b"".join(
            load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            for der in (*chain, anchor.root)
        )
        await self._world.disk.replace(self.shelf.path(IDENTITY), pem)
        self._credentials = credentials
        self.time.learn(leaf.not_before, self._world.clock.boot())
        return leaf

    # --- what was published -----------------------------------------------------------------------

    def keep_authority(self) -> None:
        """The authority in force is new: it goes to disk, at once when it changes what is void (A-02)."""
        held = self.authority.held
        if held is None:
            return
        self.time.learn(held.body.time, self._world.clock.boot())
        old = self._written_authority
        same = (
            old is not None
            and (old.kills, old.revoked, old.withdrawn)
            == (held.body.kills, held.body.revoked, held.body.withdrawn)
        )  # fmt: skip
        if same and held.accepted - self._written_at < AUTHORITY_EVERY:
            return
        self._written_authority, self._written_at = held.body, held.accepted
        self.shelf.later("authority", _Kept(held.accepted, held.signed))

    def keep_map(self) -> None:
        """The map in force is new: it goes to disk."""
        held = self.fabric.held
        if held is not None:
            self.shelf.later("map", _Kept(held.accepted, held.signed))

    def keep_chain(self, chain: tuple[bytes, ...]) -> None:
        """A controller's chain that was verified: grants that it signed stay readable after a restart (P-14)."""
        if not chain or any(chain == known for _, known in self._chains):
            return
        begin = read_leaf(chain[0]).not_before
        self._chains = [*self._chains[-(KEPT_CHAINS - 1) :], (begin, chain)]
        self.shelf.later("signers", _Chains(tuple(self._chains)))

    def keep_assignments(self, assignments: Assignments) -> None:
        """What this node has to do, for the next start without controller."""
        self.assignments = assignments
        self.shelf.later("assignments", assignments)

    def keep_grants(self, grants: tuple[bytes, ...]) -> None:
        """The grants in hand, for the next start without controller."""
        self.grants = grants
        self.shelf.later("grants", _Grants(grants))

    async def keep_local_kill(self, kill: LocalKill | None) -> None:
        """Pull or release the local switch; it is on disk when this returns (A-03).

        Raises:
            OSError: it could not be written and nothing has changed on disk.
        """
        if kill is None:
            await self.shelf.remove("kill")
        else:
            await self.shelf.save("kill", kill)
        self.local_kill = kill

    # --- time -------------------------------------------------------------------------------------

    def now(self) -> int:
        """Plant time, microseconds (A-20); written to disk from time to time."""
        clock = self._world.clock
        now = self.time.now(clock.boot(), 0 if self.time.answered else clock.wall())
        if self.time.floor - self._written_time >= TIME_EVERY:
            self._save_time()
        return now

    def _save_time(self) -> None:
        self._written_time = self.time.floor
        self.shelf.later("time", _Time(self.time.floor))

    # --- reading ----------------------------------------------------------------------------------

    async def _load(self) -> None:
        shelf = self.shelf
        time = await shelf.load("time", _Time, without="trust the machine's clock")
        if time is not None:
            self.time = PlantTime(time.floor)
            self._written_time = time.floor
        boot = await shelf.load("boot", _Boot, without="count from the wall clock")
        # Without the counter, minutes since 1970: above what a counter ever reaches.
        self.boot = (self._world.clock.wall() // 60_000_000) if boot is None else boot.boot + 1
        await shelf.save("boot", _Boot(self.boot))
        await self._load_identity()
        self.local_kill = await shelf.load("kill", LocalKill, without="release the local switch")
        routers = await shelf.load("routers", _Routers, without="dial the routers of the map only")
        self.token_routers = () if routers is None else routers.addresses
        if self._anchor is None:
            return
        again = "start without it; it is fetched again"
        chains = await shelf.load("signers", _Chains, without=again)
        for accepted, chain in () if chains is None else chains.chains:
            self._learn(chain, accepted)
        await self._load_published("authority", again)
        await self._load_published("map", again)
        self.assignments = await shelf.load("assignments", Assignments, without=again)
        grants = await shelf.load("grants", _Grants, without=again)
        self.grants = () if grants is None else grants.grants

    async def _load_published(self, name: str, without: str) -> None:
        kept = await self.shelf.load(name, _Kept, without=without)
        if kept is None:
            return
        state = self.authority if name == "authority" else self.fabric
        try:
            state.restore(kept.signed, kept.accepted)
        except (DecodeError, TrustError) as error:
            raise DamagedError(
                f"{self.shelf.path(name)} does not belong here ({error}): move it away to {without}."
            ) from None
        if name == "authority" and self.authority.held is not None:
            self._written_authority, self._written_at = self.authority.held.body, kept.accepted

    def _learn(self, chain: tuple[bytes, ...], accepted: int) -> None:
        try:
            self.signers.learn(chain, accepted)
        except (DecodeError, TrustError) as error:
            raise DamagedError(
                f"{self.shelf.path('signers')} does not belong here ({error}): move it away."
            ) from None
        self._chains.append((accepted, chain))

    async def _load_identity(self) -> None:
        path = self.shelf.path(IDENTITY)
        raw = await self._world.disk.read(path)
        if raw is None:
            return
        try:
            private = _PRIVATE.search(raw)
            if private is None:
                raise FerruleError("no private key in it")
            key = SigningKey.from_pem(private.group(0))
            certificates = load_pem_x509_certificates(raw)
            *chain, root = (one.public_bytes(Encoding.DER) for one in certificates)
            anchor = Anchor.of(root)
            # Whether it is still valid is the others' decision: an expired leaf may renew (I-05).
            credentials = Credentials.enrolled(anchor, key, chain)
        except (ValueError, IndexError, FerruleError):
            raise _damaged(path, "enrol this machine anew with a fresh token") from None
        self._credentials = credentials
        self.time.learn(self.leaf.not_before, self._world.clock.boot())
        self._trust(anchor)

    def _trust(self, anchor: Anchor) -> None:
        if self._anchor == anchor:
            return
        self._anchor = anchor
        self._signers = Signers(anchor)
        self._authority = AuthorityState(self._signers)
        self._fabric = MapState(self._signers, self._authority)


def _known(value: T | None) -> T:
    if value is None:
        raise FerruleError("This machine does not belong to a plant yet; start with --token FILE.")
    return value


def _damaged(path: Path, without: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged: restore it from a backup, or move it away to {without}."
    )
