"""One message of an SQS queue, judged: what to start for it, and why it is poisoned, if it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingest.dispatch import RoutesByBucket, Target, targets_of
from ingest.events import ChangeEvent, Nothing, OperatorRequest, Quarantined, parse_sqs_body
from ingest.operator_messages import Replicas, requested


@dataclass(frozen=True, slots=True)
class Message:
    """`notes` tell what asks for nothing; `unroutable` events belong to no route."""

    receipt: str
    body: str
    receives: int
    sent_at: float
    targets: frozenset[Target]
    unroutable: tuple[ChangeEvent, ...] = ()
    notes: tuple[str, ...] = ()
    poison: tuple[str, ...] = ()


def read_message(raw: Mapping[str, Any], routes: RoutesByBucket, replicas: Replicas) -> Message:
    """Judges one message of a ReceiveMessage answer. Raises nothing for any body."""
    body, attributes = raw.get("Body", ""), raw.get("Attributes", {})
    outcomes = parse_sqs_body(body)
    routed = [(event, targets_of(event, routes)) for event in outcomes if isinstance(event, ChangeEvent)]
    asked = [requested(request, replicas) for request in outcomes if isinstance(request, OperatorRequest)]
    return Message(
        receipt=raw["ReceiptHandle"],
        body=body,
        receives=int(attributes.get("ApproximateReceiveCount", 1)),
        sent_at=int(attributes.get("SentTimestamp", 0)) / 1000,
        targets=frozenset([target for _, found in routed for target in found or ()] + [t for found in asked for t in found.targets]),
        unroutable=tuple(event for event, found in routed if found is None),
        notes=tuple(
            [outcome.reason for outcome in outcomes if isinstance(outcome, Nothing)] + [found.problem for found in asked if found.problem]
        ),
        poison=tuple(sorted({outcome.reason for outcome in outcomes if isinstance(outcome, Quarantined)})),
    )
