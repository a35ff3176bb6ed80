"""What people call a run: its id, the beginning of it, its name, or `@1` for the latest. Changes nothing."""

from __future__ import annotations

import re
from itertools import islice

from app.client.connection import Json
from app.client.errors import Invalid, RunNotFound
from app.client.wes_client import WesClient

SEARCHED_RUNS = 5000
_PAGE = 500
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def find_run(client: WesClient, reference: str) -> str:
    """The run id. Raises RunNotFound, and Invalid where the reference fits several runs."""
    if _UUID.fullmatch(reference):
        return reference
    if reference.startswith("@"):
        return _latest(client, reference)
    try:
        return str(client.get_run_status(reference)["run_id"])
    except (RunNotFound, Invalid, KeyError):
        return _only(reference, _matches(client, reference))


def _latest(client: WesClient, reference: str) -> str:
    if not re.fullmatch(r"@[1-9][0-9]{0,3}", reference):
        raise Invalid(f"{reference!r}: write @1 for the latest run, @2 for the one before it, …")
    place = int(reference[1:])
    for run in islice(client.iter_runs(page_size=place), place - 1, place):
        return str(run["run_id"])
    raise RunNotFound(f"There is no run {reference}")


def _matches(client: WesClient, reference: str) -> list[Json]:
    """Runs with that name (our server looks them up), else those whose id begins so, among the newest."""
    named = islice(client.iter_runs(page_size=_PAGE, name=reference), SEARCHED_RUNS)
    if found := [run for run in named if name_of(run) == reference]:
        return found
    newest = islice(client.iter_runs(page_size=_PAGE), SEARCHED_RUNS)
    return [run for run in newest if str(run["run_id"]).startswith(reference)]


def _only(reference: str, matches: list[Json]) -> str:
    if not matches:
        raise RunNotFound(f"There is no run {reference!r}: neither an id, nor the beginning of one, nor a name")
    if len(matches) > 1:
        shown = ", ".join(str(run["run_id"]) for run in matches[:5])
        raise Invalid(f"{reference!r} fits {len(matches)} runs, such as {shown}: say which")
    return str(matches[0]["run_id"])


def name_of(run: Json) -> str:
    """A run's name: our server has a field for it, elsewhere wesctl's own tag carries it."""
    return str(run.get("name") or (run.get("tags") or {}).get("name") or "")
