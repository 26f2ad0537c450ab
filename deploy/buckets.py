"""Makes the buckets of `deploy/drayage.yaml` and one object to copy, in the compose stack.

    python deploy/buckets.py S3_ENDPOINT GCS_ENDPOINT FOLDER

Safe to run again: what is there stays. S3 credentials come from S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

GREETING = b"Hello from Drayage.\n"


def make_s3_buckets(endpoint: str, buckets: tuple[str, ...]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=os.environ["S3_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["S3_SECRET_ACCESS_KEY"],
    )
    for bucket in buckets:
        try:
            client.create_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
    client.put_object(Bucket=buckets[0], Key="hello.txt", Body=GREETING, ContentType="text/plain", Metadata={"made-by": "compose"})


def make_gcs_bucket(endpoint: str, bucket: str) -> None:
    body = json.dumps({"name": bucket}).encode()
    request = urllib.request.Request(  # noqa: S310 - the compose file says which endpoint, always http
        f"{endpoint}/storage/v1/b?project=drayage", data=body, headers={"content-type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - as above
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def main(s3_endpoint: str, gcs_endpoint: str, folder: str) -> None:
    make_s3_buckets(s3_endpoint, ("photos", "photos-mirror"))
    make_gcs_bucket(gcs_endpoint, "photos-copy")
    (Path(folder) / "photos").mkdir(exist_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
