"""Passes from a bucket into a folder of this machine, and out of a folder into a bucket, beside the peers."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.lab import MIB, WARM_KEY, BenchLab, Place, bucket_sizes, s3_client, seed_objects
from benchmarks.measure import Usage, turned
from benchmarks.objects import Row, rows_of
from benchmarks.passes import KIB, Case, passing_worker
from benchmarks.peers import PEERS

CASES = (Case("tiny-files", "4 KiB", 20_000, 4 * KIB), Case("some-files", "1 MiB", 1_000, MIB), Case("huge-files", "256 MiB", 2, 256 * MIB))


async def folders(lab: BenchLab, *, rounds: int) -> list[Row]:
    """Every case in both directions, with `rounds` interleaved runs of each program."""
    rows: list[Row] = []
    for case in CASES:
        seed_objects(lab.source, case.bucket, "o/", case.count, case.size)
        folder = _seeded(lab.folder / "sources" / case.bucket, case)
        rows += await _copied(lab, case, rounds, source=case.bucket, into=lab.folder / "replicas")
        rows += await _copied(lab, case, rounds, source=folder, into=None)
    return rows


async def _copied(lab: BenchLab, case: Case, rounds: int, *, source: Place, into: Path | None) -> list[Row]:
    """Folders stay until the end: an ext4 without a journal is slow to make files for half a minute after it removed as many."""
    runs: dict[str, list[Usage]] = {}
    for number in range(rounds):
        for name in turned(("drayage", *PEERS), number):
            bucket = f"{case.bucket}-{name.split()[0]}-{number}"
            destination: Place = bucket if into is None else into / bucket
            if isinstance(destination, Path):
                destination.mkdir(parents=True)
            else:
                lab.used_bucket(destination)
            runs.setdefault(name, []).append(await _run(lab, case, name, source, destination))
            sizes = _file_sizes(destination) if isinstance(destination, Path) else bucket_sizes(s3_client(lab.destination), destination)
            if len(sizes) != case.count + 1 or set(sizes.values()) != {1, case.size}:
                raise RuntimeError(f"{destination}: {len(sizes)} objects, expected {case.count} of {case.size} bytes")
            if isinstance(destination, str):
                lab.leave(destination)
    label = f"{case.count:,} x {case.label}, {'out of' if into is None else 'into'} a folder"
    return rows_of(label, runs, case.rate, "juicefs sync")


async def _run(lab: BenchLab, case: Case, name: str, source: Place, destination: Place) -> Usage:
    if name != "drayage":
        return PEERS[name].run(lab, source, destination)
    async with passing_worker(lab, source, destination) as passing:
        return (await passing.measured(copied=case.count + 1, skipped=0))[0]


def _seeded(folder: Path, case: Case) -> Path:
    """The same objects as files."""
    (folder / "o").mkdir(parents=True)
    block = os.urandom(min(case.size, MIB))
    for number in range(case.count):
        with (folder / "o" / f"{number:06d}").open("wb") as file:
            for _ in range(case.size // len(block)):
                file.write(block)
    (folder / WARM_KEY).write_bytes(b"w")
    return folder


def _file_sizes(folder: Path) -> dict[str, int]:
    """Of what a program wrote, without the lock file that a running worker of drayage keeps there."""
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != ".drayage.lock"}
