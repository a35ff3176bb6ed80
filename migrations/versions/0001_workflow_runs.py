"""workflow runs

Revision ID: 0001
Revises:
Create Date: 2026-11-20

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "daemons",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=36), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("offers", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_daemons")),
    )
    with op.batch_alter_table("daemons", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_daemons_host"), ["host"], unique=False)

    op.create_table(
        "run_counts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_counts")),
    )
    with op.batch_alter_table("run_counts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_counts_owner_state"), ["owner", "state"], unique=False)

    op.create_table(
        "workflow_runs",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("workflow_type", sa.String(length=32), nullable=False),
        sa.Column("workflow_type_version", sa.String(length=32), nullable=False),
        sa.Column("workflow_url", sa.Text(), nullable=False),
        sa.Column("workflow_params", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("workflow_engine", sa.String(length=64), nullable=True),
        sa.Column("workflow_engine_version", sa.String(length=64), nullable=True),
        sa.Column("workflow_engine_parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("idempotency_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("provider_type", sa.String(length=32), nullable=False),
        sa.Column("provider_id", sa.String(length=255), nullable=True),
        sa.Column("provider_status", sa.Text(), nullable=True),
        sa.Column("provider_metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("host", sa.String(length=36), nullable=True),
        sa.Column("submit_key", sa.String(length=128), nullable=True),
        sa.Column("submit_request", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("submit_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cmd", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("outputs", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim", sa.String(length=64), nullable=True),
        sa.Column("hints", sa.Integer(), nullable=False),
        sa.Column("unreleased_claims", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("waiting_for", sa.Text(), nullable=True),
        sa.Column("log_wanted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("step", sa.String(length=255), nullable=True),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("try", sa.Integer(), nullable=False),
        sa.Column("reused_from", sa.String(length=36), nullable=True),
        sa.CheckConstraint(
            "(due_at IS NULL) = (state IN ('CANCELED', 'COMPLETE', 'EXECUTOR_ERROR', 'SYSTEM_ERROR'))",
            name=op.f("ck_workflow_runs_due"),
        ),
        sa.CheckConstraint(
            "state IN ('CANCELED', 'CANCELING', 'COMPLETE', 'EXECUTOR_ERROR', 'INITIALIZING', 'PAUSED', 'QUEUED', 'RUNNING', 'SYSTEM_ERROR')",
            name=op.f("ck_workflow_runs_state"),
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["workflow_runs.run_id"], name=op.f("fk_workflow_runs_parent_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_workflow_runs")),
        sa.UniqueConstraint("owner", "idempotency_key", name=op.f("uq_workflow_runs_owner_idempotency_key")),
        sa.UniqueConstraint(
            "parent_id", "step", "shard", "try", name=op.f("uq_workflow_runs_parent_id_step_shard_try")
        ),
        sa.UniqueConstraint("provider_type", "provider_id", name=op.f("uq_workflow_runs_provider_type_provider_id")),
    )
    with op.batch_alter_table("workflow_runs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_workflow_runs_known",
            ["provider_type", "due_at"],
            unique=False,
            sqlite_where=sa.text("state <> 'QUEUED' AND due_at IS NOT NULL"),
            postgresql_where=sa.text("state <> 'QUEUED' AND due_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_workflow_runs_new",
            ["provider_type", "due_at"],
            unique=False,
            sqlite_where=sa.text("state = 'QUEUED'"),
            postgresql_where=sa.text("state = 'QUEUED'"),
        )
        batch_op.create_index(
            batch_op.f("ix_workflow_runs_owner_state_submitted_at_run_id"),
            ["owner", "state", "submitted_at", "run_id"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_workflow_runs_owner_submitted_at_run_id"), ["owner", "submitted_at", "run_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_workflow_runs_submitted_at_run_id"), ["submitted_at", "run_id"], unique=False
        )

    op.create_table(
        "attachments",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["workflow_runs.run_id"], name=op.f("fk_attachments_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_attachments")),
    )
    with op.batch_alter_table("attachments", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_attachments_sha256"), ["sha256"], unique=False)

    op.create_table(
        "run_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=True),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"], ["workflow_runs.run_id"], name=op.f("fk_run_events_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_events")),
    )
    with op.batch_alter_table("run_events", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_events_run_id"), ["run_id"], unique=False)

    op.create_table(
        "run_tags",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=1024), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["workflow_runs.run_id"], name=op.f("fk_run_tags_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_run_tags")),
    )
    with op.batch_alter_table("run_tags", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_run_tags_key_value_run_id"), ["key", "value", "run_id"], unique=False)

    op.create_table(
        "task_logs",
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cmd", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("system_logs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("has_stdout", sa.Boolean(), nullable=False),
        sa.Column("has_stderr", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["workflow_runs.run_id"], name=op.f("fk_task_logs_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "task_id", name=op.f("pk_task_logs")),
    )
    with op.batch_alter_table("task_logs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_task_logs_run_id_position"), ["run_id", "position"], unique=False)


def downgrade():
    with op.batch_alter_table("task_logs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_task_logs_run_id_position"))

    op.drop_table("task_logs")
    with op.batch_alter_table("run_tags", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_tags_key_value_run_id"))

    op.drop_table("run_tags")
    with op.batch_alter_table("run_events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_events_run_id"))

    op.drop_table("run_events")
    with op.batch_alter_table("attachments", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attachments_sha256"))

    op.drop_table("attachments")
    with op.batch_alter_table("workflow_runs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_workflow_runs_submitted_at_run_id"))
        batch_op.drop_index(batch_op.f("ix_workflow_runs_owner_submitted_at_run_id"))
        batch_op.drop_index(batch_op.f("ix_workflow_runs_owner_state_submitted_at_run_id"))
        batch_op.drop_index(
            "ix_workflow_runs_new",
            sqlite_where=sa.text("state = 'QUEUED'"),
            postgresql_where=sa.text("state = 'QUEUED'"),
        )
        batch_op.drop_index(
            "ix_workflow_runs_known",
            sqlite_where=sa.text("state <> 'QUEUED' AND due_at IS NOT NULL"),
            postgresql_where=sa.text("state <> 'QUEUED' AND due_at IS NOT NULL"),
        )

    op.drop_table("workflow_runs")
    with op.batch_alter_table("run_counts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_run_counts_owner_state"))

    op.drop_table("run_counts")
    with op.batch_alter_table("daemons", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_daemons_host"))

    op.drop_table("daemons")
