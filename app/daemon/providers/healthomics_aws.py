"""AWS clients for the HealthOmics provider: bounded in time, tried once, every failure one of the provider errors.

boto3's own retries are off: there is one layer that tries again, the daemon's. Knows operations and errors, no runs.
"""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, TypeVar

from botocore import xform_name
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    TokenRetrievalError,
)
from pydantic import BaseModel, ValidationError

from app.aws_sessions import aws_session
from app.clock import utc_now
from app.daemon.providers.http_api import TimedReader
from app.daemon.providers.http_outcomes import error_of_status, retry_after_seconds
from app.daemon.providers.pacing import TokenBucket
from app.errors import NotAccepted, OutcomeUnknown, ProviderError, Rejected

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")

CONNECT_SECONDS = 10.0
MAX_CONNECTIONS = 50
MOST_PAGES = 5000
SHOWN_CHARACTERS = 300
QUOTA_SECONDS = 60.0
DENIED_SECONDS = 30.0
NOT_SENT = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    ProfileNotFound,
)
EXPIRED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "TokenRefreshRequired",
        "RequestExpired",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    }
)
"""Codes that are about who asks, not about what is asked."""
MISSING = frozenset({"ResourceNotFoundException", "NoSuchKey", "NoSuchBucket", "404"})
UNANSWERED = frozenset({"RequestTimeout"})
"""S3 says 400 where it did not get the whole of a request in time."""
THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "SlowDown"})


class Missing(Rejected):
    """What is asked for does not exist."""


class Conflicting(Rejected):
    """It contradicts what is: a requestId used before, a run that is over."""


class Denied(NotAccepted):
    """These credentials work, and may not do this."""


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """How AWS is reached. Without keys, boto3 looks for credentials in its own places (roles, profiles, instance)."""

    region: str
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    healthomics_endpoint: str = ""
    endpoint: str = ""  # of every other service
    timeout_seconds: float = 30.0

    def client(self, service: str) -> Any:
        """A boto3 client for `omics`, `s3`, `logs` or `sqs`. Safe to share between threads."""
        endpoint = self.healthomics_endpoint if service == "omics" else self.endpoint
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=min(CONNECT_SECONDS, self.timeout_seconds),
            read_timeout=self.timeout_seconds,
            max_pool_connections=MAX_CONNECTIONS,
            # At AWS an operation's host has a prefix (workflows-…), which an address of one's own has not.
            **({"inject_host_prefix": False} if endpoint and service == "omics" else {}),
        )
        session = aws_session(self.region, self.access_key_id, self.secret_access_key, self.session_token)
        client = session.client(service, endpoint_url=endpoint or None, config=config)
        _bound_answers(client)
        return client


