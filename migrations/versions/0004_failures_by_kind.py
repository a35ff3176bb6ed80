"""what was counted as one: misses, refused outputs, failures of this service

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-21

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade():
    for name in ("refusals", "misses"):
        op.add_column("workflow_runs", sa.Column(name, sa.Integer(), server_default="0", nullable=False))


def downgrade():
    for name in ("misses", "refusals"):
        op.drop_column("workflow_runs", name)
