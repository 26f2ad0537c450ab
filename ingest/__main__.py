"""Runs the configured ingestors until SIGTERM or SIGINT: `python -m ingest [--config PATH] [--watch-config]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest import inotify, metrics
from ingest.dispatch import Dispatcher, routes_by_bucket
from ingest.operator_messages import replicas_of
from ingest.pubsub import PubSubIngestor
from ingest.sqs import SqsIngestor, client_credentials
from ingest.watch import WatchIngestor
from ingest.webhook import Webhook
from replication.errors import SettingsError
from replication.ingest_settings import IngestSettings, WatchSettings
from replication.secrets import resolve_secret
from replication.settings import Settings, load_settings, settings_path
from replication.store_settings import FileSettings
from service.health import Health, Report, process_info, serving
from service.leaving import leave
from service.logs import configure_logging
from service.loop import run
from service.reloading import Reloading, start_again
from service.version import VERSION
from stores.registry import Stores
from workflows.client import TemporalUnreachable, connect, ensure_search_attributes, prometheus_runtime

log = logging.getLogger("drayage.ingest")


def ingest_problems(settings: IngestSettings) -> list[str]:
    """What keeps these ingestors from running, one line for each field."""
    if not (settings.sqs or settings.pubsub or settings.watch or settings.webhook):
        return ["ingest: nothing is configured to take events from"]
    native = [] if inotify.AVAILABLE else [number for number, watch in enumerate(settings.watch) if watch.mode == "native"]
    return [f"ingest.watch[{number}].mode: 'native' needs inotify, which this system has not; 'auto' polls" for number in native]


def check_ingest(settings: IngestSettings, environ: Mapping[str, str]) -> str:
    """The webhook's token, if there is one. Raises `SettingsError` for what keeps these ingestors from running."""
    if problems := ingest_problems(settings):
        raise SettingsError(problems)
    for number, queue in enumerate(settings.sqs):
        client_credentials(queue, environ, f"ingest.sqs[{number}]")
    return resolve_secret(settings.webhook.token, environ, field="ingest.webhook.token") if settings.webhook else ""


async def run_ingestors(settings: Settings, environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Connects, takes events until `stop` is set, finishes what it holds. Raises `SettingsError`, `TemporalUnreachable`."""
    ingest = settings.ingest
    token = check_ingest(ingest, environ)
    runtime = prometheus_runtime(ingest.metrics)
    metrics.bind(runtime.metric_meter)
    client = await connect(settings.temporal, environ, runtime=runtime)
    await ensure_search_attributes(client)
    dispatcher, stores = Dispatcher(client, settings.temporal.control_queue), Stores(settings, environ)
    try:
        await _run_all(Sources(settings, environ, stores, dispatcher, token), stop)
    finally:
        await dispatcher.close()
        await stores.close()


@dataclass(frozen=True)
class Sources:
    """The configured ingestors of one process. `token` is the webhook's."""

    settings: Settings
    environ: Mapping[str, str]
    stores: Stores
    dispatcher: Dispatcher
    token: str

    @property
    def names(self) -> list[str]:
        """Each as health and logs name it."""
        ingest = self.settings.ingest
        numbered = (("sqs", ingest.sqs), ("pubsub", ingest.pubsub), ("watch", ingest.watch))
        return [f"{kind}[{number}]" for kind, items in numbered for number in range(len(items))] + ["webhook"] * bool(ingest.webhook)

    def run(self, health: Health, stop: asyncio.Event) -> dict[str, Coroutine[Any, Any, None]]:
        """What each of them does until `stop` is set, by its name."""
        ingest, found = self.settings.ingest, dict[str, Coroutine[Any, Any, None]]()
        s3, gcs, replicas = routes_by_bucket(self.settings, "s3"), routes_by_bucket(self.settings, "gcs"), replicas_of(self.settings)
        for number, queue in enumerate(ingest.sqs):
            name = f"sqs[{number}]"
            report = health.report(name)
            sqs = SqsIngestor(queue, self.environ, self.dispatcher, s3, replicas, report=report, name=f"ingest.{name}")
            found[name] = sqs.run(stop)
        for number, subscription in enumerate(ingest.pubsub):
            name = f"pubsub[{number}]"
            found[name] = PubSubIngestor(subscription, self.dispatcher, gcs, report=health.report(name)).run(stop)
        for number, watch in enumerate(ingest.watch):
            name = f"watch[{number}]"
            found[name] = self._watch(watch, health.report(name)).run(stop)
        if ingest.webhook:
            webhook = Webhook(ingest.webhook, self.token, self.dispatcher, s3, replicas, health.report("webhook"))
            found["webhook"] = webhook.run(stop)
        return found

    def _watch(self, watch: WatchSettings, report: Report) -> WatchIngestor:
        """The settings are checked: the source of a watched route is a file store."""
        route = self.settings.route(watch.route)
        store = self.settings.stores[route.source.store]
        assert isinstance(store, FileSettings)
        return WatchIngestor(watch, route, Path(store.root) / route.source.bucket, self.stores, self.dispatcher, report=report)


async def _run_all(sources: Sources, stop: asyncio.Event) -> None:
    """Every ingestor side by side; the first that cannot run ends all."""
    health = Health(sources.names, {"temporal": sources.dispatcher.takes_starts})
    info = process_info("ingest", sources=sources.names)
    try:
        async with serving(sources.settings.ingest.health, "ingest.health", health, info), asyncio.TaskGroup() as running:
            for name, work in sources.run(health, stop).items():
                health.attach(name, running.create_task(work))
            log.info("ingest is ready: %s", ", ".join(sources.names))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _main(settings: Settings, options: argparse.Namespace) -> bool:
    """True when the ingestors are to start again, with another configuration."""
    stop = asyncio.Event()
    reloading = Reloading(settings, lambda: _load(options.config), stop)
    reloading.listen()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with reloading.watching(settings_path(options.config, os.environ) if options.watch_config else None):
        await run_ingestors(settings, os.environ, stop)
    return reloading.wanted


def _load(path: Path | None) -> Settings:
    settings = load_settings(path, os.environ)
    check_ingest(settings.ingest, os.environ)
    return settings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ingest", description="Runs Drayage's ingestors until SIGTERM.")
    parser.add_argument("--config", type=Path, help="configuration file (default: $DRAYAGE_CONFIG, then drayage.yaml)")
    parser.add_argument("--watch-config", action="store_true", help="take a changed configuration over, as SIGHUP does")
    parser.add_argument("--version", action="version", version=f"drayage {VERSION}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a signal, 2 for a wrong configuration, 3 when Temporal cannot be reached at the start."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    configure_logging()
    try:
        again = run(_main(_load(options.config), options))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    except TemporalUnreachable as error:
        print(error, file=sys.stderr)
        return 3
    if again:
        start_again(Path(__file__).parents[1], ["-m", "ingest", *arguments])
    return 0


if __name__ == "__main__":
    leave(main())
