"""`history`, `report`, `undo`, and what `explain` and `status` tell from the ledger."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import route
from tests.cli.lane import Lane, make_lane
from tests.cli.site import Site
from tests.e2e.sides import FileSide, S3Side

MakeSite = Callable[..., Site]


@pytest.fixture
def lane(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> Lane:
    return make_lane(make_site, s3, s3b, deletes={"mode": "mirror", "hold": "1h"})


async def test_the_history_of_an_object_tells_each_change_from_the_oldest_on(lane: Lane) -> None:
    await lane.site.worker()
    (key,) = await lane.put(1, data=b"first")
    await lane.starter("reconcile", "--wait")
    await lane.put(1, data=b"and second")
    await lane.starter("copy", key, "--wait")
    told = await lane.starter("history", key)
    lines = (await lane.starter("history", key, json=False)).stdout.splitlines()
    other = await lane.starter("history", lane.key(2))

    assert (told.code, told.stderr) == (0, "")
    assert [(entry["sequence"], entry["action"], entry["size_bytes"]) for entry in told.documents] == [(1, "copied", 5), (2, "copied", 10)]
    assert told.documents[1]["workflow"] == f"object:{lane.name}:{key}"
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert (other.code, other.stdout) == (0, "")
    assert other.problems == [f"no change of this object is on record in route {lane.name}"]


async def test_a_chain_that_somebody_changed_is_told_with_where_it_broke(lane: Lane) -> None:
    await lane.site.worker()
    await lane.put(*range(3))
    await lane.starter("reconcile", "--wait")
    whole = await lane.starter("history", "--check")
    with sqlite3.connect(lane.site.document["ledger"].removeprefix("sqlite:///")) as database:
        database.execute("UPDATE audit SET size_bytes = 7 WHERE sequence = 2")
    database.close()
    broken = await lane.starter("history", "--check")
    told = await lane.starter("history", "--check", json=False)

    assert whole.code == 0
    assert (whole.document["intact"], whole.document["entries"], len(whole.document["head"])) == (True, 3, 64)
    assert broken.code == 1
    assert (broken.document["intact"], broken.document["broken_at"]) == (False, 2)
    assert told.code == 1
    assert told.stdout.startswith(f"broken at 2 after 1 entries of route {lane.name}: entry 2 ")


async def test_a_trail_that_does_not_go_on_from_the_head_that_was_kept_is_broken(lane: Lane) -> None:
    await lane.site.worker()
    await lane.put(1)
    await lane.starter("reconcile", "--wait")
    kept = (await lane.starter("history", "--check")).document["head"]
    await lane.put(2)
    await lane.starter("reconcile", "--wait")
    grown = await lane.starter("history", "--check", "--head", kept, json=False)
    broken = await lane.starter("history", "--check", "--head", "0" * 64)
    told = await lane.starter("history", "--check", "--head", "0" * 64, json=False)

    assert (grown.code, grown.stdout.split(",")[0]) == (0, f"intact: 2 entries of route {lane.name}")
    assert (broken.code, broken.document["intact"], broken.document["broken_at"]) == (1, False, None)
    assert broken.document["head"] in grown.stdout
    expected = f"broken after 2 entries of route {lane.name}: none of them has the head that was kept\n"
    assert (told.code, told.stdout) == (1, expected)


async def test_a_report_tells_each_object_once_in_its_state(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    """One was blocked while there was no bucket; of the two that were copied then, one is gone from its source."""
    bucket = f"late-{uuid.uuid4().hex}"
    lane = make_lane(make_site, s3, s3b, bucket=bucket, deletes={"mode": "mirror", "hold": "1h"})
    await lane.site.worker()
    keys = await lane.put(1, 2, 3)
    assert (await lane.starter("copy", keys[2], "--wait")).code == 1
    s3b.client.create_bucket(Bucket=bucket)
    others = ("reconcile", "--exclude", "*3", "--wait")
    assert (await lane.starter(*others)).document["copied"] == 2
    await lane.remove(2)
    assert (await lane.starter(*others)).document["extra"] == 1

    told = await lane.starter("report")
    assert (told.code, told.stderr) == (0, "")
    states = {line["key"]: (line["state"], line.get("reason")) for line in told.documents}
    assert states == {keys[0]: ("in_sync", None), keys[1]: ("deletion_pending", None), keys[2]: ("blocked", "bucket-not-found")}
    assert list(states) == keys
    for state, key in zip(("in_sync", "deletion_pending", "blocked"), keys, strict=True):
        assert [line["key"] for line in (await lane.starter("report", "--state", state)).documents] == [key]
    assert (await lane.starter("report", "--state", "failed")).stdout == ""
    lines = (await lane.starter("report", json=False)).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["in_sync", keys[0]], ["deletion_pending", keys[1]], ["blocked", keys[2]]]

    (summed,) = (await lane.starter("report", "--by-prefix", "1")).documents
    counts = {"in_sync": 1, "waiting": 0, "blocked": 1, "failed": 0, "deletion_pending": 1}
    assert summed == {"route": lane.name, "prefix": f"{lane.name}/", "objects": 3, **counts, "size_bytes": 1}
    shown = (await lane.starter("report", "--by-prefix", "1", "--state", "in_sync", json=False)).stdout
    assert shown == f"{lane.name}/  1 in_sync; 1B in sync\n"
    wrong = await lane.starter("report", "--by-prefix", "0")
    assert (wrong.code, "--by-prefix" in wrong.problems[-1]) == (2, True)

    status = await lane.status()
    assert (status["in_sync"], status["blocked"], status["failed"]) == (1, {"bucket-not-found": 1}, {})
    assert status["pending_deletions"] == 1


async def test_undo_forgets_pending_deletions_and_explain_tells_them_before(lane: Lane) -> None:
    await lane.site.worker()
    keys = await lane.put(1, 2, 3)
    await lane.starter("reconcile", "--wait")
    await lane.remove(2, 3)
    await lane.starter("reconcile", "--wait")
    explained = (await lane.starter("explain", keys[1])).document
    lines = (await lane.starter("explain", keys[1], json=False)).stdout
    undone = await lane.starter("undo")
    again = await lane.starter("undo", json=False)
    after = (await lane.starter("explain", keys[1])).document

    assert explained["receipt"]["matches"] == {"source": False, "replica": True}
    assert explained["pending_deletion"]["since"] < explained["pending_deletion"]["not_before"] == explained["next"]["at"]
    assert explained["next"]["what"].startswith("its replica is deleted by the first pass after ")
    assert "since then the source changed" in lines
    assert lines.splitlines()[-1].count(explained["next"]["at"]) == 1
    assert (undone.code, undone.document) == (0, {"route": lane.name, "dropped": 2})
    assert again.stdout == f"forgotten: 0 pending deletions of route {lane.name}\n"
    assert after["pending_deletion"] is None
    assert await lane.replicas() == 3


async def test_explain_tells_the_receipt_and_whether_it_still_holds(lane: Lane) -> None:
    await lane.site.worker()
    (key,) = await lane.put(1)
    await lane.starter("copy", key, "--wait")
    fresh = (await lane.starter("explain", key)).document
    await lane.put(1, data=b"longer")
    stale = (await lane.starter("explain", key)).document

    assert fresh["receipt"]["matches"] == {"source": True, "replica": True}
    assert fresh["receipt"]["verification"]
    assert (fresh["quarantine"], fresh["pending_deletion"]) == (None, None)
    assert fresh["next"]["what"].startswith("nothing until it changes: ")
    assert stale["receipt"]["matches"] == {"source": False, "replica": True}
    assert stale["next"]["what"].endswith("; no pass is scheduled")


async def test_a_ledger_that_cannot_be_reached_is_told_and_the_rest_as_well(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    lane = make_lane(make_site, s3, s3b, ledger="sqlite:////nowhere/at/all/drayage.db")
    (key,) = await lane.put(1)
    status = await lane.starter("status")
    told = await lane.starter("status", json=False)
    explained = await lane.starter("explain", key)

    assert (status.code, len(status.problems)) == (3, 1)
    assert status.document["ledger"]["ok"] is False
    assert (status.document["routes"][0]["route"], status.document["routes"][0]["lag_s"]) == (lane.name, 0)
    assert all(store["ok"] for store in status.document["stores"])
    assert (told.code, told.problems) == (3, status.problems)
    assert told.problems[0].startswith("the ledger does not answer")
    assert f"{lane.name}: the ledger does not answer; lag 0s" in told.stdout
    assert explained.code == 3
    assert explained.document["decision"]["action"] == "copy"
    for arguments in (["history", key], ["history", "--check"], ["report"], ["undo"]):
        ended = await lane.starter(*arguments)
        assert (ended.code, ended.stdout, len(ended.problems)) == (3, "", 1), arguments


async def test_reconcile_names_what_could_not_be_settled(make_site: MakeSite, tmp_path: Path) -> None:
    here, there = FileSide("here", tmp_path / "a"), FileSide("there", tmp_path / "b")
    here.put("in/good", b"good")
    here.put("in/bad\udcff\n", b"bad")
    stores = {"here": here.settings(), "there": there.settings()}
    site = make_site(stores=stores, routes=[route("pair", here, "there", there.bucket)])
    await site.worker()
    told = await site.starter("reconcile", "pair", "--wait", "--json")
    text = await site.starter("reconcile", "pair", "--wait")
    assert (told.code, text.code) == (1, 1)
    assert told.document["notes"] == ["in/bad\\xff\\n: key-invalid: the name is not UTF-8"]
    assert text.stdout.splitlines()[-1] == "  in/bad\\xff\\n: key-invalid: the name is not UTF-8"
