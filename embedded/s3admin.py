"""The few S3 requests that bring up an embedded store: create a bucket, put a first object."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ATTEMPT_S = 5


def s3_client(endpoint: str, access_key: str, secret_key: str, region: str) -> Any:
    """A boto3 client with exactly these credentials: no retries, path-style addresses. The caller closes it."""
    session = boto3.Session(aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region)
    config = Config(retries={"max_attempts": 0}, connect_timeout=ATTEMPT_S, read_timeout=ATTEMPT_S, s3={"addressing_style": "path"})
    return session.client("s3", endpoint_url=endpoint, config=config)


def put_succeeds(client: Any, bucket: str) -> bool:
    """Whether a tiny object can be written, creating the bucket if need be."""
    try:
        ensure_bucket(client, bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def ensure_bucket(client: Any, bucket: str) -> None:
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
