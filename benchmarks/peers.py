"""The programs that do the same job without a workflow engine, each with settings that are good for it here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import BenchLab
from benchmarks.measure import Usage, run
from embedded.seaweedfs import SeaweedFS


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise RuntimeError(f"{name} is not installed: make bench installs it")
    return found


def _url(server: SeaweedFS, bucket: str) -> str:
    return f"minio://{server.access_key}:{server.secret_key}@{server.endpoint.removeprefix('http://')}/{bucket}/"


def juicefs(lab: BenchLab, source: str, destination: str) -> list[list[str]]:
    return [[_program("juicefs"), "sync", "--threads", "50", _url(lab.source, source), _url(lab.destination, destination)]]


def rclone(lab: BenchLab, source: str, destination: str) -> list[list[str]]:
    config = [
        f":s3,provider=Other,access_key_id={server.access_key},secret_access_key={server.secret_key},endpoint='{server.endpoint}':{bucket}"
        for server, bucket in ((lab.source, source), (lab.destination, destination))
    ]
    flags = ["--transfers", "32", "--checkers", "32", "--s3-chunk-size", "64Mi", "--s3-upload-concurrency", "4", "--config", "/dev/null"]
    return [[_program("rclone"), "copy", *config, *flags]]


def s5cmd(lab: BenchLab, source: str, destination: str) -> list[list[str]]:
    """s5cmd talks to one endpoint at a time: down to a folder and up from there."""
    folder = str(lab.folder / f"s5cmd-{destination}")
    program = _program("s5cmd")
    return [
        ["env", f"AWS_ACCESS_KEY_ID={lab.source.access_key}", f"AWS_SECRET_ACCESS_KEY={lab.source.secret_key}",
         program, "--endpoint-url", lab.source.endpoint, "cp", f"s3://{source}/*", folder + "/"],
        ["env", f"AWS_ACCESS_KEY_ID={lab.destination.access_key}", f"AWS_SECRET_ACCESS_KEY={lab.destination.secret_key}",
         program, "--endpoint-url", lab.destination.endpoint, "cp", folder + "/", f"s3://{destination}/"],
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    commands: Callable[[BenchLab, str, str], list[list[str]]]

    def run(self, lab: BenchLab, source: str, destination: str) -> Usage:
        """Copies a bucket, in as many commands as the program needs."""
        lab.settle()
        used = [run(argv, lab.environment) for argv in self.commands(lab, source, destination)]
        return Usage(sum(u.wall_s for u in used), sum(u.cpu_s for u in used), max(u.peak_bytes for u in used))


PEERS = {peer.name: peer for peer in (Peer("juicefs sync", juicefs), Peer("rclone copy", rclone), Peer("s5cmd cp", s5cmd))}
