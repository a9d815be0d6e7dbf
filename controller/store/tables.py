"""The tables. Names are stored in lower case; times are plant time in microseconds; ids of circuits are hex.

What is signed or hashed is kept as bytes beside its columns: the bytes are the truth, the columns are for searching.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """All tables of the store."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {int: BigInteger, bytes: LargeBinary, list[str]: JSON}  # noqa: RUF012


class PlantRow(Base):
    """One row: the plant and its counters. Each of them only rises."""

    __tablename__ = "plant"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(63))
    root: Mapped[bytes]
    """SHA-256 of the root certificate: the folder and the store must belong together."""
    time_zone: Mapped[str] = mapped_column(String(63))
    created: Mapped[int]
    boot: Mapped[int] = mapped_column(default=0)
    authority: Mapped[int] = mapped_column(default=1)
    map: Mapped[int] = mapped_column(default=1)
    policy: Mapped[int] = mapped_column(default=1)
    conduits: Mapped[int] = mapped_column(default=0)
    """Number of the last conduit."""
    numbers: Mapped[int] = mapped_column(default=0, server_default="0")
    """The last place in pools of overlay addresses that was given to an asset."""


class NameRow(Base):
    """One namespace over zones, nodes, assets and users: the row is the claim to the name."""

    __tablename__ = "names"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))


class ZoneRow(Base):
    """A zone, possibly inside another."""

    __tablename__ = "zones"

    name: Mapped[str] = mapped_column(ForeignKey("names.name"), primary_key=True)
    level: Mapped[int | None]
    sl: Mapped[int | None]
    parent: Mapped[str | None] = mapped_column(ForeignKey("zones.name"))


