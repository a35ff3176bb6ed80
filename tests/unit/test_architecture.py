"""The rules of the tree that import-linter cannot see, held against the code itself."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"
MODULES = sorted([*APP.rglob("*.py"), ROOT / "config.py", ROOT / "application.py", *(ROOT / "scripts").glob("*.py")])
NOT_OURS_TO_NAME = {"utils", "util", "helpers", "helper", "common", "base", "manager", "managers", "misc"}
STATE_OWNERS = ("app/runs/", "app/client/")
"""The client sees no rows: import-linter keeps it away from them."""
SQL_OWNERS = ("app/runs/", "app/models.py", "app/database.py", "app/fleet.py", "app/accounts.py", "app/credentials.py")
"""The tables of runs, daemons, users and secrets; each has one module, or one package, that knows SQL."""
NO_SQL = {"Session", "Engine", "inspect"}
"""What others may import from SQLAlchemy, besides its exceptions: names for types, and whether a table is there."""
RUNS_SQL = {"execute", "scalars", "scalar", "query", "add", "add_all", "merge", "get_one", "bulk_insert_mappings"}
READS_ENVIRONMENT = (
    "config.py", "scripts/", "app/client/", "app/daemon/engines/fork_server.py", "app/shared_counts.py",
)  # fmt: skip
"""Settings; scripts, which hand it on; wesctl, which has variables of its own; the fork server, which empties it; what
prometheus_client is told in no other way."""
IMPORTS_NOTHING = ("app/__init__.py",)
"""So that importing a part imports only that part."""


def module(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), module(path))


def breaches(find: Callable[[ast.AST], str | None], allowed: tuple[str, ...]) -> list[str]:
    """Where `find` finds something, outside of what is allowed."""
    return [
        f"{module(path)}:{getattr(node, 'lineno', 1)} {found}"
        for path in MODULES
        if not module(path).startswith(allowed)
        for node in ast.walk(parsed(path))
        if (found := find(node))
    ]


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement assigns to, with tuples taken apart."""
    match node:
        case ast.Assign(targets=found):
            waiting = list(found)
        case ast.AugAssign(target=one) | ast.AnnAssign(target=one) | ast.For(target=one) | ast.NamedExpr(target=one):
            waiting = [one]
        case _:
            waiting = []
    while waiting:
        one = waiting.pop()
        if isinstance(one, ast.Tuple | ast.List):
            waiting += one.elts
        else:
            yield one


def assigns_state(node: ast.AST) -> str | None:
    """`run.state = …`, `setattr(run, "state", …)`, `WorkflowRun(state=…)`."""
    for target in targets(node):
        if isinstance(target, ast.Attribute) and target.attr == "state" and not _is_self(target.value):
            return "assigns .state"
    match node:
        case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value="state"), *_]):
            return "sets state by setattr"
        case ast.Call(func=ast.Name(id="WorkflowRun"), keywords=[_, *_]):
            return "makes a WorkflowRun"
    return None


def _is_self(value: ast.expr) -> bool:
    """An object's own `state` is not a run's."""
    return isinstance(value, ast.Name) and value.id == "self"


def speaks_sql(node: ast.AST) -> str | None:
    match node:
        case ast.ImportFrom(module=str(name), names=names) if name.split(".")[0] == "sqlalchemy":
            if name != "sqlalchemy.exc" and (more := {alias.name for alias in names} - NO_SQL):
                return f"imports {', '.join(sorted(more))} from {name}"
        case ast.Import(names=names) if any(alias.name.split(".")[0] == "sqlalchemy" for alias in names):
            return "imports sqlalchemy"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="session" | "connection"), attr=attr)) if attr in RUNS_SQL:
            return f"calls session.{attr}"
    return None


def reads_environment(node: ast.AST) -> str | None:
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "putenv" as name):
            return f"uses os.{name}"
        case ast.ImportFrom(module="os", names=names) if {alias.name for alias in names} & {"environ", "getenv"}:
            return "imports the environment"
    return None


