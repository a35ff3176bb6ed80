"""S3, CloudWatch Logs and SQS by moto, over HTTP on loopback, for one test: nothing of an earlier one is there."""

from __future__ import annotations

import logging
from typing import Any, Self
from urllib.request import Request, urlopen

from moto.server import ThreadedMotoServer

from app.daemon.providers.healthomics_aws import AwsAccess


class AwsStores:
    """`url` is the endpoint of all three services."""

    def __init__(self, *buckets: str) -> None:
        self._buckets, self._server = buckets, ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def __enter__(self) -> Self:
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        urlopen(Request(f"{self.url}/moto-api/reset", method="POST")).close()
        self._s3 = self.client("s3")
        for bucket in self._buckets:
            self._s3.create_bucket(Bucket=bucket)
        return self

    def __exit__(self, *_: object) -> None:
        self._s3.close()
        self._server.stop()

    def client(self, service: str) -> Any:
        return AwsAccess("us-east-1", "fake", "fake", endpoint=self.url).client(service)

    def read(self, bucket: str, key: str) -> str:
        return str(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode())

    def write(self, bucket: str, key: str, text: str) -> None:
        self._s3.put_object(Bucket=bucket, Key=key, Body=text.encode())

    def keys(self, bucket: str) -> list[str]:
        return [one["Key"] for one in self._s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
