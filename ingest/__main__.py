"""Runs the configured ingestors until SIGTERM or SIGINT: `python -m ingest [--config PATH]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from ingest import metrics
from ingest.dispatch import Dispatcher, routes_by_bucket
from ingest.health import Health, serve_health
from ingest.operator_messages import replicas_of
from ingest.sqs import SqsIngestor, client_credentials
from replication.errors import SettingsError
from replication.ingest_settings import IngestSettings
from replication.logs import configure_logging
from replication.settings import Settings, load_settings
from workflows.client import TemporalUnreachable, connect, ensure_search_attributes, leave, prometheus_runtime

log = logging.getLogger("drayage.ingest")

ABSENT_KINDS = ("pubsub", "watch", "webhook")
"""Sections that the configuration knows and this release has no ingestor for."""


def ingest_problems(settings: IngestSettings) -> list[str]:
    """What keeps these ingestors from running, one line for each field."""
    absent = [name for name in ABSENT_KINDS if getattr(settings, name)]
    problems = [f"ingest.{name}: this release has no such ingestor" for name in absent]
    if not problems and not settings.sqs:
        problems = ["ingest: nothing is configured to take events from"]
    return problems


async def run_ingestors(settings: Settings, environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Connects, takes events until `stop` is set, finishes what it holds. Raises `SettingsError`, `TemporalUnreachable`."""
    ingest = settings.ingest
    if problems := ingest_problems(ingest):
        raise SettingsError(problems)
    for number, queue in enumerate(ingest.sqs):
        client_credentials(queue, environ, f"ingest.sqs[{number}]")
    runtime = prometheus_runtime(ingest.metrics)
    metrics.bind(runtime.metric_meter)
    client = await connect(settings.temporal, environ, runtime=runtime)
    await ensure_search_attributes(client)
    dispatcher = Dispatcher(client, settings.temporal.control_queue)
    try:
        await _run_all(settings, environ, dispatcher, stop)
    finally:
        await dispatcher.close()


async def _run_all(settings: Settings, environ: Mapping[str, str], dispatcher: Dispatcher, stop: asyncio.Event) -> None:
    """Every ingestor side by side; the first that cannot run ends all."""
    ingest = settings.ingest
    names = [f"sqs[{number}]" for number in range(len(ingest.sqs))]
    health = Health(names, lambda: dispatcher.available)
    s3, replicas = routes_by_bucket(settings, "s3"), replicas_of(settings)
    try:
        async with asyncio.TaskGroup() as running:
            if ingest.health:
                running.create_task(serve_health(ingest.health, health, stop))
            for number, queue in enumerate(ingest.sqs):
                name = f"sqs[{number}]"
                follower = SqsIngestor(queue, environ, dispatcher, s3, replicas, report=health.report(name), name=f"ingest.{name}")
                running.create_task(follower.run(stop))
            log.info("ingest is ready: %s", ", ".join(names))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await run_ingestors(settings, os.environ, stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a signal, 2 for a wrong configuration, 3 when Temporal cannot be reached at the start."""
    parser = argparse.ArgumentParser(prog="python -m ingest", description="Runs Drayage's ingestors until SIGTERM.")
    parser.add_argument("--config", type=Path, help="configuration file (default: $DRAYAGE_CONFIG, then drayage.yaml)")
    options = parser.parse_args(arguments)
    configure_logging()
    try:
        _run(_main(load_settings(options.config, os.environ)))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except TemporalUnreachable as error:
        print(error, file=sys.stderr)
        return 3
    return 0


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


if __name__ == "__main__":
    leave(main())
