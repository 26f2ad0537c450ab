"""What an endpoint is told of passes and deletions, sent by a worker that runs as its users start it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError

from tests.cli.conftest import MakeSite
from tests.cli.lane import Lane, make_lane
from tests.e2e.sides import S3Side
from tests.poll import eventually
from tests.receiver import Receiver

EVERYTHING = ["pass-failed", "pass-ended", "deletions-held"]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@pytest.fixture
async def lane(make_site: MakeSite, s3: S3Side, s3b: S3Side, receiver: Receiver) -> Lane:
    """A route with guarded deletions, whose worker tells the receiver everything."""
    made = make_lane(make_site, s3, s3b, deletes={"mode": "mirror", "max_objects": 1})
    made.site.document["notify"] = {"url": receiver.url, "token": "env:HOOK", "events": EVERYTHING}
    made.site.environ["HOOK"] = "a secret of the hook"
    made.site.write(made.site.document)
    return made


async def test_the_end_of_a_pass_and_deletions_that_wait_are_told(lane: Lane, receiver: Receiver) -> None:
    worker = await lane.site.worker()
    await lane.put(1, 2, 3)
    await lane.starter("reconcile", "--wait")
    await eventually(lambda: len(receiver.taken) == 1, 20)
    (ended,) = receiver.taken
    counters = ended["counters"]
    assert (ended["event"], ended["route"], ended["mode"], ended["state"]) == ("pass-ended", lane.name, "repair", "done")
    assert (counters["listed"], counters["copied"], counters["failed"]) == (3, 3, 0)
    assert ended["text"] == f"{lane.name}: repair done: 3 listed, 3 copied"
    assert datetime.now(UTC) - datetime.fromisoformat(ended["at"]) < timedelta(minutes=5)
    assert [request[:2] for request in receiver.requests] == [("/hook?a=b", "Bearer a secret of the hook")]

    await lane.remove(1, 2)
    await lane.starter("reconcile", "--wait")
    await eventually(lambda: len(receiver.taken) == 2, 20)
    held = receiver.taken[1]
    assert (held["event"], held["pass_id"] != ended["pass_id"]) == ("deletions-held", True)
    assert held["text"] == f"{lane.name}: deletions wait for `starter.py approve {lane.name}`: 2 deletions, more than 1"
    await lane.starter("approve")
    await eventually(lambda: len(receiver.taken) == 3, 30)
    assert (receiver.taken[2]["event"], receiver.taken[2]["counters"]["deleted"]) == ("pass-ended", 2)
    await lane.starter("reconcile", "--dry-run", "--wait")
    await lane.starter("verify", "--json")
    await eventually(lambda: len(receiver.taken) == 4, 20)
    assert receiver.taken[3]["mode"] == "verify", "a plan is nobody's business"
    assert "a secret of the hook" not in worker.log.read_text()


async def test_a_token_that_is_not_there_is_refused_at_the_start(lane: Lane) -> None:
    del lane.site.environ["HOOK"]
    ended = await lane.site.worker_ends()
    assert (ended.code, ended.problems[-1]) == (2, "notify.token: the environment variable HOOK is not set")


async def test_a_mass_deletion_by_changes_is_told_once_an_hour(lane: Lane, receiver: Receiver) -> None:
    await lane.site.worker()
    await lane.put(1, 2, 3)
    await lane.starter("reconcile", "--wait")
    await lane.remove(1, 2, 3)
    before = datetime.now(UTC)
    for _ in range(2):
        await lane.starter("copy", *(lane.key(number) for number in (1, 2, 3)), "--wait", "--json")
    await eventually(lambda: ("deletions-held", lane.name) in receiver.events(), 20)
    told = receiver.events().count(("deletions-held", lane.name))
    assert told == 1 or (told == 2 and datetime.now(UTC).hour != before.hour)


async def test_what_fails_is_told_and_sent_again_until_it_is_taken(lane: Lane, receiver: Receiver, temporal_client: Client) -> None:
    lane.site.document["routes"][0]["destination"]["bucket"] = "no-such-bucket"
    lane.site.document["notify"]["events"] = ["pass-failed"]
    lane.site.write(lane.site.document)
    receiver.answers.extend([503])
    await lane.site.worker()
    await lane.put(1)
    failed = await lane.starter("reconcile", "--wait")
    await eventually(lambda: receiver.taken, 40)
    assert failed.code == 1
    assert [document["event"] for _, _, document in receiver.requests] == ["pass-failed", "pass-failed"]
    (told,) = receiver.taken
    assert (told["state"], told["reason"]) == ("failed", "bucket-not-found")


@pytest.mark.parametrize("status", [400, 302])
async def test_an_endpoint_that_refuses_is_asked_once_and_the_workflow_says_so(
    lane: Lane, receiver: Receiver, temporal_client: Client, status: int
) -> None:
    receiver.answers.append(status)
    await lane.site.worker()
    await lane.put(1)
    await lane.starter("reconcile", "--wait")
    await eventually(lambda: receiver.requests, 20)
    notice = receiver.requests[0][2]
    handle = temporal_client.get_workflow_handle(f"notice:pass-ended:{lane.name}:{notice['pass_id']}")
    with pytest.raises(WorkflowFailureError) as refused:
        await asyncio.wait_for(handle.result(), 60)
    reason: Any = refused.value.cause.__cause__
    assert (reason.type, str(reason)) == ("notice-refused", f"notice-refused: the endpoint of notices answered {status}")
    assert (len(receiver.requests), receiver.taken) == (1, [])