class NodeRow(Base):
    """A router or an edge. `generation` counts redeemed tokens; `seen` is when it last was connected, 0 for never."""

    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(ForeignKey("names.name"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    zone: Mapped[str | None] = mapped_column(ForeignKey("zones.name"))
    address: Mapped[str] = mapped_column(String(255), default="")
    dials: Mapped[list[str]] = mapped_column(default=list)
    draining: Mapped[bool] = mapped_column(default=False, server_default=false())
    """A router that gets nothing new, and whose circuits move (L-37)."""
    generation: Mapped[int] = mapped_column(default=0)
    created: Mapped[int]
    seen: Mapped[int] = mapped_column(default=0)
    version: Mapped[str] = mapped_column(String(32), default="")
    local_kill: Mapped[str | None] = mapped_column(String(200))
    """Why somebody pulled the switch at the edge itself; null when nobody did."""
    local_since: Mapped[int] = mapped_column(default=0)
    pools: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    """Where assets have their overlay addresses on this edge; what is missing is the default."""


class TokenRow(Base):
    """A one-time token. `owner` is the key id that redeemed it first, `spent` the node's first link (E-05)."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(ForeignKey("nodes.name", ondelete="CASCADE"), index=True)
    role: Mapped[str] = mapped_column(String(16))
    key: Mapped[bytes]
    expires: Mapped[int]
    owner: Mapped[bytes | None]
    generation: Mapped[int | None]
    spent: Mapped[int] = mapped_column(default=0)


class CertificateRow(Base):
    """Every leaf that was issued, by the SHA-256 of its key: so that events signed long ago still verify."""

    __tablename__ = "certificates"

    fingerprint: Mapped[bytes] = mapped_column(primary_key=True)
    key: Mapped[bytes] = mapped_column(index=True)
    name: Mapped[str] = mapped_column(String(63), index=True)
    role: Mapped[str] = mapped_column(String(16))
    generation: Mapped[int]
    not_after: Mapped[int] = mapped_column(index=True)
    der: Mapped[bytes]


class RevocationRow(Base):
    """Leaves of a name up to a generation are void for ever, also after the node was removed or enrolled anew."""

    __tablename__ = "revocations"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    generation: Mapped[int]
    reason: Mapped[str] = mapped_column(String(200))
    by: Mapped[str] = mapped_column(String(63))
    since: Mapped[int]
    expires: Mapped[int]
    """When the last of these leaves ends by itself; then it is 0 and only this controller knows it any more (A-08)."""


class AssetRow(Base):
    """A device without agent."""

    __tablename__ = "assets"

    name: Mapped[str] = mapped_column(ForeignKey("names.name"), primary_key=True)
    address: Mapped[str] = mapped_column(String(255), default="")
    mac: Mapped[str] = mapped_column(String(17), default="")
    zone: Mapped[str | None] = mapped_column(ForeignKey("zones.name"))
    tags: Mapped[list[str]] = mapped_column(default=list)
    number: Mapped[int] = mapped_column(default=0, server_default="0")
    """Its place in pools of overlay addresses; 0: it has none yet."""


class AssetEdgeRow(Base):
    """An edge that stands before an asset; `weight` 0: it has no share of its own among those of one priority."""

    __tablename__ = "asset_edges"

    asset: Mapped[str] = mapped_column(
        ForeignKey("assets.name", ondelete="CASCADE"), primary_key=True
    )
    edge: Mapped[str] = mapped_column(ForeignKey("nodes.name"), primary_key=True)
    priority: Mapped[int] = mapped_column(default=0)
    weight: Mapped[int] = mapped_column(default=0)


class ServiceRow(Base):
    """ASSET.PROTOCOL and where the asset offers it; `health` seconds between two checks of the asset, 0 for none.

    `source` is whose address the asset sees: `edge` or `caller`.
    """

    __tablename__ = "services"

    name: Mapped[str] = mapped_column(String(127), primary_key=True)
    asset: Mapped[str] = mapped_column(ForeignKey("assets.name"), index=True)
    protocol: Mapped[str] = mapped_column(String(63))
    port: Mapped[int]
    port_end: Mapped[int]
    transport: Mapped[str] = mapped_column(String(3))
    connect: Mapped[str] = mapped_column(String(8), default="held", server_default="held")
    health: Mapped[int] = mapped_column(default=0, server_default="0")
    source: Mapped[str] = mapped_column(String(8), default="edge", server_default="edge")


class ListenerRow(Base):
    """A port on an edge that leads to a service; `who` is the asset its connections count as, or null for the edge."""

    __tablename__ = "listeners"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    edge: Mapped[str] = mapped_column(ForeignKey("nodes.name"), index=True)
    service: Mapped[str] = mapped_column(ForeignKey("services.name"))
    listen: Mapped[str] = mapped_column(String(255))
    transport: Mapped[str] = mapped_column(String(3))
    who: Mapped[str | None] = mapped_column(ForeignKey("assets.name"))


class InterceptRow(Base):
    """What an edge intercepts: an asset, or one of its services; `who` as in `ListenerRow`."""

    __tablename__ = "intercepts"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    edge: Mapped[str] = mapped_column(ForeignKey("nodes.name"), index=True)
    asset: Mapped[str] = mapped_column(ForeignKey("assets.name"), index=True)
    service: Mapped[str | None] = mapped_column(ForeignKey("services.name"))
    mode: Mapped[str] = mapped_column(String(16))
    who: Mapped[str | None] = mapped_column(ForeignKey("assets.name"))
    addresses: Mapped[list[str]] = mapped_column(default=list)


class InterceptPlaceRow(Base):
    """One of the addresses of an intercept, to be found by it."""

    __tablename__ = "intercept_places"
    __table_args__ = (Index(None, "edge", "place"),)

    intercept: Mapped[str] = mapped_column(
        ForeignKey("intercepts.name", ondelete="CASCADE"), primary_key=True
    )
    place: Mapped[str] = mapped_column(String(64), primary_key=True)
    edge: Mapped[str] = mapped_column(String(63))


class ConduitRow(Base):
    """A conduit. `until` 0: no end; `hold` seconds (0: close); `ended` 0: in force. With `listed` set it is a
    withdrawal in the authority, void from `withdrawn` on; it is listed until that time (A-07)."""

    __tablename__ = "conduits"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    who: Mapped[str] = mapped_column(String(127))
    to: Mapped[str] = mapped_column(String(127))
    protocol: Mapped[str] = mapped_column(String(63))
    until: Mapped[int]
    max_session: Mapped[int]
    hold: Mapped[int]
    strict: Mapped[bool]
    reason: Mapped[str] = mapped_column(String(200))
    by: Mapped[str] = mapped_column(String(63))
    created: Mapped[int]
    ended: Mapped[int] = mapped_column(default=0, index=True)
    ended_by: Mapped[str] = mapped_column(String(63), default="")
    """Who denied it; empty when its time was over."""
    end_reason: Mapped[str] = mapped_column(String(200), default="")
    withdrawn: Mapped[int] = mapped_column(default=0)
    listed: Mapped[int] = mapped_column(default=0)


class KillRow(Base):
    """A kill; `until` 0: until it is restored; `ended` 0: active. Level `circuit` is a killed session."""

    __tablename__ = "kills"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    level: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(127))
    reason: Mapped[str] = mapped_column(String(200))
    by: Mapped[str] = mapped_column(String(63))
    since: Mapped[int]
    until: Mapped[int]
    ended: Mapped[int] = mapped_column(default=0, index=True)


class UserRow(Base):
    """A person. `password` is an Argon2id PHC string; `locked` is until when log-ins are refused."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(ForeignKey("names.name"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    password: Mapped[str] = mapped_column(String(255))
    created: Mapped[int]
    failures: Mapped[int] = mapped_column(default=0)
    locked: Mapped[int] = mapped_column(default=0)


class LoginRow(Base):
    """A login session, by the SHA-256 of its token: the store alone opens nothing."""

    __tablename__ = "logins"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.name", ondelete="CASCADE"), index=True)
    created: Mapped[int]
    used: Mapped[int]
    expires: Mapped[int]


class CircuitRow(Base):
    """A session as `ferrule sessions` shows it: a projection of the audit log. `ended` 0: live. Each node that says
    that it hosts a circuit has a row of its own (U-07).
    """

    __tablename__ = "circuits"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    node: Mapped[str] = mapped_column(String(63), primary_key=True)
    who: Mapped[str] = mapped_column(String(255))
    via: Mapped[str] = mapped_column(String(255))
    asset: Mapped[str] = mapped_column(String(255))
    service: Mapped[str] = mapped_column(String(255))
    address: Mapped[str] = mapped_column(String(255))
    path: Mapped[list[str]]
    conduit: Mapped[str] = mapped_column(String(255))
    started: Mapped[int] = mapped_column(index=True)
    ended: Mapped[int] = mapped_column(default=0)
    end_reason: Mapped[str] = mapped_column(String(200), default="")
    bytes_in: Mapped[int] = mapped_column(default=0)
    bytes_out: Mapped[int] = mapped_column(default=0)
    moves: Mapped[int] = mapped_column(default=0, server_default="0")
    key_exchange: Mapped[str] = mapped_column(String(63))
    integrity: Mapped[str] = mapped_column(String(16))

    __table_args__ = (Index("ix_circuits_ended_node", "ended", "node"),)


class RecordRow(Base):
    """A record of the log: `leaf` is the record, all else is for searching and is checked against it by `verify`."""

    __tablename__ = "records"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    leaf: Mapped[bytes]
    hash: Mapped[bytes]
    node: Mapped[str] = mapped_column(String(255))
    generation: Mapped[int]
    number: Mapped[int]
    time: Mapped[int] = mapped_column(index=True)
    event: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(16))
    who: Mapped[str] = mapped_column(String(255), index=True)
    service: Mapped[str] = mapped_column(String(255), index=True)

    __table_args__ = (UniqueConstraint("node", "generation", "number"),)


class TreeRow(Base):
    """Root of a complete subtree of the log above the leaves: `level` ≥ 1, `position` counts subtrees of that level."""

    __tablename__ = "tree"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[bytes]


class LogRow(Base):
    """One row: the log's size, the roots of its maximal complete subtrees (left to right) and its signed head."""

    __tablename__ = "log"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int]
    frontier: Mapped[bytes]
    head: Mapped[bytes]
