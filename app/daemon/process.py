"""The daemon as a process: settings to objects, the lock of its host, signals, exit codes."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from app import metrics
from app.artifacts import ArtifactStorage, make_storage
from app.clock import utc_now
from app.credentials import BVBRC, StoredCredentials, Vault
from app.daemon.claimed_runs import Policy
from app.daemon.measures import ErrorCounter
from app.daemon.notification_server import MetricsPage, NotificationServer
from app.daemon.pipeline_store import PipelineStore
from app.daemon.providers.provider_factory import aws_access, make_provider
from app.daemon.queue_gauges import QueueGauges
from app.daemon.run_logs import RunLogs
from app.daemon.workflow_daemon import WorkflowDaemon
from app.database import Database
from app.models import Daemon, WorkflowRun
from app.routing import Rules
from app.version import VERSION
from config import LOOPBACK_HOSTS, Settings

log = logging.getLogger(__name__)


class Exit(IntEnum):
    """Exit codes of the daemon's process."""

    STOPPED = 0  # asked to by TERM or INT; every step finished, every claim given back
    SETTINGS = 2  # the settings cannot be used
    DATABASE = 3  # the database cannot be reached, or its tables are missing
    RUNNING_ALREADY = 4  # another daemon holds this DATA_DIR
    PORT_TAKEN = 5  # the notification port is in use
    KILLED = 6  # a second signal: steps were cut off, their leases run out by themselves
    STORAGE = 7  # artifact storage cannot be used


class CannotStart(Exception):
    """Why, in words for the operator, and the exit code that says so."""

    def __init__(self, code: Exit, words: str) -> None:
        super().__init__(words)
        self.code = code


def run(settings: Settings) -> Exit:
    """Serve until TERM or INT. Raises CannotStart. A second signal ends the process at once with Exit.KILLED."""
    with _only_one(settings.data_dir) as host:
        database, storage = _open_database(settings), _open_storage(settings)
        run_logs = RunLogs(database, storage, settings.max_log_bytes)
        database.listeners.append(run_logs.listen)
        daemon = _build(settings, database, storage, host)
        listener = _listen(settings, daemon, _metrics_page(settings, database, daemon))
        stopping = _stop_on_signals()
        daemon.start()
        run_logs.start()
        listener.start()
        log.info("daemon started", extra={"host": host, "providers": list(settings.providers), "port": listener.port})
        with _event_queue(settings, daemon):
            stopping.wait()
            log.info("daemon stopping: steps under way are finished, engines go on")
        listener.stop()
        daemon.stop()
        run_logs.stop()
    return Exit.STOPPED


def _build(settings: Settings, database: Database, storage: ArtifactStorage, host: str) -> WorkflowDaemon:
    now = utc_now()
    identity = Daemon(
        id=str(uuid.uuid4()), host=host, hostname=socket.gethostname(), version=VERSION, started_at=now, last_seen=now
    )
    policy = Policy(
        give_up_after=settings.give_up_after,
        lost_looks=settings.provider_lost_looks,
        lost_seconds=settings.provider_lost_seconds,
        longest_look_seconds=settings.daemon_status_check_interval,
        max_log_bytes=settings.max_log_bytes,
    )
    pipelines = PipelineStore(database, storage, utc_now, Rules(settings.default_wes_provider, settings.file_roots))
    tokens = StoredCredentials(database, Vault(settings.credential_keys()), BVBRC)
    daemon = WorkflowDaemon(
        [make_provider(name, settings, host, pipelines, tokens) for name in settings.providers],
        database,
        storage,
        identity=identity,
        now=utc_now,
        lease_seconds=settings.lease_seconds,
        poll_seconds=settings.daemon_poll_interval,
        workers=settings.daemon_max_concurrent_workflows,
        host_lost_after=settings.host_lost_after,
        policy=policy,
    )
    pipelines.wake = daemon.wake
    return daemon


def _event_queue(settings: Settings, daemon: WorkflowDaemon) -> AbstractContextManager[object]:
    """While it is open, what HealthOmics tells of its runs becomes hints, where a queue for that is set up."""
    told = [loop.provider for loop in daemon.loops if loop.provider.name == "healthomics"]
    if not told or not settings.healthomics_event_queue_url:
        return nullcontext()
    from app.daemon.event_queue import EventQueue, RunChanged

    def tell(event: RunChanged) -> None:
        told[0].has_changed(event.provider_id)
        daemon.hint(event.run_id)

    return EventQueue(aws_access(settings), settings.healthomics_event_queue_url, tell)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[str]:
    """Hold DATA_DIR's lock; yields the host's id, a uuid that lives in that directory."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "daemon.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = f"Another daemon works on {data_dir}. Give each daemon a DATA_DIR of its own."
            raise CannotStart(Exit.RUNNING_ALREADY, words) from None
        yield _host_id(data_dir / "host_id")


def _host_id(path: Path) -> str:
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.write_text(str(uuid.uuid4()))
        fresh.replace(path)
    return path.read_text().strip()


def _open_database(settings: Settings) -> Database:
    database = Database.connect(settings.database_url)
    try:
        if not inspect(database.engine).has_table(WorkflowRun.__tablename__):
            words = "The database has no tables yet. Run: flask --app application db upgrade"
            raise CannotStart(Exit.DATABASE, words)
    except DBAPIError as error:
        raise CannotStart(Exit.DATABASE, f"The database cannot be reached: {error.orig}") from None
    return database


def _open_storage(settings: Settings) -> ArtifactStorage:
    storage = make_storage(settings)
    if problem := storage.problem():
        raise CannotStart(Exit.STORAGE, problem)
    return storage


def _metrics_page(settings: Settings, database: Database, daemon: WorkflowDaemon) -> MetricsPage:
    """From now on everything that is measured is counted."""
    database.listeners.append(metrics.count)
    logging.getLogger().addHandler(ErrorCounter())
    gauges = CollectorRegistry()
    gauges.register(QueueGauges(database, [loop.provider.name for loop in daemon.loops], utc_now))
    token = settings.daemon_metrics_token.get_secret_value()
    is_on_loopback = settings.daemon_notification_host in LOOPBACK_HOSTS
    return MetricsPage(lambda: metrics.exposition(gauges), token, is_on_loopback)


def _listen(settings: Settings, daemon: WorkflowDaemon, page: MetricsPage) -> NotificationServer:
    host, port = settings.daemon_notification_host, settings.daemon_notification_port
    try:
        return NotificationServer(host, port, daemon.hint, settings.daemon_notification_secret, page)
    except OSError as error:
        words = f"The notification listener cannot use {host}:{port} ({error.strerror}). Set DAEMON_NOTIFICATION_PORT."
        raise CannotStart(Exit.PORT_TAKEN, words) from None


def _stop_on_signals() -> threading.Event:
    """The first TERM or INT sets the event, the second ends the process."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        if stopping.is_set():
            os._exit(Exit.KILLED)
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping
