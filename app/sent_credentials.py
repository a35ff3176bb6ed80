"""Credentials that a request brings for the platform that runs it: read from its headers, or sent anew for a run.

They are no part of the request itself: not echoed, not in what an Idempotency-Key is held against, not in any log.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Request
from sqlalchemy.orm import Session

from app.bvbrc_token import HEADER, sent_token
from app.context import Context
from app.credentials import BVBRC, root_of
from app.errors import Conflict, InvalidRequest
from app.runs import claims, listing, pipelines


def read_credentials(http: Request) -> dict[str, str]:
    """By kind. Raises InvalidRequest, without the value, where a header holds something else."""
    token = sent_token(http.headers.get(HEADER, ""), http.headers.get("Authorization", ""))
    return {BVBRC: token} if token else {}


def renew_credentials(context: Context, owner: str, run_id: str, sent: Mapping[str, str]) -> None:
    """Keep them in place of those that have expired, for a whole pipeline where the run is a step of one, and wake what
    waits for them. Raises NotFound, InvalidRequest where nothing was sent, and Conflict where the run is over.
    """

    def work(session: Session) -> None:
        listing.get_state(session, run_id, owner)
        if not sent:
            raise InvalidRequest(f"Send the fresh token in the header {HEADER}.")
        root = root_of(session, run_id)
        if not all(context.vault.store(session, root, kind, secret) for kind, secret in sent.items()):
            raise Conflict(f"Run {root} has ended, or does not go to BV-BRC. With a re-run a token can be sent again.")
        claims.hint(session, [root, *(step.run_id for step in pipelines.runs_of(session, root))], context.now())

    context.database.transact(work)
    context.hinter.hint(run_id)
