"""moto's server: S3 with bucket notifications to SQS, both in memory.

It keeps every odd key but those with a newline, and sends events of the real shape without a `sequencer`. No oracle
for races: it ignores wrong checksums, `x-amz-copy-source-if-match` and conditions on CompleteMultipartUpload.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from embedded.ports import LOOPBACK
from embedded.s3admin import ensure_bucket, s3_client
from embedded.server import Server, ServerMissingError, http_json


class MotoServer(Server):
    """All state is lost at `kill` and `restart`. Bucket names need three characters or more."""

    name = "moto"
    ports_needed = 1
    grace_s = 2.0
    region = "us-east-1"
    access_key = "moto-access-key"
    secret_key = "moto-secret-key"
    account_id = "123456789012"

    @property
    def endpoint(self) -> str:
        """S3, SQS and every other service answer here."""
        return f"http://{LOOPBACK}:{self.ports[0]}"

    def command(self) -> list[str]:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise ServerMissingError("moto's server is not installed; it comes with the Python package moto[server]")
        return [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.ports[0])]

    def answers(self) -> bool:
        return http_json(self.ports[0], "GET", "/moto-api/data.json")[0] == 200

    def create_bucket(self, name: str) -> None:
        """Does nothing if the bucket exists."""
        client: Any = s3_client(self.endpoint, self.access_key, self.secret_key, self.region)
        try:
            ensure_bucket(client, name)
        finally:
            client.close()
