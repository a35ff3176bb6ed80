"""The Seven Bridges platform's API as sevenbridges-python speaks it, with tasks that live on a clock.

By hand: `python -m tests.fakes.sevenbridges --port 9200 --speed 10`; in tests see `tests.fakes.server`. Paths are the library's
own, and every answer is held against the fields that it declares: what it could not read is a 500 with the header
`x-fake-violation` and an entry in `control.problems()`.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from tests.fakes.faults import Reply, Request
from tests.fakes.sb_apps import Apps
from tests.fakes.sb_files import Files, Imports, Volumes, fetcher
from tests.fakes.sb_library import find, problems
from tests.fakes.sb_platform import ApiError, Call, Json, Options, Platform, Projects, Users
from tests.fakes.sb_tasks import Tasks
from tests.fakes.server import Service, serve, verb

CONTENT = "/content/"
CREATED = (
    *("tasks.create", "tasks.clone", "apps.install", "apps.create_revision"),
    *("files.create_folder", "volumes.create", "imports.submit"),
)

REFUSALS = {
    "throttle": ApiError(429, 1000, "Rate limit exceeded! Check response headers."),
    "quota": ApiError(403, 4001, "Insufficient privileges to access the requested billing group."),
    "error": ApiError(500, 9999, "Internal error"),
    "unavailable": ApiError(503, 0, "Platform is currently under maintenance."),
    "expired": ApiError(401, 1002, "Unauthorized"),
    "denied": ApiError(403, 3001, "Not enough privileges to access the requested project."),
    "missing": ApiError(404, 7002, "Requested resource does not exist."),
}


class SevenBridges(Service):
    """One user with a project `<user>/wes` and an app `<user>/wes/hello`. Keywords: those of `Service` and of `Options`."""

    def __init__(
        self,
        *,
        token: str = "fake-token",
        user: str = "fake-user",
        s3_endpoint: str | None = None,
        frozen: bool = False,
        speed: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(frozen, speed, seed)
        self.token, self.options = token, Options(**options)
        self._platform = Platform(self.timeline, self.options, user, seed)
        self._files, volumes, apps = Files(self._platform), Volumes(self._platform), Apps(self._platform)
        self._tasks = Tasks(self._platform, apps, self._files, self.plans)
        self._parts = {
            "tasks": self._tasks,
            "apps": apps,
            "files": self._files,
            "volumes": volumes,
            "imports": Imports(self._platform, self._files, volumes, self.plans, fetcher(s3_endpoint)),
            "projects": Projects(self._platform),
            "users": Users(self._platform),
        }

    def operation(self, request: Request) -> str:
        if request.path.startswith(CONTENT):
            return "files.content"
        found = find(request.method, request.path.removeprefix("/v2"))
        return found[0].name if found else "unknown"

    def handle(self, request: Request) -> Reply:
        if request.path.startswith(CONTENT):
            return self._files.content(request.path.removeprefix(CONTENT), request.headers.get("Range"))
        self._platform.base = f"http://{request.headers.get('Host')}/v2"
        given = (
            request.headers.get("X-SBG-Auth-Token") or (request.headers.get("Authorization") or "")[len("Bearer ") :]
        )
        headers = self._platform.spend(given)
        try:
            if given != self.token:
                raise REFUSALS["expired"]
            if self._platform.is_spent(given):
                raise REFUSALS["throttle"]
            return self._answer(request, headers)
        except ApiError as error:
            return Reply.of_json(error.status, error.record, headers)

    def refusal(self, kind: str, seconds: float | None) -> Reply:
        headers = self._platform.spend(self.token)
        if seconds is not None:
            reset = int(self.timeline.now().timestamp() + seconds)
            headers |= {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)}
        return Reply.of_json(REFUSALS[kind].status, REFUSALS[kind].record, headers)

    def _answer(self, request: Request, headers: dict[str, str]) -> Reply:
        path = request.path.removeprefix("/v2")
        found = find(request.method, path)
        if found is None or not request.path.startswith("/v2/"):
            return self.broken(f"{request.method} {request.path} is not in this fake")
        operation, names = found
        part, _, method = operation.name.partition(".")
        call = Call.of(request, path, names)
        answer = self._platform.rate(self.token) if part == "rate_limit" else getattr(self._parts[part], method)(call)
        if operation.shape == "page":
            answer, total = answer
            headers["x-total-matching-query"] = str(total)
        if answer is None:
            return Reply(204, b"", headers)
        if wrong := list(problems(operation, answer)):
            return self.broken("; ".join(wrong))
        return Reply.of_json(201 if operation.name in CREATED else 200, answer, headers)

    @verb
    def set_task(self, id: str, status: str) -> None:
        """Put a task into a state; it stays there until it is told, run or aborted."""
        self._tasks.enter(self._tasks.tasks[id], status, moves=False)

    @verb
    def tasks(self) -> list[Json]:
        """Every task there is: id, name, status, and how often it was started."""
        return [
            {"id": task.id, "name": task.asked["name"], "status": task.status, "starts": task.starts}
            for task in self._tasks.tasks.values()
        ]

    @verb
    def add_file(self, name: str, text: str, project: str | None = None, parent: str | None = None) -> str:
        """A file in a project (the user's own by default), or in a folder of it; its id."""
        return self._files.add(name, text.encode(), project or f"{self._platform.user}/wes", parent=parent).id

    @verb
    def add_folder(self, name: str, parent: str | None = None) -> str:
        """A folder of the user's own project, or of a folder of it; its id."""
        return self._files.add_folder(name, f"{self._platform.user}/wes", parent).id

    @verb
    def lose_task(self, id: str) -> None:
        """The platform knows this task no more."""
        del self._tasks.tasks[id]

    @verb
    def configure(self, **options: Any) -> None:
        """Change `Options` of a running fake."""
        names = [field.name for field in fields(Options)]
        for name, value in options.items():
            if name not in names:
                raise TypeError(f"no such option: {name}, only {', '.join(names)}")
            setattr(self.options, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake of the Seven Bridges platform")
    parser.add_argument("--port", type=int, default=9200)
    parser.add_argument("--token", default="fake-token")
    parser.add_argument("--user", default="fake-user")
    parser.add_argument("--speed", type=float, default=1.0, help="divides the seconds of every state")
    parser.add_argument("--frozen", action="store_true", help="only the control API moves the clock")
    parser.add_argument("--s3-endpoint", help="read what imports name here, e.g. a moto server")
    arguments = vars(parser.parse_args())
    port = arguments.pop("port")
    serve(
        SevenBridges(**arguments),
        port,
        lambda url: {
            "PROVIDERS": "local,sevenbridges",
            "SEVENBRIDGES_API_ENDPOINT": f"{url}/v2",
            "SEVENBRIDGES_API_TOKEN": arguments["token"],
            "SEVENBRIDGES_PROJECT": f"{arguments['user']}/wes",
        },
    )


if __name__ == "__main__":
    main()
