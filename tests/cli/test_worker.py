"""`worker.py` as a process: its roles, its end, its metrics and its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedded.ports import free_port
from embedded.temporal import TemporalServer
from service.version import VERSION
from tests.cli.conftest import PART, route
from tests.cli.site import Site
from tests.conftest import running
from tests.e2e.sides import GcsSide, S3Side
from tests.faults.rig import WorkerProcess, noise, sha256
from tests.poll import eventually

PutKey = Callable[[bytes], str]
MakeSite = Callable[..., Site]
GRACE_S = 2.0
STOP_S = 15.0
"""The graceful time, and what a process on a busy machine needs to close everything."""


def lines(worker: WorkerProcess) -> list[dict[str, Any]]:
    """The log; fails where a line is not one JSON object."""
    found = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    return found


async def test_an_idle_worker_stops_at_sigterm_with_0_and_wrote_only_json(make_site: MakeSite) -> None:
    worker = await make_site().worker()
    code = await worker.terminate(STOP_S)

    assert code == 0
    assert worker.log.with_suffix(".out").read_bytes() == b""
    messages = [line["message"] for line in lines(worker)]
    assert "worker is stopping" in messages


async def test_a_worker_whose_ledger_cannot_be_used_says_so_before_anything_needs_it(make_site: MakeSite, tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
    worker = await make_site(ledger=f"sqlite:///{newer}").worker()

    def told() -> list[dict[str, Any]]:
        return [line for line in lines(worker) if line["level"] == "warning"]

    assert await eventually(lambda: bool(told()), 20.0)
    assert "the schema '9999', of another release; what needs it waits" in told()[0]["message"]
    assert await worker.terminate(STOP_S) == 0


async def test_both_roles_in_processes_of_their_own_do_the_job_together_and_serve_metrics(
    make_site: MakeSite, s3b: S3Side, new_key: PutKey
) -> None:
    site = make_site()
    address, other = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    data = noise(2 * PART + 1)
    key, small = new_key(data), new_key(b"small")
    await site.worker("control", metrics=address)
    started = await site.starter("copy", "pair", key, small, "--json")
    alone = await asyncio.to_thread(scrape, address)
    await site.worker("transfer", metrics=other)
    ended = await site.starter("copy", "pair", key, small, "--wait", "--json")
    status = (await site.starter("status", "pair", "--json")).document

    assert (started.code, ended.code) == (0, 0)
    assert "drayage_objects_total" not in alone or 'outcome="copied"} 2' not in alone
    seen = s3b.see(key.replace("in/", "out/"))
    assert seen is not None
    assert seen.sha256 == sha256(data)
    assert len(status["workers"]["control"]) == len(status["workers"]["transfer"]) == 1
    assert status["workers"]["control"] != status["workers"]["transfer"]
    control, transfer = await asyncio.to_thread(scrape, address), await asyncio.to_thread(scrape, other)
    assert samples(control, "drayage_objects_total", route="pair", outcome="copied") == 2
    assert samples(transfer, "drayage_bytes_total", route="pair") == len(data)
    assert samples(transfer, "drayage_activity_seconds_count", activity="copy_part_run") >= 1
    assert samples(control, "drayage_activity_seconds_count", activity="settle_object") >= 2
    assert samples(control, "temporal_worker_task_slots_available") > 0
    assert "temporal_activity_schedule_to_start_latency" in transfer
    assert key not in control + transfer


async def test_gauges_tell_where_the_routes_stand(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    prefix = f"in/{uuid.uuid4().hex}/"
    for name in "abc":
        await asyncio.to_thread(s3.put, prefix + name, b"12345")
    routes = [
        route("fine", s3, s3b.name, s3b.bucket, before=prefix, after=prefix),
        route("homeless", s3, s3b.name, f"gone-{uuid.uuid4().hex}", before=prefix),
    ]
    site, address = make_site(routes=routes), f"127.0.0.1:{free_port()}"
    first = await site.worker()
    passed = await site.starter("reconcile", "fine", "--wait", "--json")
    blocked = await site.starter("copy", "homeless", prefix + "a", prefix + "b", "--wait", "--json")
    assert (passed.code, blocked.code) == (0, 1)
    assert await first.terminate(STOP_S) == 0
    before = time.time()

    await site.worker("control", metrics=address)
    await eventually(lambda: samples(scrape(address), "drayage_resting_objects") > 0, 20, interval_s=0.2)
    told = scrape(address)
    assert samples(told, "drayage_resting_objects", route="homeless", reason="bucket-not-found") == 2
    assert samples(told, "drayage_pending_deletions", route="fine") == 0
    for counter, count in (("listed", 3), ("copied", 3), ("failed", 0), ("bytes_listed", 15)):
        assert samples(told, "drayage_last_pass", route="fine", mode="repair", counter=counter) == count
    assert before - 300 < samples(told, "drayage_last_pass_ended_seconds", route="fine", mode="repair") < before
    assert told.count("drayage_open_objects{") == 10


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def samples(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.rpartition(" ")[2]) for line in found if all(label in line for label in wanted))


async def test_a_failure_is_one_json_line_with_its_subject_and_no_key_can_forge_another(
    make_site: MakeSite, gcs: GcsSide, tmp_path_factory: Any
) -> None:
    disk = tmp_path_factory.mktemp("bare")
    plain = make_site()
    routes = [{"name": "bare", "source": {"store": gcs.name, "bucket": gcs.bucket}, "destination": {"store": "disk", "bucket": "gone"}}]
    stores = {gcs.name: gcs.settings(), "disk": {"type": "file", "root": str(disk)}}
    site = Site(plain.folder, {**plain.document, "stores": stores, "routes": routes})
    key = f'{uuid.uuid4().hex}\x1b[2J\u2028\t{{"level": "forged"}}'
    await asyncio.to_thread(gcs.put, key, b"x")
    worker = await site.worker()
    try:
        ended = await site.starter("copy", "bare", key, "--wait", "--json")
        await worker.terminate(STOP_S)
    finally:
        site.close()

    assert (ended.code, ended.document["key"], ended.document["reason"]) == (1, key, "bucket-not-found")
    told = [line for line in lines(worker) if line.get("reason") == "bucket-not-found" and line["logger"] == "drayage.activity"]
    assert [(line["route"], line["key"], line["activity"], line["level"]) for line in told] == [("bare", key, "settle_object", "warning")]
    raw = worker.log.read_bytes()
    assert raw.isascii()
    assert b"\x1b" not in raw


# --- health, and a changed configuration -------------------------------------------------------------------------------


def asked(address: str, path: str) -> tuple[int, Any]:
    """Status and JSON of an answer; (0, None) without one."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


