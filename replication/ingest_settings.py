"""The settings of ingest: where change notifications come from."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from replication.secrets import SecretRef
from replication.store_settings import Count, Endpoint, HostPort, Region, SettingsModel, check_key_pair, split_url
from replication.units import Duration, Size


def _queue_url(value: str) -> str:
    if split_url(value).path in ("", "/"):
        raise ValueError("must be the URL of a queue, its path included")
    return value


def _subscription(value: str) -> str:
    if not re.fullmatch(r"projects/[^/\s]+/subscriptions/[^/\s]+", value):
        raise ValueError("must be projects/PROJECT/subscriptions/NAME")
    return value


class SqsSettings(SettingsModel):
    """An SQS queue of S3 events. Without keys, the default AWS credential chain."""

    queue_url: Annotated[str, AfterValidator(_queue_url)]
    endpoint: Endpoint | None = None
    region: Region = "us-east-1"
    access_key_id: SecretRef | None = None
    secret_access_key: SecretRef | None = None
    session_token: SecretRef | None = None

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> SqsSettings:
        check_key_pair(self.access_key_id, self.secret_access_key, self.session_token)
        return self


class PubSubSettings(SettingsModel):
    """A Pub/Sub subscription to GCS notifications. `PUBSUB_EMULATOR_HOST` is honoured by the client."""

    subscription: Annotated[str, AfterValidator(_subscription)]


class WatchSettings(SettingsModel):
    """A watch on the source directory of a route; a file counts when it has been `quiet` for that long.

    `mode` `native` uses the kernel's notifications (Linux only), `poll` compares listings every `interval`, and `auto` polls
    where the system or the file system (NFS and the like) has no notifications.
    """

    route: str
    quiet: Duration = 30.0
    mode: Literal["auto", "native", "poll"] = "auto"
    interval: Annotated[Duration, Field(gt=0)] = 1.0


class WebhookSettings(SettingsModel):
    """An HTTP listener for events, guarded by a bearer token; `rate` bounds the requests per second, `max_body` one body."""

    listen: HostPort
    token: SecretRef
    rate: Count = 500
    max_body: Size = 1024 * 1024


class IngestSettings(SettingsModel):
    """`metrics` serves Prometheus metrics, `health` serves `/livez` and `/readyz`; None serves nothing."""

    metrics: HostPort | None = None
    health: HostPort | None = None
    sqs: tuple[SqsSettings, ...] = ()
    pubsub: tuple[PubSubSettings, ...] = ()
    watch: tuple[WatchSettings, ...] = ()
    webhook: WebhookSettings | None = None
