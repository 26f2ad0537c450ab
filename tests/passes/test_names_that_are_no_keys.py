"""Files whose names are no keys: refused by name where a route reads them, nobody's business where it writes."""

from __future__ import annotations

import os
from pathlib import Path

from replication.passes import Filters
from tests.e2e.conftest import Sides
from tests.e2e.sides import FileSide, Side
from tests.passes.conftest import OpenPass, PassLab


def path_of(side: Side, key: bytes) -> bytes:
    assert isinstance(side, FileSide)
    return os.fsencode(Path(side.settings()["root"], side.bucket)) + b"/" + key


def make(side: Side, lab: PassLab, prefix: str) -> tuple[bytes, bytes]:
    """A file and a directory with a file in it, neither of them named in UTF-8."""
    file, folder = path_of(side, prefix.encode() + b"bad\xff.txt"), path_of(side, prefix.encode() + b"deep\xff")
    os.makedirs(folder)
    for path in (file, folder + b"/below"):
        with open(path, "wb") as opened:
            opened.write(b"bytes")
    return file, folder


async def resting(lab: PassLab) -> list[tuple[str, str]]:
    async with lab.ledger() as ledger:
        return [(row.key.removeprefix(lab.before), row.reason) for row in await ledger.quarantine(lab.route)]


async def test_each_is_refused_by_name_until_it_is_renamed(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["files"], sides["s3"]
    async with open_pass(source, destination) as lab:
        source.put(f"{lab.before}good", b"good")
        file, folder = make(source, lab, lab.before)
        plan = await lab.reconcile(mode="plan")
        assert (plan.counters.copied, plan.counters.blocked, plan.state) == (1, 2, "incomplete")

        result = await lab.reconcile()
        assert (result.counters.copied, result.counters.blocked, result.state) == (1, 2, "incomplete")
        assert await resting(lab) == [("bad\\xff.txt", "key-invalid"), ("deep\\xff/", "key-invalid")]

        verified = await lab.reconcile(mode="verify")
        assert (verified.counters.skipped, verified.counters.differing, verified.state) == (1, 2, "incomplete")
        async with lab.ledger() as ledger:
            found = [finding.document for finding in await ledger.findings(verified.pass_id)]
        assert [(told["key"], told["anomaly"], told["reason"]) for told in found] == [
            (f"{lab.before}{name}", "unreadable", "key-invalid") for name in ("bad\\xff.txt", "deep\\xff/")
        ]

        left_out = await lab.reconcile(filters=Filters(exclude=["bad\\xff*", "deep\\xff/"]))
        assert (left_out.counters.listed, left_out.state) == (1, "done")

        os.rename(file, path_of(source, f"{lab.before}now-good".encode()))
        os.rename(folder, path_of(source, f"{lab.before}deep".encode()))
        result = await lab.reconcile()
        assert (result.counters.copied, result.counters.blocked, result.state) == (2, 0, "done")
        assert await resting(lab) == []


async def test_at_the_destination_they_are_no_replicas(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["s3"], sides["files"]
    async with open_pass(source, destination, deletes="mirror") as lab:
        source.put(f"{lab.before}good", b"good")
        make(destination, lab, lab.after)
        for mode in ("plan", "repair", "verify"):
            result = await lab.reconcile(mode=mode)
            assert (result.counters.extra, result.counters.replicas <= 1, result.state) == (0, True, "done")
        assert {f"{lab.after}{name}" for name in ("good", "bad\udcff.txt", "deep\udcff/below")} <= destination.keys()


async def test_a_replica_of_that_very_key_is_not_deleted(sides: Sides, open_pass: OpenPass) -> None:
    source, destination = sides["files"], sides["gcs"]
    async with open_pass(source, destination, deletes="mirror") as lab:
        source.put(f"{lab.before}bad\\xff.txt", b"once a key")
        source.put(f"{lab.before}good", b"good")
        assert (await lab.reconcile()).counters.copied == 2
        source.delete(f"{lab.before}bad\\xff.txt")
        make(source, lab, lab.before)
        result = await lab.reconcile()
        assert (result.counters.extra, result.counters.blocked) == (0, 2)
        assert destination.see(f"{lab.after}bad\\xff.txt") is not None
