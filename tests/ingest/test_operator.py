"""Operators' requests for single keys, on the same queues as events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ingest.dispatch import Target
from ingest.events import Nothing, OperatorRequest, Outcome, Quarantined, parse_sqs_body
from ingest.operator_messages import Requested, replicas_of, requested
from replication.ids import object_workflow_id
from replication.settings import parse_settings
from tests.ingest.conftest import Rig
from tests.ingest.test_events import sns
from tests.poll import eventually


def body(source: Any = "aws", destination: Any = "gcp", key: Any = "k") -> str:
    return json.dumps({"source_replica": source, "dest_replica": destination, "key": key})


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (body(), OperatorRequest("aws", "gcp", "k")),
        (sns(body()), OperatorRequest("aws", "gcp", "k")),
        (body(key="a+b%2Bc d/"), OperatorRequest("aws", "gcp", "a+b%2Bc d/")),
        (body(source=None), Nothing("operator-malformed")),
        (body(destination=7), Nothing("operator-malformed")),
        (body(key=""), Nothing("operator-malformed")),
        (body(key="k" * 1025), Nothing("operator-malformed")),
        (body(key="\ud800"), Nothing("operator-malformed")),
        ('{"source_replica": "aws"}', Nothing("operator-malformed")),
        ('{"dest_replica": "gcp", "key": "k"}', Nothing("operator-malformed")),
        ('{"key": "k"}', Quarantined("unknown-envelope")),
        ('{"Type": "SubscriptionConfirmation", "SubscribeURL": "http://x/"}', Nothing("subscription-confirmation")),
    ],
)
def test_a_request_is_read_with_its_key_as_it_is(text: str, outcome: Outcome) -> None:
    assert parse_sqs_body(text) == [outcome]


def route(name: str, source: str, destination: str, prefix: str = "", **more: Any) -> dict[str, Any]:
    ends = {"source": {"store": source, "bucket": "b", "prefix": prefix}, "destination": {"store": destination, "bucket": f"to-{name}"}}
    return {"name": name, **ends, **more}


@pytest.mark.parametrize(
    ("source", "destination", "key", "found"),
    [
        ("aws", "gcp", "raw/k", Requested((Target("all", "raw/k"), Target("raw", "raw/k")))),
        ("aws", "gcp", "raw/k.tmp", Requested((Target("all", "raw/k.tmp"),))),
        ("aws", "gcp", "k", Requested((Target("all", "k"),))),
        ("gcp", "aws", "k", Requested(problem="operator-key-not-replicated")),
        ("aws", "aws", "k", Requested(problem="operator-same-replica")),
        ("gcp", "gcp", "k", Requested(problem="operator-same-replica")),
        ("aws", "moon", "k", Requested(problem="operator-no-route")),
        ("moon", "gcp", "k", Requested(problem="operator-no-route")),
    ],
)
def test_a_request_means_every_route_between_the_two_stores_that_takes_the_key(
    source: str, destination: str, key: str, found: Requested
) -> None:
    routes = [
        route("all", "aws", "gcp"),
        route("raw", "aws", "gcp", "raw/", exclude=["*.tmp"]),
        route("back", "gcp", "aws", "only/"),
        route("inside", "aws", "aws"),
    ]
    settings = parse_settings({"stores": {"aws": {"type": "s3"}, "gcp": {"type": "gcs", "project": "p"}}, "routes": routes})
    assert requested(OperatorRequest(source, destination, key), replicas_of(settings)) == found


async def test_requests_copy_single_keys_and_mistakes_stop_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    odd = "dir/a+b%2B c"
    rig.source.put(odd, b"odd")
    requests = [body("source", "source"), body("source", "moon"), body("source", "replica", 7), body("source", "replica", "k.tmp")]
    ingestor = rig.ingestor()
    async with rig.worker(), rig.ingest(ingestor):
        rig.queue.send(*requests, body("source", "replica", "missing"), body("source", "replica", odd))
        await rig.replicated(odd, b"odd")
        await eventually(lambda: rig.queue.left() == 0, 20, interval_s=0.1)
        missing = rig.client.get_workflow_handle(object_workflow_id(rig.route, "missing"))
        assert (await missing.result())["outcome"] in ("in_sync", "kept")
    assert rig.replica.keys() == {odd}
    problems = ["operator-same-replica", "operator-no-route", "operator-malformed", "operator-key-not-replicated"]
    assert [ingestor.counts[problem] for problem in problems] == [1, 1, 1, 1]
    assert not [name for name in ingestor.counts if name.startswith("quarantined")]
    warned = [record for record in caplog.records if record.getMessage() == "a message asks for nothing"]
    assert sorted(vars(record)["reason"] for record in warned) == sorted(problems)
