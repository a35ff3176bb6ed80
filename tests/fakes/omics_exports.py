"""What HealthOmics leaves in other services: outputs in S3, logs in CloudWatch Logs. Knows endpoints, nothing of runs' lives."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

LOG_GROUP = "/aws/omics/WorkflowLog"
FAILURES = (BotoCoreError, ClientError)


class Exports:
    """Writes where endpoints are given, and nowhere else."""

    def __init__(self, region: str, s3_endpoint: str | None, logs_endpoint: str | None) -> None:
        self._s3 = _client("s3", region, s3_endpoint)
        self._logs = _client("logs", region, logs_endpoint)
        self._streams: set[str] = set()

    def put(self, uri: str, content: str) -> None:
        """One object at s3://…; raises one of FAILURES."""
        if self._s3:
            place = urlsplit(uri)
            self._s3.put_object(Bucket=place.netloc, Key=place.path.lstrip("/"), Body=content.encode())

    def log(self, stream: str, lines: Iterable[str]) -> None:
        """Append to a stream of the workflow log group, made where it is missing."""
        # The true time, not the fake's: CloudWatch drops events that are too old or ahead of it.
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
        if not self._logs or not events:
            return
        if stream not in self._streams:
            self._make(stream)
        self._logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)

    def _make(self, stream: str) -> None:
        for make in (
            lambda: self._logs.create_log_group(logGroupName=LOG_GROUP),
            lambda: self._logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream),
        ):
            try:
                make()
            except self._logs.exceptions.ResourceAlreadyExistsException:
                continue
        self._streams.add(stream)


def output_document(engine: str, name: str, place: str) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """What a run without a plan of its own makes: the output document (None: the engine has none), and its files."""
    files = {"out/result.txt": f"made by {name}\n"}
    uri = f"{place}/out/result.txt"
    if engine == "NEXTFLOW":
        return None, files
    if engine == "CWL":
        size = len(files["out/result.txt"])
        return {"result": {"class": "File", "location": uri, "basename": "result.txt", "size": size}}, files
    return {f"{name}.result": uri}, files


def filled(document: Mapping[str, Any] | None, place: str) -> str | None:
    """A planned output document as text, `{runOutputUri}` in it replaced."""
    return None if document is None else json.dumps(document).replace("{runOutputUri}", place)


def _client(service: str, region: str, endpoint: str | None) -> Any:
    if endpoint is None:
        return None
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id="fake",
        aws_secret_access_key="fake",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
