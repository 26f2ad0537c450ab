"""`sync` with the real pass: from a folder to another, again, and on after Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from pathlib import Path

from tests.cli.site import Site
from tests.poll import eventually


async def test_a_folder_is_copied_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 40)
    (source / "large").write_bytes(b"l" * (9 << 20))
    first = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=str(tmp_path / "state"))
    assert first.code == 0, first.stderr
    assert {name: first.document[name] for name in ("listed", "copied", "failed", "deleted")} == {
        "listed": 41, "copied": 41, "failed": 0, "deleted": 0,
    }  # fmt: skip
    assert first.document["bytes_copied"] == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert contents(destination) == contents(source)

    second = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=str(tmp_path / "state"))
    assert (second.code, second.document["copied"], second.document["skipped"]) == (0, 0, 41)


async def test_ctrl_c_stops_and_running_again_goes_on(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 300)
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    child = site.launch("starter.py", "sync", str(source), str(destination), "--requests", "60/s", "--json", variables=state)
    await eventually(lambda: len(contents(destination)) > 20, 60)
    child.send_signal(signal.SIGINT)
    await asyncio.to_thread(child.communicate)
    assert child.returncode == 130
    assert 20 < len(contents(destination)) < 300

    rest = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=state["XDG_STATE_HOME"])
    assert rest.code == 0, rest.stderr
    assert contents(destination) == contents(source)


async def test_objects_that_could_not_be_settled_are_named_at_the_end(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 3)
    for number in range(22):
        await asyncio.to_thread(bad_file, source, b"bad\xff%02d" % number)
    told = await site.starter("sync", str(source), str(destination), "--json", XDG_STATE_HOME=str(tmp_path / "state"))
    assert (told.code, told.document["state"], told.document["copied"], told.document["failed"]) == (1, "incomplete", 3, 22)
    *named, more = told.document["notes"]
    assert named == [f"bad\\xff{number:02d}: key-invalid: the name is not UTF-8" for number in range(20)]
    first, _, command = more.partition(": ")
    assert first == "and 2 more"
    listed = await asyncio.to_thread(subprocess.run, shlex.split(command), cwd="/", capture_output=True, text=True, check=True)
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [["blocked", f"bad\\xff{number:02d}"] for number in range(22)]

    for number in range(21):
        await asyncio.to_thread(os.unlink, os.fsencode(source) + b"/bad\xff%02d" % number)
    text = await site.starter("sync", str(source), str(destination), XDG_STATE_HOME=str(tmp_path / "state"))
    assert text.code == 1
    assert text.stdout.splitlines()[-1] == "  bad\\xff21: key-invalid: the name is not UTF-8"
    assert len(text.stdout.splitlines()) == 3


async def test_a_dry_run_names_what_the_run_would_block(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 3)
    long = "/".join(["d" * 200] * 6)
    await asyncio.to_thread(os.makedirs, source / long)
    (source / long / "name").write_bytes(b"bytes")
    for arguments in (["--dry-run"], []):
        told = await site.starter("sync", str(source), str(destination), *arguments, "--json", XDG_STATE_HOME=str(tmp_path / "state"))
        *lines, end = told.documents
        assert (told.code, end["copied"], end["failed"], len(lines)) == (1, 3, 1, 4 if arguments else 0)
        assert end["notes"] == [f"{long}/name: key-invalid: the key has 1210 bytes, the limit is 1024"]


async def test_a_dry_run_names_each_difference_and_the_run_does_what_it_named(tmp_path: Path) -> None:
    source, destination, site = folders(tmp_path, 3)
    state = str(tmp_path / "state")
    await site.starter("sync", str(source), str(destination), XDG_STATE_HOME=state)
    (source / "0.txt").unlink()
    (source / "new").write_text("new")
    (destination / "theirs").write_text("theirs")

    planned = await site.starter("sync", str(source), str(destination), "--delete", "--dry-run", "--json", XDG_STATE_HOME=state)
    *lines, end = planned.documents
    assert [(told["action"], told["key"]) for told in lines] == [("delete", "0.txt"), ("copy", "new"), ("keep", "theirs")]
    assert (planned.code, end["copied"], end["deleted"], end["state"]) == (0, 1, 1, "done")
    text = await site.starter("sync", str(source), str(destination), "--delete", "--dry-run", XDG_STATE_HOME=state)
    assert [line.split()[:2] for line in text.stdout.splitlines()[:3]] == [["delete", "0.txt"], ["copy", "new"], ["keep", "theirs"]]

    done = await site.starter("sync", str(source), str(destination), "--delete", "--json", XDG_STATE_HOME=state)
    assert (done.code, done.document["copied"], done.document["deleted"]) == (0, 1, 1)
    assert contents(destination) == {**contents(source), "theirs": b"theirs"}


def bad_file(folder: Path, name: bytes) -> None:
    with open(os.fsencode(folder) + b"/" + name, "wb") as file:
        file.write(b"bytes")


def folders(tmp_path: Path, count: int) -> tuple[Path, Path, Site]:
    source, destination = tmp_path / "from", tmp_path / "to"
    (source / "deep" / "er").mkdir(parents=True)
    for number in range(count):
        (source / ("deep/er" if number % 2 else ".") / f"{number}.txt").write_text(f"content {number}")
    return source, destination, Site(tmp_path / "site", {})


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, without the product's own."""
    if not root.exists():
        return {}
    found = [path for path in root.rglob("*") if path.is_file() and ".drayage" not in str(path.relative_to(root))]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}
