"""wesctl: runs workflows on any WES server, from a shell. Options, commands, and errors turned into exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from app.client import inspection, logs, submission
from app.client.errors import WesClientError
from app.client.exits import Exit, exit_of_error
from app.client.profile import Access, choose, read_profile
from app.client.session import Session

CODES = """\b
Exit codes of a followed run: 0 complete, 1 EXECUTOR_ERROR, 3 SYSTEM_ERROR, 4 CANCELED, 5 still running after --timeout,
130 left running by Ctrl-C. Of every command: 2 usage, 6 not found, 7 not authenticated, 8 server unreachable,
9 request invalid.
"""


class Wesctl(click.Group):
    """Client errors end the program with one line and the code that stands for them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WesClientError as error:
            _end(error.msg, exit_of_error(error))
        except KeyboardInterrupt:
            _end("Stopped", Exit.DETACHED)
        except TimeoutError as error:
            _end(str(error), Exit.TIMEOUT)
        except BrokenPipeError:  # whoever reads our output, such as `head`, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            _end(str(error), Exit.USAGE)


def _end(words: str, code: Exit) -> None:
    Session(Access()).display.say(f"Error: {words}")
    raise click.exceptions.Exit(code)


@click.group(cls=Wesctl, epilog=CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="WES_API_URL", show_envvar=True, help="The server, such as http://localhost:5000.")
@click.option("--token", envvar="WES_TOKEN", show_envvar=True, help="A bearer token; flags are seen by others.")
@click.option("--host", envvar="WES_API_HOST", show_envvar=True, help="Host and port, as wes-client has it.")
@click.option("--proto", envvar="WES_API_PROTO", show_envvar=True, default="https", help="http or https, with --host.")
@click.option("--auth", envvar="WES_API_AUTH", show_envvar=True, help="`Header: value`, or the value of Authorization.")
@click.option(
    "--profile", envvar="WES_PROFILE", show_envvar=True, default="default", help="A part of the profile file."
)
@click.option(
    "--config", "config_file", envvar="WESCTL_CONFIG", show_envvar=True,
    default=Path(click.get_app_dir("wesctl")) / "config.toml",
    type=click.Path(dir_okay=False, path_type=Path), help="The profile file, readable by you alone (0600).",
)  # fmt: skip
@click.pass_context
def main(
    ctx: click.Context, url: str | None, token: str | None, host: str | None, proto: str, auth: str | None,
    profile: str, config_file: Path,
) -> None:  # fmt: skip
    """Run workflows on any GA4GH WES server.

    RUN is a run id, the beginning of one, a run's name, or @1 for the latest run, @2 for the one before, …
    """
    given = Access(url or (f"{proto}://{host}" if host else None), token, auth)
    ctx.obj = Session(choose(given, read_profile(config_file, profile)))
    ctx.call_on_close(ctx.obj.close)


for _command in (
    submission.submit, submission.watch, inspection.status, inspection.list_, inspection.show, logs.logs,
    inspection.tasks, inspection.outputs, submission.cancel, submission.rerun, submission.delete, inspection.info,
):  # fmt: skip
    main.add_command(_command)
