"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_certificates")),
    )
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_certificates_key"), ["key"], unique=False)
        batch_op.create_index(batch_op.f("ix_certificates_name"), ["name"], unique=False)

    op.create_table(
        "circuits",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("node", sa.String(length=63), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("via", sa.String(length=255), nullable=False),
        sa.Column("asset", sa.String(length=255), nullable=False),
        sa.Column("service", sa.String(length=255), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("path", sa.JSON(), nullable=False),
        sa.Column("conduit", sa.String(length=255), nullable=False),
        sa.Column("started", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.Column("end_reason", sa.String(length=200), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("key_exchange", sa.String(length=63), nullable=False),
        sa.Column("integrity", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_circuits")),
    )
    with op.batch_alter_table("circuits", schema=None) as batch_op:
        batch_op.create_index("ix_circuits_ended_node", ["ended", "node"], unique=False)
        batch_op.create_index(batch_op.f("ix_circuits_started"), ["started"], unique=False)

    op.create_table(
        "conduits",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("who", sa.String(length=127), nullable=False),
        sa.Column("to", sa.String(length=127), nullable=False),
        sa.Column("protocol", sa.String(length=63), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("max_session", sa.BigInteger(), nullable=False),
        sa.Column("hold", sa.BigInteger(), nullable=False),
        sa.Column("strict", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("by", sa.String(length=63), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.Column("ended_by", sa.String(length=63), nullable=False),
        sa.Column("end_reason", sa.String(length=200), nullable=False),
        sa.Column("withdrawn", sa.BigInteger(), nullable=False),
        sa.Column("listed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conduits")),
    )
    with op.batch_alter_table("conduits", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_conduits_ended"), ["ended"], unique=False)

    op.create_table(
        "kills",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=127), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("by", sa.String(length=63), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kills")),
    )
    with op.batch_alter_table("kills", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_kills_ended"), ["ended"], unique=False)

    op.create_table(
        "log",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log")),
    )
    op.create_table(
        "names",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_names")),
    )
    op.create_table(
        "plant",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("time_zone", sa.String(length=63), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("authority", sa.BigInteger(), nullable=False),
        sa.Column("map", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.BigInteger(), nullable=False),
        sa.Column("conduits", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plant")),
    )
    op.create_table(
        "records",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("service", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_records")),
        sa.UniqueConstraint(
            "node", "generation", "number", name=op.f("uq_records_node_generation_number")
        ),
    )
    with op.batch_alter_table("records", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_records_service"), ["service"], unique=False)
        batch_op.create_index(batch_op.f("ix_records_time"), ["time"], unique=False)
        batch_op.create_index(batch_op.f("ix_records_who"), ["who"], unique=False)

    op.create_table(
        "revocations",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("by", sa.String(length=63), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_revocations")),
    )
    op.create_table(
        "tree",
        sa.Column("level", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name=op.f("pk_tree")),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password", sa.String(length=255), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("locked", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["names.name"], name=op.f("fk_users_name")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
    )
    op.create_table(
        "zones",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("level", sa.BigInteger(), nullable=True),
        sa.Column("sl", sa.BigInteger(), nullable=True),
        sa.Column("parent", sa.String(length=63), nullable=True),
        sa.ForeignKeyConstraint(["name"], ["names.name"], name=op.f("fk_zones_name")),
        sa.ForeignKeyConstraint(["parent"], ["zones.name"], name=op.f("fk_zones_parent")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_zones")),
    )
    op.create_table(
        "assets",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("mac", sa.String(length=17), nullable=False),
        sa.Column("zone", sa.String(length=63), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["names.name"], name=op.f("fk_assets_name")),
        sa.ForeignKeyConstraint(["zone"], ["zones.name"], name=op.f("fk_assets_zone")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_assets")),
    )
    op.create_table(
        "logins",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("user", sa.String(length=63), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user"], ["users.name"], name=op.f("fk_logins_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_logins")),
    )
    with op.batch_alter_table("logins", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_logins_user"), ["user"], unique=False)

    op.create_table(
        "nodes",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("zone", sa.String(length=63), nullable=True),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("dials", sa.JSON(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("local_kill", sa.String(length=200), nullable=True),
        sa.Column("local_since", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["names.name"], name=op.f("fk_nodes_name")),
        sa.ForeignKeyConstraint(["zone"], ["zones.name"], name=op.f("fk_nodes_zone")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "asset_edges",
        sa.Column("asset", sa.String(length=63), nullable=False),
        sa.Column("edge", sa.String(length=63), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["asset"], ["assets.name"], name=op.f("fk_asset_edges_asset"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["edge"], ["nodes.name"], name=op.f("fk_asset_edges_edge")),
        sa.PrimaryKeyConstraint("asset", "edge", name=op.f("pk_asset_edges")),
    )
    op.create_table(
        "services",
        sa.Column("name", sa.String(length=127), nullable=False),
        sa.Column("asset", sa.String(length=63), nullable=False),
        sa.Column("protocol", sa.String(length=63), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("port_end", sa.BigInteger(), nullable=False),
        sa.Column("transport", sa.String(length=3), nullable=False),
        sa.ForeignKeyConstraint(["asset"], ["assets.name"], name=op.f("fk_services_asset")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_services")),
    )
    with op.batch_alter_table("services", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_services_asset"), ["asset"], unique=False)

    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.LargeBinary(), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=True),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["name"], ["nodes.name"], name=op.f("fk_tokens_name"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tokens_name"), ["name"], unique=False)

    op.create_table(
        "listeners",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("edge", sa.String(length=63), nullable=False),
        sa.Column("service", sa.String(length=127), nullable=False),
        sa.Column("listen", sa.String(length=255), nullable=False),
        sa.Column("transport", sa.String(length=3), nullable=False),
        sa.Column("who", sa.String(length=63), nullable=True),
        sa.ForeignKeyConstraint(["edge"], ["nodes.name"], name=op.f("fk_listeners_edge")),
        sa.ForeignKeyConstraint(["service"], ["services.name"], name=op.f("fk_listeners_service")),
        sa.ForeignKeyConstraint(["who"], ["assets.name"], name=op.f("fk_listeners_who")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_listeners")),
    )
    with op.batch_alter_table("listeners", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_listeners_edge"), ["edge"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("listeners", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_listeners_edge"))

    op.drop_table("listeners")
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tokens_name"))

    op.drop_table("tokens")
    with op.batch_alter_table("services", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_services_asset"))

    op.drop_table("services")
    op.drop_table("asset_edges")
    op.drop_table("nodes")
    with op.batch_alter_table("logins", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_logins_user"))

    op.drop_table("logins")
    op.drop_table("assets")
    op.drop_table("zones")
    op.drop_table("users")
    op.drop_table("tree")
    op.drop_table("revocations")
    with op.batch_alter_table("records", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_records_who"))
        batch_op.drop_index(batch_op.f("ix_records_time"))
        batch_op.drop_index(batch_op.f("ix_records_service"))

    op.drop_table("records")
    op.drop_table("plant")
    op.drop_table("names")
    op.drop_table("log")
    with op.batch_alter_table("kills", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_kills_ended"))

    op.drop_table("kills")
    with op.batch_alter_table("conduits", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_conduits_ended"))

    op.drop_table("conduits")
    with op.batch_alter_table("circuits", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_circuits_started"))
        batch_op.drop_index("ix_circuits_ended_node")

    op.drop_table("circuits")
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_certificates_name"))
        batch_op.drop_index(batch_op.f("ix_certificates_key"))

    op.drop_table("certificates")
