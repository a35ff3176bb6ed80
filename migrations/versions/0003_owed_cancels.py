"""provider runs that are one too many

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-21

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "owed_cancels",
        sa.Column("provider_type", sa.String(length=32), nullable=False),
        sa.Column("provider_id", sa.String(length=255), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=36), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("provider_type", "provider_id", name=op.f("pk_owed_cancels")),
    )
    with op.batch_alter_table("owed_cancels") as batch_op:
        batch_op.create_index(batch_op.f("ix_owed_cancels_run_id"), ["run_id"], unique=False)


def downgrade():
    op.drop_table("owed_cancels")
