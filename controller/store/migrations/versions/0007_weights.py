"""How the edges before an asset that have one priority share its circuits."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("asset_edges", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("weight", sa.BigInteger(), server_default="0", nullable=False)
        )


def downgrade() -> None:
    with op.batch_alter_table("asset_edges", schema=None) as batch_op:
        batch_op.drop_column("weight")
