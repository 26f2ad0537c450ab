"""`copy`, run as a program against real servers: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.site import Site, interrupt
from tests.e2e.sides import GcsSide, S3Side
from tests.poll import eventually

PutKey = Callable[[bytes], str]


def replica(s3b: S3Side, key: str) -> str | None:
    """SHA-256 of what stands at the destination of `pair`."""
    seen = s3b.see(key.replace("in/", "out/", 1))
    return seen.sha256 if seen else None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_each_key_ends_as_one_json_line_and_a_second_run_finds_it_in_sync(site: Site, new_key: PutKey, s3b: S3Side) -> None:
    first, second = new_key(b"one"), new_key(b"two!")
    copied = await site.starter("copy", "pair", first, second, "--wait", "--json")
    again = await site.starter("copy", "pair", first, second, "--wait", "--json")

    assert (copied.code, copied.stderr) == (0, "")
    told = {line["key"]: (line["outcome"], line["bytes_copied"], line["verification"]) for line in copied.documents}
    assert told == {first: ("copied", 3, "end-to-end"), second: ("copied", 4, "end-to-end")}
    assert {line["reason"] for line in copied.documents} == {"replica-absent"}
    assert (replica(s3b, first), replica(s3b, second)) == (digest(b"one"), digest(b"two!"))
    assert again.code == 0
    assert {line["key"]: (line["outcome"], line["bytes_copied"]) for line in again.documents} == {
        first: ("in_sync", 0),
        second: ("in_sync", 0),
    }


async def test_a_person_reads_one_line_for_each_object_and_a_sum(site: Site, new_key: PutKey) -> None:
    key = new_key(b"12345")
    ended = await site.starter("copy", "pair", key, "--wait")

    assert (ended.code, ended.stderr) == (0, "")
    line, total = ended.stdout.splitlines()
    assert line.startswith(f"copied   {key}  5B, end-to-end, ")
    assert total == "1 objects: 1 copied; 5B sent"


async def test_a_key_that_is_named_twice_is_told_once(site: Site, new_key: PutKey) -> None:
    key = new_key(b"x")
    ended = await site.starter("copy", "pair", key, key, "--from-file", "-", "--wait", "--json", stdin=f"{key}\n".encode())

    assert (ended.code, ended.document["outcome"]) == (0, "copied")


@pytest.mark.parametrize("last", ["\n", ""], ids=["with-a-last-line-feed", "without"])
async def test_keys_come_from_standard_input_byte_for_byte(site: Site, s3: S3Side, s3b: S3Side, last: str) -> None:
    token = uuid.uuid4().hex
    keys = [f"in/{token} é ", f"in/{token}\t%2F"]
    for key in keys:
        s3.put(key, key.encode())
    ended = await site.starter("copy", "pair", "--from-file", "-", "--wait", "--json", stdin=("\n".join(keys) + last).encode())

    assert (ended.code, {line["key"] for line in ended.documents}) == (0, set(keys))
    assert [replica(s3b, key) for key in keys] == [digest(key.encode()) for key in keys]


async def test_keys_come_from_a_file_beside_those_of_the_command(site: Site, new_key: PutKey, tmp_path: Path) -> None:
    named, listed = new_key(b"named"), new_key(b"listed")
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{listed}\n")
    ended = await site.starter("copy", "pair", named, "--from-file", str(keys), "--wait", "--json")

    assert (ended.code, {line["key"]: line["outcome"] for line in ended.documents}) == (0, {named: "copied", listed: "copied"})


async def test_without_wait_the_command_names_the_workflow_and_the_copy_goes_on(site: Site, new_key: PutKey, s3b: S3Side) -> None:
    key = new_key(b"later")
    ended = await site.starter("copy", "pair", key, "--json")

    assert (ended.code, ended.stderr) == (0, "")
    assert {**ended.document, "run_id": ""} == {"key": key, "route": "pair", "workflow_id": f"object:pair:{key}", "run_id": ""}
    assert uuid.UUID(ended.document["run_id"])
    await eventually(lambda: replica(s3b, key) == digest(b"later"))


# --- what does not go well -------------------------------------------------------------------------------------------


async def test_an_endpoint_that_is_down_is_told_in_seconds_and_the_open_workflow_is_joined(site: Site, new_key: PutKey) -> None:
    key = new_key(b"x")
    began = time.monotonic()
    ended = await site.starter("copy", "down", key, "--wait", "--json")
    took_s = time.monotonic() - began
    first, second = await site.starter("copy", "down", key, "--json"), await site.starter("copy", "down", key, "--json")

    assert (ended.code, ended.document["outcome"], ended.document["reason"]) == (1, "waiting", "endpoint-unreachable")
    assert ended.document["message"]
    assert took_s < 20
    assert first.document["workflow_id"] == ended.document["workflow_id"]
    assert first.document["run_id"] == second.document["run_id"]

    async def rests() -> bool:
        return await site.phase("down", key) == "waiting"

    assert await eventually(rests, 20.0)


async def test_a_source_object_that_is_not_there_is_one_clear_line_and_exit_code_1(site: Site, no_key: str) -> None:
    ended = await site.starter("copy", "pair", no_key, "--wait")
    document = (await site.starter("copy", "pair", no_key, "--wait", "--json")).document

    assert (ended.code, ended.stderr) == (1, "")
    line, total = ended.stdout.splitlines()
    assert line.startswith(f"in_sync  {no_key}  both-absent: ")
    assert total == "1 objects: 1 in_sync; 0B sent"
    assert (document["outcome"], document["reason"]) == ("in_sync", "both-absent")


async def test_wrong_credentials_block_with_the_reason(site: Site, new_key: PutKey) -> None:
    ended = await site.starter("copy", "denied", new_key(b"x"), "--wait", "--json")

    assert (ended.code, ended.document["outcome"], ended.document["bytes_copied"]) == (1, "blocked", 0)
    # The answer to a HEAD has no body that could tell a wrong key from a missing permission.
    assert ended.document["reason"] in ("credentials-refused", "permission-refused")
    assert "not-the-secret" not in ended.stdout + ended.stderr


async def test_a_missing_bucket_blocks_and_the_other_keys_still_end(site: Site, new_key: PutKey, no_key: str) -> None:
    key = new_key(b"x")
    ended = await site.starter("copy", "homeless", key, no_key, "--wait", "--json")

    assert ended.code == 1
    told = {line["key"]: (line["outcome"], line["reason"]) for line in ended.documents}
    assert told == {key: ("blocked", "bucket-not-found"), no_key: ("blocked", "bucket-not-found")}


async def test_a_key_that_leads_out_of_the_folder_blocks_and_writes_nothing(site: Site, gcs: GcsSide) -> None:
    name = f"{uuid.uuid4().hex}-escaped"
    key = f"../../{name}"
    await asyncio.to_thread(gcs.put, key, b"x")
    ended = await site.starter("copy", "folder", key, "--wait", "--json")

    assert (ended.code, ended.document["outcome"], ended.document["reason"]) == (1, "blocked", "key-unrepresentable")
    top = Path(site.document["stores"]["disk"]["root"]).parent
    assert await asyncio.to_thread(lambda: list(top.rglob(f"*{name}*"))) == []


async def test_no_key_can_steer_the_terminal_of_a_person(site: Site, gcs: GcsSide) -> None:
    key = f"{uuid.uuid4().hex}\x1b[2J\u202e[red]"
    await asyncio.to_thread(gcs.put, key, b"x")
    ended = await site.starter("copy", "folder", key, "--wait")

    assert ended.code == 0
    assert "\x1b" not in ended.stdout
    assert "\u202e" not in ended.stdout
    assert "\\x1b[2J\\u202e[red]" in ended.stdout


@pytest.fixture
def locked(site: Site) -> Iterator[Path]:
    """The bucket of route `locked`: a read-only file system, because permissions do not bind root."""
    bucket = Path(site.document["stores"]["disk"]["root"]) / "locked"
    bucket.mkdir(exist_ok=True)
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a read-only file system")
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(bucket)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a read-only file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield bucket
    finally:
        subprocess.run(["umount", str(bucket)], check=True)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_read_only_destination_blocks(site: Site, new_key: PutKey, locked: Path) -> None:
    ended = await site.starter("copy", "locked", new_key(b"x"), "--wait", "--json")

    assert (ended.code, ended.document["outcome"], ended.document["reason"]) == (1, "blocked", "destination-read-only")
    assert names_in(locked) == []


# --- ends of the command itself --------------------------------------------------------------------------------------


async def test_an_interrupted_wait_ends_with_130_and_the_workflow_goes_on(
    make_site: Callable[..., Site], new_key: PutKey, s3b: S3Side
) -> None:
    lonely = make_site()
    key = new_key(b"nobody works yet")
    with lonely.launch("starter.py", "copy", "pair", key, "--wait") as child:
        assert child.stderr is not None
        note = await asyncio.to_thread(child.stderr.readline)
        ended = await interrupt(child)

    assert note.decode().startswith(f"no worker answers on task queue {lonely.queue}; waiting for one")
    assert ended.code == 130
    assert ended.problems == ["1 of 1 workflows were started; they go on without this command", "starter.py: interrupted"]
    assert replica(s3b, key) is None
    await lonely.worker()
    await eventually(lambda: replica(s3b, key) == digest(b"nobody works yet"), 20.0)


async def test_twenty_quick_commands_leave_in_order(site: Site, no_key: str) -> None:
    """The client's native threads outlive the event loop; one that answers late must not abort the process (134)."""
    codes: list[int] = []

    async def some(count: int) -> None:
        for _ in range(count):
            codes.append((await site.starter("copy", "pair", no_key)).code)

    await asyncio.gather(some(10), some(10))

    assert codes == [0] * 20