class AwsApi:
    """One service's operations, each at its own pace. `words`: what users know the service as."""

    def __init__(self, client: Any, words: str, buckets: Mapping[str, TokenBucket] | None = None) -> None:
        self.client, self._words = client, words
        self._buckets = buckets or {}

    def call(self, operation: str, **members: Any) -> dict[str, Any]:
        """Send once, and return the answer's members, unchecked. Raises as `attempt`."""
        answer = self.attempt(operation, lambda: getattr(self.client, xform_name(operation))(**members))
        if not isinstance(answer, dict):
            raise OutcomeUnknown(f"{self._words} {operation}: an answer that is none.")
        return answer

    def attempt(self, operation: str, send: Callable[[], Result]) -> Result:
        """Have boto3 do something once. Raises NotReady before anything is sent where it is not its turn; Missing,
        Conflicting, Denied and the provider errors."""
        bucket = self._buckets.get(operation)
        if bucket:
            bucket.take()
        try:
            result = send()
        except ClientError as error:
            raise self._refusal(operation, error, bucket) from error
        except Exception as error:
            raise self._failure(operation, error) from error
        if bucket:
            bucket.served()
        return result

    def read(self, model: type[Model], operation: str, **members: Any) -> Model:
        """As `call`, the answer as what it should be; raises OutcomeUnknown where it is anything else."""
        try:
            return model.model_validate(self.call(operation, **members))
        except ValidationError as error:
            where = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors()[:5])
            raise OutcomeUnknown(f"{self._words} {operation}: the answer is something else, see {where}.") from None

    def items(self, model: type[Model], operation: str, **members: Any) -> Iterator[Model]:
        """Every item of every page; one that cannot be read hides no others."""
        token: dict[str, str] = {}
        for _ in range(MOST_PAGES):
            page = self.read(_Page, operation, **members, **token, maxResults=100)
            for item in page.items:
                try:
                    yield model.model_validate(item)
                except ValidationError as error:
                    log.warning("an item that cannot be read", extra={"of": operation, "problems": error.error_count()})
            if not page.nextToken or page.nextToken == token.get("startingToken"):
                return
            token = {"startingToken": page.nextToken}
        raise OutcomeUnknown(f"{self._words} {operation}: more than {MOST_PAGES} pages.")

    def _refusal(self, operation: str, error: ClientError, bucket: TokenBucket | None) -> ProviderError:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        words = _one_line(f"{self._words} {operation}: {code}: {message.rstrip('.')}") + "."
        if code in EXPIRED:
            words += (
                " This service's AWS credentials must be renewed; those of its settings take a restart, others none."
            )
            return NotAccepted(words, _pause(bucket, words, DENIED_SECONDS))
        if code in THROTTLED or status == 429:
            return NotAccepted(words, _pause(bucket, words, _retry_after(error)))
        if status == 402:
            words += " It is tried again until a quota of the AWS account has room."
            return NotAccepted(words, _pause(bucket, words, QUOTA_SECONDS))
        if code in MISSING:
            return Missing(words, "not_found")
        if code == "ConflictException":
            return Conflicting(words, "conflict")
        if status in (401, 403):
            words += " The IAM policy of this service must allow it, and iam:PassRole for the run's role."
            return Denied(words, DENIED_SECONDS + random.uniform(0, DENIED_SECONDS))  # noqa: S311
        return error_of_status(408 if code in UNANSWERED else status, words)

    def _failure(self, operation: str, error: Exception) -> ProviderError:
        """Only where no connection came to be, or there was nobody to ask as, nothing was sent for certain."""
        words = _one_line(f"{self._words} {operation}: {error or type(error).__name__}")
        if isinstance(error, NO_CREDENTIALS):
            return NotAccepted(f"{words} Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role.")
        if isinstance(error, NOT_SENT):
            return NotAccepted(words)
        if isinstance(error, ParamValidationError):
            return Rejected(words, "invalid_request")
        return OutcomeUnknown(words)


class _Page(BaseModel):
    items: list[Any]
    nextToken: str | None = None


def _pause(bucket: TokenBucket | None, words: str, at_least: float) -> float:
    return bucket.refused(words, at_least) if bucket else at_least


def _retry_after(error: ClientError) -> float:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return retry_after_seconds(headers.get("retry-after"), utc_now()) or 0.0


def _one_line(words: str) -> str:
    return "".join(character if character.isprintable() else " " for character in words)[:SHOWN_CHARACTERS]


class _TimedResponse(HTTPResponse):
    """The socket's time-out is the time for the whole answer: by itself it would begin anew with every byte."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        if (seconds := sock.gettimeout()) is not None:
            self.fp = io.BufferedReader(TimedReader(sock, self.fp.detach(), seconds))


class _TimedConnection(AWSHTTPConnection):  # type: ignore[misc]
    response_class = _TimedResponse


class _TimedSecureConnection(AWSHTTPSConnection):  # type: ignore[misc]
    response_class = _TimedResponse


class _TimedPool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _TimedConnection


class _TimedSecurePool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _TimedSecureConnection


def _bound_answers(client: Any) -> None:
    """botocore has no way to bring a connection class of one's own: its session's table of them is changed in place."""
    client._endpoint.http_session._pool_classes_by_scheme.update({"http": _TimedPool, "https": _TimedSecurePool})
