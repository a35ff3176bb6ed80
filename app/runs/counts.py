"""How many runs each owner has in each state, known without looking at the runs.

Every change adds rows of +1 and -1 in its own transaction; the count is their sum. `fold` replaces many rows by few, so
that the sum stays quick. Nobody waits for anybody: no row is ever changed, and each is folded exactly once.
"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, func, insert, literal, select, union_all
from sqlalchemy.orm import Session

from app.models import COUNTS, RUNS
from app.states import State

_INSERT = insert(COUNTS).inline()
_THIS_RUN = RUNS.c.run_id == bindparam("run_id")
_MOVE = _INSERT.from_select(
    ["owner", "state", "n"],
    union_all(
        select(RUNS.c.owner, bindparam("start", type_=COUNTS.c.state.type), literal(-1)).where(_THIS_RUN),
        select(RUNS.c.owner, bindparam("to", type_=COUNTS.c.state.type), literal(1)).where(_THIS_RUN),
    ),
)
FOLDED_AT_ONCE = 10_000


def appeared(session: Session, owner: str, state: State, count: int = 1) -> None:
    """So many new runs have this state."""
    session.connection().execute(_INSERT, {"owner": owner, "state": state, "n": count})


def moved(session: Session, run_id: str, start: State, to: State) -> None:
    """A stored run went from one state to another."""
    session.connection().execute(_MOVE, {"run_id": run_id, "start": start, "to": to})


def disappeared(session: Session, owner: str, state: State) -> None:
    """A run of this state was deleted."""
    session.connection().execute(_INSERT, {"owner": owner, "state": state, "n": -1})


def by_state(session: Session, owner: str | None) -> dict[State, int]:
    """How many runs there are in each state, zeros included; of all owners where `owner` is None."""
    query = select(COUNTS.c.state, func.sum(COUNTS.c.n)).group_by(COUNTS.c.state)
    if owner is not None:
        query = query.where(COUNTS.c.owner == owner)
    found = {State(state): int(count) for state, count in session.execute(query)}
    return {state: found.get(state, 0) for state in State}


def fold(session: Session) -> int:
    """Replace many rows by one for each owner and state; returns how many went. Several may fold at once."""
    columns = COUNTS.c
    oldest = select(columns.id).order_by(columns.id).limit(FOLDED_AT_ONCE).with_for_update(skip_locked=True)
    taken = delete(COUNTS).where(columns.id.in_(oldest)).returning(columns.owner, columns.state, columns.n)
    rows = session.execute(taken).all()
    sums: dict[tuple[str, str], int] = {}
    for owner, state, n in rows:
        sums[owner, state] = sums.get((owner, state), 0) + n
    kept = [{"owner": owner, "state": state, "n": n} for (owner, state), n in sums.items() if n]
    if kept:
        session.execute(_INSERT, kept)
    return len(rows) - len(kept)
