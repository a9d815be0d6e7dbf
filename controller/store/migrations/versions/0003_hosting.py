"""How edges treat a service: when callers are answered, how often the asset is checked, whose address it sees."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("services", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("connect", sa.String(length=8), server_default="held", nullable=False)
        )
        batch_op.add_column(
            sa.Column("health", sa.BigInteger(), server_default="0", nullable=False)
        )
        batch_op.add_column(
            sa.Column("source", sa.String(length=8), server_default="edge", nullable=False)
        )


def downgrade() -> None:
    with op.batch_alter_table("services", schema=None) as batch_op:
        for column in ("source", "health", "connect"):
            batch_op.drop_column(column)
