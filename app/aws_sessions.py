"""boto3 sessions, with the keys of the settings or with what boto3 finds, for every client here. Knows no service.

boto3 reads keys in a file once. Where a tool renews them there, a daemon that lives for months has to look again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import boto3.session
import botocore.loaders
import botocore.session
from botocore.credentials import CredentialResolver, Credentials, RefreshableCredentials, create_credential_resolver
from botocore.exceptions import NoCredentialsError

LOOK_AGAIN_SECONDS = 30.0


def aws_session(
    region: str = "",
    access_key_id: str = "",
    secret_access_key: str = "",
    session_token: str = "",
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> boto3.session.Session:
    """What is "" is left to boto3's default chain."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _loader())
    chain = create_credential_resolver(core, region_name=region or None)
    core.register_component("credential_provider", _Finder(chain, monotonic))
    return boto3.session.Session(
        botocore_session=core,
        aws_access_key_id=access_key_id or None,
        aws_secret_access_key=secret_access_key or None,
        aws_session_token=session_token or None,
        region_name=region or None,
    )


class _Finder:
    """Stands in botocore's place for finding credentials."""

    def __init__(self, chain: CredentialResolver, monotonic: Callable[[], float]) -> None:
        self._chain, self._monotonic = chain, monotonic

    def load_credentials(self) -> Credentials:
        return _FoundCredentials(self._chain.load_credentials, self._monotonic)


class _FoundCredentials(Credentials):  # type: ignore[misc]
    """What the chain finds: roles renew themselves; keys are looked for again, at most every LOOK_AGAIN_SECONDS."""

    def __init__(self, find: Callable[[], Credentials | None], monotonic: Callable[[], float]) -> None:
        super().__init__("", "", method="default-chain")
        self._find, self._monotonic = find, monotonic
        self._lock = threading.Lock()
        self._found: Credentials | None = None
        self._again_at = monotonic()

    def get_frozen_credentials(self) -> Any:
        """Raises NoCredentialsError where there are none, and what the chain raises."""
        with self._lock:
            if not isinstance(self._found, RefreshableCredentials) and self._monotonic() >= self._again_at:
                self._found = self._find()
                self._again_at = self._monotonic() + LOOK_AGAIN_SECONDS
            found = self._found
        if found is None:
            raise NoCredentialsError
        return found.get_frozen_credentials()


@cache
def _loader() -> Any:
    """The services' models are large: read once in a process, not once for every client."""
    return botocore.loaders.create_loader()
