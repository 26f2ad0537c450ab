"""`explain`, `status` and `setup`: what is so, told to people and to programs, also while something is down."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from temporalio.client import Client
from temporalio.service import RPCError

from replication.ids import HOUSEKEEPING_ID
from tests.cli.site import Site
from tests.e2e.sides import S3Side
from tests.poll import eventually

PutKey = Callable[[bytes], str]


async def test_explain_shows_both_sides_the_decision_and_the_workflow(site: Site, new_key: PutKey, s3: S3Side, s3b: S3Side) -> None:
    key = new_key(b"explained")
    before = await site.starter("explain", "pair", key, "--json")
    await site.starter("copy", "pair", key, "--wait")
    after = await site.starter("explain", "pair", key, "--json")

    assert (before.code, before.stderr, after.code, after.stderr) == (0, "", 0, "")
    told = before.document
    assert (told["route"], told["key"], told["replica"]["exists"]) == ("pair", key, False)
    assert {name: told["source"][name] for name in ("store", "bucket", "key", "exists", "size_bytes")} == {
        "store": s3.name,
        "bucket": s3.bucket,
        "key": key,
        "exists": True,
        "size_bytes": 9,
    }
    assert (told["decision"]["action"], told["decision"]["reason"]) == ("copy", "replica-absent")
    assert told["plan"] == {"mode": "object", "server_side": False, "part_size": 0, "part_count": 0}
    assert told["workflow"] == {"id": f"object:pair:{key}", "open": None, "last": None}

    told = after.document
    assert (told["replica"]["bucket"], told["replica"]["key"]) == (s3b.bucket, key.replace("in/", "out/"))
    assert told["replica"]["mark"]["route"] == "pair"
    assert told["replica"]["checksums"]["crc32c"] == told["source"]["checksums"]["crc32c"]
    assert told["decision"]["action"] == "in_sync"
    assert told["plan"] is None
    assert (told["workflow"]["open"], told["workflow"]["last"]["status"]) == (None, "completed")
    assert told["workflow"]["last"]["result"]["outcome"] == "copied"


async def test_explain_tells_a_person_the_same_in_lines(site: Site, new_key: PutKey) -> None:
    key = new_key(b"lines")
    ended = await site.starter("explain", "pair", key)

    assert (ended.code, ended.stderr) == (0, "")
    lines = {line.split()[0]: line for line in ended.stdout.splitlines() if not line.startswith(" ")}
    assert list(lines) == ["object", "source", "replica", "decision", "plan", "workflow", "next"]
    assert lines["replica"].endswith("  absent")
    assert lines["decision"].split(None, 1)[1].startswith("copy, replica-absent: ")
    assert lines["next"].split(None, 1)[1] == "copy (replica-absent) by the next event, `copy` or pass; no pass is scheduled"


async def test_explain_of_a_key_that_the_route_leaves_out_says_by_which_rule(site: Site) -> None:
    ended = await site.starter("explain", "pair", f"in/{uuid.uuid4().hex}.tmp", "--json")

    assert ended.code == 0
    assert (ended.document["decision"]["action"], ended.document["decision"]["reason"]) == ("keep", "excluded")


async def test_explain_shows_the_workflow_also_when_a_store_is_unreachable(site: Site, new_key: PutKey) -> None:
    key = new_key(b"x")
    await site.starter("copy", "down", key, "--wait")
    ended = await site.starter("explain", "down", key, "--json")

    assert ended.code == 3
    assert ended.document["error"]["reason"] == "endpoint-unreachable"
    assert "decision" not in ended.document
    assert ended.document["workflow"]["open"]["phase"] == "waiting"
    assert ended.document["workflow"]["open"]["waiting_for"].startswith("endpoint-unreachable")


async def test_explain_shows_the_stores_also_when_temporal_is_unreachable(site: Site, new_key: PutKey, free_port: int) -> None:
    key = new_key(b"x")
    ended = await site.starter("explain", "pair", key, "--json", TEMPORAL_ADDRESS=f"127.0.0.1:{free_port}")

    assert ended.code == 3
    assert ended.document["decision"]["action"] == "copy"
    assert "cannot be reached" in ended.document["workflow"]["error"]


async def test_explain_of_a_blocked_object_shows_why_its_last_run_failed(site: Site, new_key: PutKey) -> None:
    key = new_key(b"x")
    await site.starter("copy", "homeless", key, "--wait")
    ended = await site.starter("explain", "homeless", key, "--json")

    assert ended.code == 1
    assert ended.document["error"]["reason"] == "bucket-not-found"
    assert ended.document["workflow"]["last"]["status"] == "failed"
    assert ended.document["workflow"]["last"]["result"]["reason"] == "bucket-not-found"
    resting = ended.document["quarantine"]
    assert (resting["state"], resting["reason"], resting["attempts"]) == ("blocked", "bucket-not-found", 1)
    assert resting["since"] == resting["last_at"]
    assert ended.document["next"] == {"what": "the operator must act; `retry` or the next pass looks again", "at": None}


# --- status ----------------------------------------------------------------------------------------------------------


async def test_status_shows_workers_and_what_the_stores_can_do(site: Site, s3: S3Side, s3b: S3Side) -> None:
    ended = await site.starter("status", "pair", "--json")

    assert (ended.code, ended.stderr) == (0, "")
    told = ended.document
    assert told["temporal"] == {"address": site.address, "namespace": "default"}
    assert len(told["workers"]["control"]) == len(told["workers"]["transfer"]) == 1
    assert [found["route"] for found in told["routes"]] == ["pair"]
    stores = {(found["store"], found["used_as"]): found for found in told["stores"]}
    assert set(stores) == {(s3.name, "source"), (s3b.name, "destination")}
    assert all(found["ok"] for found in stores.values())
    assert stores[s3b.name, "destination"]["capabilities"]["upload_checksum"]
    assert not [key for key in s3b.keys() if key.startswith(".drayage")]


async def test_status_counts_open_objects_by_phase_and_resting_ones_by_reason(site: Site, new_key: PutKey) -> None:
    await site.starter("copy", "down", new_key(b"x"), "--wait")
    await site.starter("copy", "homeless", new_key(b"x"), "--wait")

    async def counted() -> dict[str, int] | None:
        ended = await site.starter("status", "--json")
        assert ended.code == 3
        routes = {found["route"]: found for found in ended.document["routes"]}
        assert list(routes) == [found["name"] for found in site.document["routes"]]
        assert all(found["counted_all"] for found in routes.values())
        counts = routes["down"]["open"].get("waiting", 0), routes["homeless"]["resting"].get("blocked: bucket-not-found", 0)
        if all(counts):
            assert routes["down"]["lag_s"] > 0
            assert (routes["homeless"]["lag_s"], routes["homeless"]["in_sync"]) == (0, 0)
            assert routes["homeless"]["blocked"]["bucket-not-found"] >= 1
            assert routes["homeless"]["failed"] == {}
        return {"waiting": counts[0], "blocked": counts[1]} if all(counts) else None

    assert await eventually(counted, 15.0)


async def test_status_tells_which_store_fails_and_how_and_ends_with_3(site: Site) -> None:
    ended = await site.starter("status", "--json")

    assert ended.code == 3
    failing = {found["store"]: found["reason"] for found in ended.document["stores"] if not found["ok"] and found["store"] != "disk"}
    assert failing["nowhere"] == "endpoint-unreachable"
    assert failing["intruder"] in ("credentials-refused", "permission-refused")
    assert [found["reason"] for found in ended.document["stores"] if found["bucket"].startswith("gone-")] == ["bucket-not-found"]


async def test_status_without_a_worker_says_how_to_start_one(make_site: Callable[..., Site]) -> None:
    ended = await make_site().starter("status")

    assert ended.code == 0
    assert "control workers: none polls; python worker.py starts one" in ended.stdout.splitlines()
    assert "transfer workers: none polls; python worker.py starts one" in ended.stdout.splitlines()


# --- setup -----------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def no_schedule(temporal_client: Client) -> AsyncIterator[None]:
    """The schedule is one for each namespace: it goes when the test ends."""
    yield
    try:
        await temporal_client.get_schedule_handle(HOUSEKEEPING_ID).delete()
    except RPCError as error:
        raise AssertionError("no housekeeping was scheduled") from error


async def test_setup_may_run_twice(make_site: Callable[..., Site], no_schedule: None, temporal_client: Client) -> None:
    site = make_site()
    first = await site.starter("setup", "--json")
    await temporal_client.get_schedule_handle(HOUSEKEEPING_ID).pause(note="an operator says so")
    second = await site.starter("setup", "--json")
    schedule = (await temporal_client.get_schedule_handle(HOUSEKEEPING_ID).describe()).schedule

    assert (first.code, first.stderr, second.code, second.stderr) == (0, "", 0, "")
    assert (first.document["schedule_created"], second.document["schedule_created"]) == (True, False)
    assert second.document["search_attributes_added"] == []
    assert first.document["ledger_revision"] == second.document["ledger_revision"] != ""
    assert [found["ok"] for found in first.document["stores"]] == [True, True]
    assert [every.every.total_seconds() for every in schedule.spec.intervals] == [86_400]
    assert schedule.state.paused


async def test_explain_sees_routes_back_and_forth_as_a_worker_does(site: Site, tmp_path: Path) -> None:
    ends = [{"store": "disk", "bucket": bucket} for bucket in ("here", "there")]
    routes = [{"name": "out", "source": ends[0], "destination": ends[1]}, {"name": "home", "source": ends[1], "destination": ends[0]}]
    stores = {"disk": {"type": "file", "root": str(tmp_path)}}
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    site.write({"temporal": site.document["temporal"], "ledger": ledger, "stores": stores, "routes": routes}, "both-ways.yaml")
    for number, bucket in enumerate(("here", "there")):
        (tmp_path / bucket).mkdir()
        (tmp_path / bucket / "key").write_text(bucket)
        os.utime(tmp_path / bucket / "key", (1_000 + number, 1_000 + number))

    told = {route: await site.starter("explain", route, "key", "--json", "--config", "both-ways.yaml") for route in ("out", "home")}
    assert {route: ended.document["decision"]["reason"] for route, ended in told.items()} == {
        "out": "conflict-lost",
        "home": "conflict-won",
    }
