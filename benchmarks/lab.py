"""Servers, seeded buckets, and worker processes for benchmarks: everything on this machine, everything thrown away."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.config import Config

from embedded.ports import free_port
from embedded.process import clean_environment
from embedded.seaweedfs import SeaweedFS
from embedded.temporal import TemporalServer

ROOT = Path(__file__).parent.parent
MIB = 1 << 20
WARM_KEY = "warm-up"

Place = str | Path
"""A bucket of the source or of the destination server, or a folder instead of either."""


class BenchLab:
    """Two SeaweedFS, one Temporal server, and a configuration with a route `bench` from the one to the other."""

    def __init__(self, folder: Path, temporal: TemporalServer, source: SeaweedFS, destination: SeaweedFS) -> None:
        self.folder = folder
        self.temporal = temporal
        self.source = source
        self.destination = destination
        self.queue = "bench"
        self._left: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return _compiling_once() | {
            "SOURCE_KEY": self.source.access_key, "SOURCE_SECRET": self.source.secret_key,
            "DESTINATION_KEY": self.destination.access_key, "DESTINATION_SECRET": self.destination.secret_key,
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def used_bucket(self, name: str) -> None:
        """An empty bucket at the destination that has been written to: SeaweedFS makes the first volumes of a bucket while its
        first write waits, once in the bucket's life, and whoever comes first would pay for it."""
        self.destination.create_bucket(name)
        client = s3_client(self.destination)
        client.put_object(Bucket=name, Key=WARM_KEY, Body=b"w")
        client.delete_object(Bucket=name, Key=WARM_KEY)

    def leave(self, destination_bucket: str) -> None:
        """What a run wrote is removed when the next one is about to begin."""
        self._left.append(destination_bucket)

    def settle(self) -> None:
        """Brings the machine to where every run begins. What the one before it wrote is gone, also from folders here, so that
        the server is the same, and only just gone: a virtual machine gives memory that was free for two seconds back to its
        host, and who writes to it next waits for each page. What is still to be written to the disk is there."""
        for bucket in self._left:
            self.destination.remove_bucket(bucket)
        self._left.clear()
        for folder in self.folder.glob("s5cmd-*"):
            shutil.rmtree(folder)
        os.sync()

    def write_config(self, source: Place, destination: Place, **worker: Any) -> Path:
        """A configuration file for one pair of places."""
        name = name_of(destination)
        path = self.folder / f"{name}.yaml"
        document = {
            "ledger": f"sqlite:///{self.folder}/{name}.db",
            "temporal": {"address": self.temporal.address, "task_queue": f"bench-{name}"},
            "stores": {
                "source": _files(source) if isinstance(source, Path) else _store(self.source, "SOURCE"),
                "destination": _files(destination) if isinstance(destination, Path) else _store(self.destination, "DESTINATION"),
            },
            "routes": [
                {
                    "name": "bench",
                    "source": {"store": "source", "bucket": name_of(source)},
                    "destination": {"store": "destination", "bucket": name_of(destination)},
                }
            ],
            "worker": worker,
        }
        path.write_text(yaml.safe_dump(document))
        return path

    @contextmanager
    def process(self, argv: list[str], ready: str | None = None, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A child that is stopped by SIGTERM at the end; waits for `ready` to appear in its log first."""
        with (self.folder / f"{free_port()}.log").open("w+b") as log:
            child = subprocess.Popen([sys.executable, *argv], env={**self.environment, **variables}, stdout=log, stderr=log, cwd=ROOT)
            try:
                if ready:
                    _wait_for(Path(log.name), ready, child)
                yield child
            finally:
                child.terminate()
                child.wait(60)


def _compiling_once() -> dict[str, str]:
    """Without the variable by which every workflow of every worker would be compiled anew."""
    return {name: value for name, value in clean_environment().items() if name != "PYTHONDONTWRITEBYTECODE"}


def name_of(place: Place) -> str:
    return place.name if isinstance(place, Path) else place


def _files(folder: Path) -> dict[str, str]:
    return {"type": "file", "root": str(folder.parent)}


def _store(server: SeaweedFS, prefix: str) -> dict[str, str]:
    return {
        "type": "s3", "endpoint": server.endpoint, "region": server.region,
        "access_key_id": f"env:{prefix}_KEY", "secret_access_key": f"env:{prefix}_SECRET",
    }  # fmt: skip


def _wait_for(log: Path, text: str, child: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    waited = threading.Event()
    for _ in range(int(timeout_s / 0.05)):
        if text in log.read_text(errors="replace"):
            return
        if child.poll() is not None:
            break
        waited.wait(0.05)
    raise RuntimeError(f"the process did not become ready:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def bench_lab() -> Iterator[BenchLab]:
    """Starts the servers, stops them at the end."""
    os.environ.pop("AWS_CA_BUNDLE", None)
    with tempfile.TemporaryDirectory(prefix="drayage-bench-") as folder:
        servers = TemporalServer(headless=True), SeaweedFS(), SeaweedFS()
        with servers[0] as temporal, servers[1] as source, servers[2] as destination:
            yield BenchLab(Path(folder), temporal, source, destination)


def s3_client(server: SeaweedFS) -> Any:
    return boto3.client(
        "s3", endpoint_url=server.endpoint, region_name=server.region, aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key, config=Config(max_pool_connections=32, s3={"addressing_style": "path"}),
    )  # fmt: skip


def seed_objects(server: SeaweedFS, bucket: str, prefix: str, count: int, size: int) -> list[str]:
    """`count` objects of `size` bytes, and one of one byte to warm up with; returns the keys of the `count`."""
    server.create_bucket(bucket)
    client, block = s3_client(server), random.Random(7).randbytes(min(size, MIB))
    data = (block * -(-size // len(block)))[:size]
    keys = [f"{prefix}{number:06d}" for number in range(count)]
    with ThreadPoolExecutor(16 if size < MIB else 2) as pool:
        client.put_object(Bucket=bucket, Key=WARM_KEY, Body=b"w")
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=data[4:] + key[-4:].encode()), keys))
    return keys


def check_equal(lab: BenchLab, source_bucket: str, destination_bucket: str, count: int, *, warm: bool = True) -> None:
    """Every source object stands at the destination with its size; a sample of 20 with its bytes. Without `warm`, the one
    to warm up with was not copied."""
    source, destination = s3_client(lab.source), s3_client(lab.destination)
    left, right = bucket_sizes(source, source_bucket), bucket_sizes(destination, destination_bucket)
    if not warm:
        del left[WARM_KEY]
    if left != right or len(left) != count + warm:
        raise RuntimeError(f"{destination_bucket}: {len(right)} objects, expected {count} equal ones")
    for key in list(left)[:: max(1, count // 20)][:4]:
        one = source.get_object(Bucket=source_bucket, Key=key)["Body"].read()
        if one != destination.get_object(Bucket=destination_bucket, Key=key)["Body"].read():
            raise RuntimeError(f"{destination_bucket}: {key} differs")


def bucket_sizes(client: Any, bucket: str) -> dict[str, int]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}