def routes_of(address: str) -> list[str]:
    _, info = asked(address, "/info")
    return list(info["routes"]) if info else []


def rewrite(worker: WorkerProcess, change: Callable[[dict[str, Any]], None]) -> None:
    """The configuration of a worker, changed as an editor does: all at once."""
    path = worker.log.with_suffix(".yaml")
    document = json.loads(path.read_text())
    change(document)
    path.with_suffix(".new").write_text(json.dumps(document))
    path.with_suffix(".new").replace(path)


def second_route(document: dict[str, Any]) -> None:
    first = document["routes"][0]
    document["routes"].append({**first, "name": "second", "destination": {**first["destination"], "prefix": "second/"}})


async def test_a_worker_tells_what_it_is_and_what_it_lacks(make_site: MakeSite, tmp_path: Path) -> None:
    with running(TemporalServer(headless=True)) as server:
        plain = make_site()
        ledger = tmp_path / "ledger.db"
        document = {
            **plain.document,
            "temporal": {**plain.document["temporal"], "address": server.address},
            "ledger": f"sqlite:///{ledger}",
        }
        site = Site(plain.folder, document, plain.environ)
        address = f"127.0.0.1:{free_port()}"
        try:
            worker = await site.worker("transfer", health=address)
            assert asked(address, "/livez") == (200, [])
            await eventually(lambda: asked(address, "/readyz") == (200, []), 20, interval_s=0.2)
            info = asked(address, "/info")[1]
            assert {name: info[name] for name in ("program", "version", "role", "task_queue", "routes")} == {
                "program": "worker",
                "version": VERSION,
                "role": "transfer",
                "task_queue": site.queue,
                "routes": ["pair"],
            }
            await asyncio.to_thread(server.kill)
            await eventually(lambda: [found["name"] for found in asked(address, "/readyz")[1]] == ["temporal"], 20, interval_s=0.2)
            assert asked(address, "/livez") == (200, [])
            await asyncio.to_thread(server.restart)
            await eventually(lambda: asked(address, "/readyz") == (200, []), 30, interval_s=0.2)
            assert await worker.terminate(STOP_S) == 0
        finally:
            site.close()


