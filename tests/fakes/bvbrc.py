"""A BV-BRC for tests: AppService and Workspace as JSON-RPC over HTTP, users' tokens, Slurm behind it all.

By hand: `python -m tests.fakes.bvbrc --port 9300 --speed 10`; in tests see `tests.fakes.server`. What it says follows
BV-BRC's own sources (app_service, Workspace, p3_auth); where those leave it open, or deployments differ, see `Options`.
Its errors repeat the caller's token wherever the real ones might: a client must not pass them on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from tests.fakes.bvbrc_tasks import AppService
from tests.fakes.bvbrc_users import PERL_ERROR, Options, RpcError, Users
from tests.fakes.bvbrc_workspace import Workspace
from tests.fakes.faults import Reply, Request
from tests.fakes.server import Service, serve, verb

APP_SERVICE, WORKSPACE = "/services/app_service", "/services/Workspace"
LOGS = f"{APP_SERVICE}/task_info/"
IMPATIENT = {"BVBRC_PREFLIGHT_SECONDS": "10", "BVBRC_GRACE_SECONDS": "10"}
"""Settings for who kills a daemon: what died before it was sent waits half a minute for an answer, not 25."""
BLOCKED = b"<html><head><title>Attention Required! | Cloudflare</title></head><body>You have been blocked</body></html>"
METHODS = {
    "AppService": (
        *("service_status", "enumerate_apps", "start_app2", "query_tasks", "query_task_details"),
        *("enumerate_tasks_filtered", "enumerate_tasks_qstat", "kill_task"),
    ),
    "Workspace": ("get", "ls"),
}


class Bvbrc(Service):
    """Keywords: those of `Service` and of `Options`."""

    def __init__(self, *, frozen: bool = False, speed: float = 1.0, seed: int = 0, **options: Any) -> None:
        super().__init__(frozen, speed, seed)
        self.options = Options(**options)
        self._users, self._workspace = Users(self.timeline), Workspace()
        self._apps = AppService(self.timeline, self.plans, self.options, self._workspace)
        self._parts: dict[str, Any] = {"AppService": self._apps, "Workspace": self._workspace}
        self._last_token = ""

    def operation(self, request: Request) -> str:
        """A method's name without its service; `log` for what is read below task_info."""
        if request.path.startswith(LOGS):
            return "log"
        try:
            return str(json.loads(request.body)["method"]).rpartition(".")[2]
        except (ValueError, TypeError, KeyError):
            return "?"

    def handle(self, request: Request) -> Reply:
        self._last_token = (request.headers.get("Authorization") or "").removeprefix("OAuth ")
        self._apps.url = f"http://{request.headers['Host']}{APP_SERVICE}"
        if request.path.startswith(LOGS):
            return self._log(request)
        service = {APP_SERVICE: "AppService", WORKSPACE: "Workspace"}.get(request.path.rstrip("/"))
        if request.method != "POST" or service is None:
            return self.broken(f"nothing is at {request.method} {request.path}")
        return self._call(service, request)

    def refusal(self, kind: str, seconds: float | None) -> Reply:
        again = {} if seconds is None else {"Retry-After": str(int(seconds))}
        page = {"Content-Type": "text/html; charset=UTF-8", **again}
        match kind:
            case "throttle":
                return Reply(429, b"error code: 1015", {"Content-Type": "text/plain", **again})
            case "quota":
                return _error("App service submissions are disabled\n")
            case "error":
                words = f"DBD::mysql::st execute failed: MySQL server has gone away ({self._last_token})"
                return _error(f"{words} at /kb/deployment/lib/SchedulerDB.pm line 120.\n")
            case "expired":
                return _error(f"Token validation failed: Token expired: {self._last_token}")
            case "missing":
                return _result([{}])
        return Reply(503 if kind == "unavailable" else 403, BLOCKED, page)

    def _call(self, service: str, request: Request) -> Reply:
        try:
            call = json.loads(request.body)
            if request.headers.get("Content-Type") not in ("application/json", "application/jsonrpc+json"):
                raise RpcError("Content-Type is not JSON", -32700)
            method = self._method(service, call)
            user = self._users.check(request.headers.get("Authorization"))
            return _result(method(user, *call["params"]))
        except RpcError as error:
            return _error(str(error), error.code)

    def _method(self, service: str, call: Any) -> Callable[..., list[Any]]:
        if call.get("version") != "1.1" and call.get("jsonrpc") != "2.0":
            raise RpcError("no version of JSON-RPC is named", -32600)
        package, _, name = str(call["method"]).partition(".")
        if package != service or name not in METHODS[service]:
            raise RpcError(f"'{name}' is not a valid method in service {service}.", -32601)
        method: Callable[..., list[Any]] = getattr(self._parts[service], name)
        return method

    def _log(self, request: Request) -> Reply:
        scheme, _, token = (request.headers.get("Authorization") or "").partition(" ")
        try:
            self._users.check(token if scheme == "OAuth" else None)
        except RpcError as error:
            return Reply(401, str(error).encode())
        task_id, _, stream = request.path.removeprefix(LOGS).partition("/")
        text = self._apps.log(task_id) if stream == "stdout" else None
        return Reply(404, b"Not Found") if text is None else Reply(200, text.encode(), {"Content-Type": "text/plain"})

    @verb
    def token(self, user: str = "alice@patricbrc.org", seconds: float = 86_400) -> str:
        """A token that is good for so many seconds."""
        return self._users.token(user, seconds)

    @verb
    def revoke(self, user: str = "alice@patricbrc.org") -> None:
        """From now on no token of this user is taken."""
        self._users.revoke(user)

    @verb
    def tasks(self) -> list[dict[str, Any]]:
        """All tasks: id, owner, app, state code, Slurm's word, user_metadata, params, how often they began."""
        names = ("id", "owner", "app", "code", "slurm", "params", "starts")
        return [
            {name: getattr(task, name) for name in names} | {"user_metadata": task.start.get("user_metadata")}
            for task in self._apps.tasks.values()
        ]

    @verb
    def set_task(self, id: int, **values: Any) -> None:
        """Force what a task says of itself: `code` (a key of TASK_STATES), `slurm`, `exit_code`."""
        for name, value in values.items():
            setattr(self._apps.tasks[id], name, value)

    @verb
    def lose_task(self, id: int) -> None:
        """Forget a task as if it had never been; its results stay."""
        del self._apps.tasks[id]

    @verb
    def put(self, path: str, text: str, **how: Any) -> None:
        """Keep an object in the Workspace; `kind`, `is_elsewhere`."""
        self._workspace.put(path, text, **how)

    @verb
    def remove(self, path: str) -> None:
        """Remove an object and what is below it."""
        self._workspace.remove(path)

    @verb
    def text(self, path: str) -> str:
        """What an object of the Workspace holds."""
        return self._workspace.text(path)

    @verb
    def configure(self, **options: Any) -> None:
        """Change `Options`."""
        names = [field.name for field in fields(Options)]
        for name, value in options.items():
            if name not in names:
                raise TypeError(f"no such option: {name}, only {', '.join(names)}")
            setattr(self.options, name, value)


def addresses(url: str) -> dict[str, str]:
    """The settings that lead to the fake there."""
    return {"BVBRC_SERVICE_URL": f"{url}{APP_SERVICE}", "BVBRC_WORKSPACE_URL": f"{url}{WORKSPACE}"}


def _result(value: list[Any]) -> Reply:
    return Reply.of_json(200, {"jsonrpc": "2.0", "id": "1", "result": value})


def _error(message: str, code: int = PERL_ERROR) -> Reply:
    error = {"name": "JSONRPCError", "code": code, "message": message, "error": message}
    return Reply.of_json(500, {"jsonrpc": "2.0", "id": "1", "error": error})


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake of BV-BRC")
    parser.add_argument("--port", type=int, default=9300)
    parser.add_argument("--speed", type=float, default=1.0, help="divides the seconds of every state")
    parser.add_argument("--frozen", action="store_true", help="only the control API moves the clock")
    arguments = vars(parser.parse_args())
    port = arguments.pop("port")
    fake = Bvbrc(**arguments)
    serve(
        fake,
        port,
        lambda url: {**addresses(url), "BVBRC_TOKEN": f"'{fake.token()}'"},  # for requests, in X-BVBRC-Token
    )


if __name__ == "__main__":
    main()
