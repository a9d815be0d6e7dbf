"""Intercepts, the pools of edges, and the places of assets in them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("plant", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("numbers", sa.BigInteger(), server_default="0", nullable=False)
        )
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pools", sa.JSON(), server_default="[]", nullable=False))
    with op.batch_alter_table("assets", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("number", sa.BigInteger(), server_default="0", nullable=False)
        )
    op.create_table(
        "intercepts",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("edge", sa.String(length=63), nullable=False),
        sa.Column("asset", sa.String(length=63), nullable=False),
        sa.Column("service", sa.String(length=127), nullable=True),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=63), nullable=True),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["asset"], ["assets.name"], name=op.f("fk_intercepts_asset")),
        sa.ForeignKeyConstraint(["edge"], ["nodes.name"], name=op.f("fk_intercepts_edge")),
        sa.ForeignKeyConstraint(["service"], ["services.name"], name=op.f("fk_intercepts_service")),
        sa.ForeignKeyConstraint(["who"], ["assets.name"], name=op.f("fk_intercepts_who")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_intercepts")),
    )
    with op.batch_alter_table("intercepts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_intercepts_edge"), ["edge"], unique=False)
        batch_op.create_index(batch_op.f("ix_intercepts_asset"), ["asset"], unique=False)
    op.create_table(
        "intercept_places",
        sa.Column("intercept", sa.String(length=255), nullable=False),
        sa.Column("place", sa.String(length=64), nullable=False),
        sa.Column("edge", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(
            ["intercept"],
            ["intercepts.name"],
            name=op.f("fk_intercept_places_intercept"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("intercept", "place", name=op.f("pk_intercept_places")),
    )
    with op.batch_alter_table("intercept_places", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_intercept_places_edge_place"), ["edge", "place"], unique=False
        )


def downgrade() -> None:
    op.drop_table("intercept_places")
    op.drop_table("intercepts")
    for table, column in (("assets", "number"), ("nodes", "pools"), ("plant", "numbers")):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
