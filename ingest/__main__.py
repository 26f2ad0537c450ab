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

from ingest.dispatch import Dispatcher, routes_by_bucket
from ingest.sqs import SqsIngestor, client_credentials
from replication.errors import SettingsError
from replication.ingest_settings import IngestSettings
from replication.logs import configure_logging
from replication.settings import Settings, load_settings
from workflows.client import TemporalUnreachable, connect, ensure_search_attributes, leave

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
    if problems := ingest_problems(settings.ingest):
        raise SettingsError(problems)
    for queue in settings.ingest.sqs:
        client_credentials(queue, environ)
    client = await connect(settings.temporal, environ)
    await ensure_search_attributes(client)
    dispatcher, routes = Dispatcher(client, settings.temporal.control_queue), routes_by_bucket(settings, "s3")
    ingestors = [SqsIngestor(queue, environ, dispatcher, routes) for queue in settings.ingest.sqs]
    log.info("ingest is ready: %d queues, %d buckets", len(ingestors), len(routes))
    await asyncio.gather(*(ingestor.run(stop) for ingestor in ingestors))


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