def drops_rows(node: ast.AST) -> str | None:
    """A function that executes a SELECT and does not look at the result."""
    if not isinstance(node, ast.FunctionDef):
        return None
    selects = {
        target.id
        for part in ast.walk(node)
        for target in targets(part)
        if isinstance(target, ast.Name) and _root(getattr(part, "value", None)) == "select"
    }
    for part in ast.walk(node):
        match part:
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr="execute" | "scalars"), args=[query, *_])):
                if _root(query) in selects | {"select"}:
                    return f"drops the rows of a select in {node.name}"
    return None


def _root(expression: ast.expr | None) -> str | None:
    """The name that a chain of calls begins with: `select` of `select(…).where(…)`."""
    while isinstance(expression, ast.Call | ast.Attribute):
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    return expression.id if isinstance(expression, ast.Name) else None


def test_only_runs_change_a_state() -> None:
    assert breaches(assigns_state, STATE_OWNERS) == []


def test_sql_lives_with_its_tables() -> None:
    assert breaches(speaks_sql, SQL_OWNERS) == []


def test_every_result_is_read() -> None:
    """One that is left open keeps SQLite's read lock past the COMMIT, and every writer waiting."""
    assert breaches(drops_rows, ()) == []


def test_only_settings_read_the_environment() -> None:
    assert breaches(reads_environment, READS_ENVIRONMENT) == []


def test_no_module_is_a_drawer() -> None:
    names = {path: {*path.relative_to(ROOT).with_suffix("").parts} for path in MODULES}
    assert [module(path) for path, parts in names.items() if parts & NOT_OURS_TO_NAME] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.read_text().strip()], ids=module)
def test_module_says_what_it_is(path: Path) -> None:
    """In a sentence or a few; an empty __init__.py needs none."""
    words = ast.get_docstring(parsed(path)) or ""
    assert words.split("\n\n")[0].strip().endswith((".", ":", "`")), f"{module(path)}: {words[:80]!r}"


def test_importing_a_part_imports_only_that_part() -> None:
    assert [name for name in IMPORTS_NOTHING if (ROOT / name).read_text().strip()] == []


# That the rules above find what they are for

STATE = ["run.state = 1", "a, run.state = 1, 2", "run.state += 'x'", "for run.state in x: pass", "setattr(run, 'state', 1)",
         "WorkflowRun(run_id='x')"]  # fmt: skip
SQL = ["from sqlalchemy import select", "from sqlalchemy.orm import Session, aliased", "import sqlalchemy as sa",
       "from sqlalchemy.dialects.postgresql import insert", "session.execute(x)", "with x as y: session.scalars(z)"]  # fmt: skip
ENVIRONMENT = [
    "os.environ['X']",
    "os.getenv('X')",
    "from os import environ",
    "x = {**os.environ}",
    "del os.environ['X']",
]

DROPPED = ["def f(): session.execute(select(x).where(y))", "def f():\n q = select(x)\n session.execute(q.limit(1))"]


@pytest.mark.parametrize(
    ("find", "code"),
    [(find, code) for find, codes in ((assigns_state, STATE), (speaks_sql, SQL), (reads_environment, ENVIRONMENT), (drops_rows, DROPPED)) for code in codes],
)  # fmt: skip
def test_breach_is_found(find: Callable[[ast.AST], str | None], code: str) -> None:
    assert [found for node in ast.walk(ast.parse(code)) if (found := find(node))]


@pytest.mark.parametrize(
    "code",
    ["self.state = 1", "state = run.state", "if run.state == 1: pass", "Status(state=1)", "from sqlalchemy.exc import X",
     "from sqlalchemy.orm import Session", "session.commit()", "os.path.join('a')", "client.execute(x)",
     "def f():\n q = update(x)\n session_.execute(q)\n return session_.execute(select(x)).all()"],
)  # fmt: skip
def test_what_is_allowed_is_not(code: str) -> None:
    for find in (assigns_state, speaks_sql, reads_environment, drops_rows):
        assert [found for node in ast.walk(ast.parse(code)) if (found := find(node))] == []


def test_everything_is_looked_at() -> None:
    names = {module(path) for path in MODULES}
    assert {"app/runs/transitions.py", "app/factory.py", "config.py", "application.py"} <= names
    assert len(names) > 50