async def test_a_ledger_that_is_away_ends_readiness_and_no_worker(make_site: MakeSite) -> None:
    plain = make_site()
    site = Site(plain.folder, {**plain.document, "ledger": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}, plain.environ)
    address = f"127.0.0.1:{free_port()}"
    try:
        await site.worker("transfer", health=address)
        status, wrong = asked(address, "/readyz")
        assert (status, [(found["name"], found["cause"]) for found in wrong]) == (503, [("ledger", "does not answer")])
        assert asked(address, "/livez") == (200, [])
    finally:
        site.close()


async def test_an_address_of_health_that_is_taken_is_refused_by_its_field(make_site: MakeSite) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        plain = make_site()
        site = Site(plain.folder, {**plain.document, "worker": {**plain.document["worker"], "health": address}}, plain.environ)
        ended = await site.worker_ends()
    assert ended.code == 2
    assert ended.problems[-1].startswith(f"worker.health: cannot listen on {address}: ")


async def test_a_changed_configuration_is_taken_over_at_sighup(make_site: MakeSite, s3b: S3Side, new_key: PutKey) -> None:
    site = make_site()
    address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    worker = await site.worker("all", health=address, metrics=metrics)
    data = noise(2 * PART)
    key = new_key(data)
    await site.starter("copy", "pair", key)
    rewrite(worker, second_route)
    worker.child.send_signal(signal.SIGHUP)
    await eventually(lambda: routes_of(address) == ["pair", "second"], 40, interval_s=0.2)
    assert worker.running
    assert samples(await asyncio.to_thread(scrape, metrics), "temporal_worker_task_slots_available") > 0
    site.write(json.loads(worker.log.with_suffix(".yaml").read_text()))
    for name, before in (("pair", "out/"), ("second", "second/")):
        ended = await site.starter("copy", name, key, "--wait", "--json")
        assert (ended.code, ended.document["outcome"] in ("copied", "in_sync")) == (0, True), ended
        seen = await asyncio.to_thread(s3b.see, key.replace("in/", before))
        assert seen is not None
        assert seen.sha256 == sha256(data)
    assert [line["message"] for line in lines(worker) if line["logger"] == "drayage.service"] == [
        "the configuration has changed: starting again"
    ]
    assert await worker.terminate(STOP_S) == 0


async def test_a_configuration_that_cannot_be_used_is_told_and_changes_nothing(make_site: MakeSite, new_key: PutKey) -> None:
    site = make_site()
    address = f"127.0.0.1:{free_port()}"
    worker = await site.worker("all", health=address)
    began = asked(address, "/info")[1]["started_at"]

    async def tells(text: str) -> None:
        """At SIGHUP, as the last line of the log about its configuration."""
        worker.child.send_signal(signal.SIGHUP)
        await eventually(lambda: [line["message"] for line in lines(worker) if line["logger"] == "drayage.service"][-1:] == [text], 10)

    await tells("the configuration says what it said before")
    for change, problem in (
        (lambda document: document["routes"][0].update(delets="mirror"), "routes[0].delets: unknown field (did you mean 'deletes'?)"),
        (
            lambda document: document["routes"][0].pop("delets") and document["stores"]["s3"].update(secret_access_key="env:NOT_SET"),
            "stores.s3.secret_access_key: the environment variable NOT_SET is not set",
        ),
    ):
        rewrite(worker, change)
        await tells(f"the configuration is not taken over: {problem}")
    assert asked(address, "/info")[1]["started_at"] == began
    ended = await site.starter("copy", "pair", new_key(b"still"), "--wait", "--json")
    assert (ended.code, ended.document["outcome"]) == (0, "copied")
    assert await worker.terminate(STOP_S) == 0


async def test_a_watched_configuration_needs_no_signal(make_site: MakeSite) -> None:
    address = f"127.0.0.1:{free_port()}"
    worker = await make_site().worker("control", "--watch-config", health=address)
    rewrite(worker, second_route)
    await eventually(lambda: routes_of(address) == ["pair", "second"], 40, interval_s=0.2)
    rewrite(worker, lambda document: document["routes"].pop())
    await eventually(lambda: routes_of(address) == ["pair"], 40, interval_s=0.2)
    assert await worker.terminate(STOP_S) == 0
