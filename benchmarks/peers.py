"""The programs that do the same job without a workflow engine, each with settings that are good for it here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import BenchLab, Place
from benchmarks.measure import Usage, run
from embedded.seaweedfs import SeaweedFS


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise RuntimeError(f"{name} is not installed: make bench installs it")
    return found


def _url(server: SeaweedFS, place: Place) -> str:
    if isinstance(place, Path):
        return f"file://{place}/"
    return f"minio://{server.access_key}:{server.secret_key}@{server.endpoint.removeprefix('http://')}/{place}/"


def juicefs(lab: BenchLab, source: Place, destination: Place) -> list[list[str]]:
    return [[_program("juicefs"), "sync", "--threads", "50", _url(lab.source, source), _url(lab.destination, destination)]]


def _remote(server: SeaweedFS, place: Place) -> str:
    if isinstance(place, Path):
        return str(place)
    keys = f"access_key_id={server.access_key},secret_access_key={server.secret_key}"
    return f":s3,provider=Other,{keys},endpoint='{server.endpoint}':{place}"


def rclone(lab: BenchLab, source: Place, destination: Place) -> list[list[str]]:
    flags = ["--transfers", "32", "--checkers", "32", "--s3-chunk-size", "64Mi", "--s3-upload-concurrency", "4", "--config", "/dev/null"]
    return [[_program("rclone"), "copy", _remote(lab.source, source), _remote(lab.destination, destination), *flags]]


def _s5cmd(server: SeaweedFS, *arguments: str) -> list[str]:
    keys = [f"AWS_ACCESS_KEY_ID={server.access_key}", f"AWS_SECRET_ACCESS_KEY={server.secret_key}"]
    return ["env", *keys, _program("s5cmd"), "--endpoint-url", server.endpoint, "cp", *arguments]


def s5cmd(lab: BenchLab, source: Place, destination: Place) -> list[list[str]]:
    """s5cmd talks to one endpoint at a time: between two, down to a folder and up from there."""
    folder = next((place for place in (source, destination) if isinstance(place, Path)), lab.folder / f"s5cmd-{destination}")
    down = [] if source == folder else [_s5cmd(lab.source, f"s3://{source}/*", f"{folder}/")]
    up = [] if destination == folder else [_s5cmd(lab.destination, f"{folder}/", f"s3://{destination}/")]
    return down + up


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    commands: Callable[[BenchLab, Place, Place], list[list[str]]]

    def run(self, lab: BenchLab, source: Place, destination: Place) -> Usage:
        """Copies everything, in as many commands as the program needs."""
        lab.settle()
        used = [run(argv, lab.environment) for argv in self.commands(lab, source, destination)]
        return Usage(sum(u.wall_s for u in used), sum(u.cpu_s for u in used), max(u.peak_bytes for u in used))


PEERS = {peer.name: peer for peer in (Peer("juicefs sync", juicefs), Peer("rclone copy", rclone), Peer("s5cmd cp", s5cmd))}
