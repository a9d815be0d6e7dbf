"""A circuit has a row for each node that says that it hosts it: the first one no longer owns the name of another's."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_KEY = "pk_circuits"
_LATER = """
DELETE FROM circuits WHERE EXISTS (
    SELECT 1 FROM circuits AS other WHERE other.id = circuits.id
    AND (other.started < circuits.started
         OR (other.started = circuits.started AND other.node < circuits.node))
)
"""


def upgrade() -> None:
    _key("id", "node")


def downgrade() -> None:
    op.execute(sa.text(_LATER))
    _key("id")


def _key(*columns: str) -> None:
    with op.batch_alter_table("circuits", schema=None) as batch_op:
        batch_op.drop_constraint(_KEY, type_="primary")
        batch_op.create_primary_key(_KEY, list(columns))
