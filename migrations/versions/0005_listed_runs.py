"""lists have pipelines, not their steps: indexes of what is listed

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-21

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PLACE = ["submitted_at", "run_id"]
INDEXES = {"": PLACE, "_owner": ["owner", *PLACE], "_owner_state": ["owner", "state", *PLACE]}
LISTED = sa.text("step IS NULL")


def upgrade():
    for name, columns in INDEXES.items():
        options = {"unique": False, "sqlite_where": LISTED, "postgresql_where": LISTED}
        op.create_index(f"ix_workflow_runs_listed{name}", "workflow_runs", columns, **options)
        op.drop_index(f"ix_workflow_runs_{'_'.join(columns)}", table_name="workflow_runs")


def downgrade():
    for name, columns in INDEXES.items():
        op.create_index(f"ix_workflow_runs_{'_'.join(columns)}", "workflow_runs", columns, unique=False)
        op.drop_index(f"ix_workflow_runs_listed{name}", table_name="workflow_runs")
