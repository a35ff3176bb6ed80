"""Why a run failed, for people: the first failed task with the last lines of its stderr, or the service's own words."""

from __future__ import annotations

from app.client.connection import Json
from app.client.display import Display
from app.client.errors import WesClientError
from app.client.progress import task_key
from app.client.wes_client import WesClient

TAIL_LINES = 20
SYSTEM_LINES = 5


def report_failure(client: WesClient, display: Display, run_id: str) -> None:
    """Say it once, on standard error. A log that cannot be had is left out: the run's end is what counts."""
    task = _first_failed(client, run_id)
    if task:
        display.say(f"\nTask {task.get('name') or task_key(task)} failed with exit code {task['exit_code']}.")
    if lines := (_tail(client, run_id, task_key(task)) if task else "") or _tail(client, run_id, None):
        display.say(f"Last lines of stderr:\n{lines}")
    if not task or not lines:
        for line in _system_logs(client, run_id)[-SYSTEM_LINES:]:
            display.say(line)
    display.say(f"More: wesctl show {run_id}, wesctl logs {run_id} --stderr")


def _first_failed(client: WesClient, run_id: str) -> Json | None:
    try:
        return next((task for task in client.iter_tasks(run_id) if task.get("exit_code") not in (None, 0)), None)
    except WesClientError:
        return None


def _tail(client: WesClient, run_id: str, task_id: str | None) -> str:
    try:
        return client.get_log_tail(run_id, "stderr", task_id, TAIL_LINES).decode(errors="replace").strip("\n")
    except WesClientError:
        return ""


def _system_logs(client: WesClient, run_id: str) -> list[str]:
    try:
        return [str(line) for line in (client.get_run_log(run_id).get("run_log") or {}).get("system_logs") or ()]
    except WesClientError:
        return []
