"""secrets that came with runs

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-21

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "run_credentials",
        sa.Column("root_run_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["root_run_id"],
            ["workflow_runs.run_id"],
            name=op.f("fk_run_credentials_root_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("root_run_id", "kind", name=op.f("pk_run_credentials")),
    )


def downgrade():
    op.drop_table("run_credentials")
