"""`sync` to a disk that is full: it ends with the exit code of what waits, says why, and counts what was copied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import Site


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("may not mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


async def test_a_full_disk_is_told_and_the_next_run_looks_at_once(tmp_path: Path, small_disk: Path) -> None:
    source, state = tmp_path / "from", str(tmp_path / "state")
    source.mkdir()
    for number in range(6):
        (source / f"{number}").write_bytes(os.urandom(500_000))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(6_000_000))
    site = Site(tmp_path / "site", {})
    command = ("sync", str(source), str(small_disk / "to"), "--json")

    full = await site.starter(*command, XDG_STATE_HOME=state)
    assert (full.code, full.document["state"]) == (3, "waiting"), full.stderr
    assert "no-space" in full.document["reason"]
    stored = [path for path in (small_disk / "to").iterdir() if not path.name.startswith(".drayage")]
    assert 0 < full.document["copied"] <= len(stored)

    filler.unlink()
    rest = await site.starter(*command, XDG_STATE_HOME=state)
    assert (rest.code, rest.document["copied"] + rest.document["skipped"]) == (0, 6), rest.stderr
    assert rest.document["seconds"] < 20
