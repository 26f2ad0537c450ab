"""What a body that was posted to the webhook asks for. Pure; no input raises."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ingest.dispatch import RoutesByBucket, Target, targets_of
from ingest.events import ChangeEvent, Nothing, OperatorRequest, Outcome, Quarantined, Reason, parse_sqs_body
from ingest.operator_messages import Replicas, requested
from ingest.seaweed_events import parse_seaweed_event

_TOPIC = re.compile(r"arn:aws[a-z-]{0,10}:sns:[a-z0-9-]{1,30}:[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
_CONFIRMATION = re.compile(r"[0-9A-Za-z]{1,1024}")


@dataclass(frozen=True, slots=True)
class Subscription:
    """An SNS topic that asks whether it may send here, and the token that says yes to SNS. Both are checked for their
    characters only: whether the topic is the right one, a person decides."""

    topic: str
    confirmation: str

    @property
    def advice(self) -> str:
        """For the log. The address that the message names is not in it: a person might follow it unread."""
        command = f"aws sns confirm-subscription --topic-arn {self.topic} --token {self.confirmation}"
        return f"SNS topic {self.topic} asks for confirmation; if it is yours: {command}"


@dataclass(frozen=True, slots=True)
class Reading:
    """`targets` has one entry for each event and route, so a target may stand in it twice. `notes` has a reason for each
    record that asks for nothing, `poison` one for each that cannot be read."""

    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    unroutable: tuple[ChangeEvent, ...] = ()
    poison: tuple[Reason, ...] = ()
    subscription: Subscription | None = None

    @property
    def ignored(self) -> int:
        return len(self.notes) + (self.subscription is not None)

    @property
    def is_unreadable(self) -> bool:
        """There is nothing in the body that could be read."""
        return bool(self.poison) and not (self.targets or self.ignored or self.unroutable)


def read_body(body: bytes, routes: RoutesByBucket, replicas: Replicas) -> Reading:
    """Reads a SeaweedFS filer event, or whatever `parse_sqs_body` reads, or an SNS request to confirm a subscription.

    A filer tells of every bucket it has, so a bucket of no route is no mistake there.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return Reading(poison=("not-json",))
    if (subscription := _subscription(text)) is not None:
        return Reading(subscription=subscription)
    if (outcomes := parse_seaweed_event(text)) is not None:
        outcomes = [Nothing("other-bucket") if _is_elsewhere(outcome, routes) else outcome for outcome in outcomes]
    return _routed(outcomes or parse_sqs_body(text), routes, replicas)


def _is_elsewhere(outcome: Outcome, routes: RoutesByBucket) -> bool:
    return isinstance(outcome, ChangeEvent) and outcome.bucket not in routes


def _routed(outcomes: Iterable[Outcome], routes: RoutesByBucket, replicas: Replicas) -> Reading:
    targets: list[Target] = []
    notes: list[str] = []
    unroutable: list[ChangeEvent] = []
    poison: list[Reason] = []
    for outcome in outcomes:
        match outcome:
            case ChangeEvent():
                found = targets_of(outcome, routes)
                if found is None:
                    unroutable.append(outcome)
                else:
                    targets += found
                    notes += [] if found else ["skipped"]
            case OperatorRequest():
                asked = requested(outcome, replicas)
                targets += asked.targets
                notes += [asked.problem] if asked.problem else []
            case Nothing():
                notes.append(outcome.reason)
            case Quarantined():
                poison.append(outcome.reason)
    return Reading(tuple(targets), tuple(notes), tuple(unroutable), tuple(poison))


def _subscription(text: str) -> Subscription | None:
    if '"SubscriptionConfirmation"' not in text:
        return None
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("Type") != "SubscriptionConfirmation":
        return None
    topic, confirmation = document.get("TopicArn"), document.get("Token")
    if not isinstance(topic, str) or not isinstance(confirmation, str):
        return None
    return Subscription(topic, confirmation) if _TOPIC.fullmatch(topic) and _CONFIRMATION.fullmatch(confirmation) else None
