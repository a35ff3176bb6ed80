"""What every wesctl command shares: the server, the display, and the options that many have."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import click

from app.client.display import Display
from app.client.profile import Access
from app.client.references import find_run
from app.client.wes_client import WesClient


@dataclass
class Session:
    """One call of wesctl. The server is first spoken to when a command needs it."""

    access: Access
    display: Display = field(default_factory=Display)

    @cached_property
    def client(self) -> WesClient:
        return self.access.connect()

    def find_run(self, reference: str) -> str:
        return find_run(self.client, reference)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()


class Seconds(click.ParamType[float]):
    """A number of seconds, or `30m`, `2h`, `1d`."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
        try:
            seconds = float(text[:-1]) * factor if factor else float(text)
        except ValueError:
            self.fail(f"{text!r} is no time: write seconds, or 30m, 2h, 1d", param, ctx)
        return seconds if seconds >= 0 else self.fail("a time cannot be negative", param, ctx)


class Pair(click.ParamType[tuple[str, str | None]]):
    """KEY=VALUE; where `bare` is set, KEY alone is a key without value."""

    name = "key=value"

    def __init__(self, bare: bool = False) -> None:
        self._bare = bare

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str | None]:
        key, equals, rest = str(value).partition("=")
        if not key or not (equals or self._bare):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, rest if equals else None


pass_session = click.make_pass_decorator(Session)
run_argument = click.argument("run")
json_option = click.option("--json", "as_json", is_flag=True, help="Plain JSON on standard output.")
timeout_option = click.option("--timeout", type=Seconds(), help="Watch no longer than that (exit code 5).")
