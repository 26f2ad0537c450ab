"""Runs a worker until SIGTERM or SIGINT: `python worker.py [--role all|control|transfer] [--config PATH] [--watch-config]`.

`control` runs the workflows and the activities that look, decide, publish and sweep; `transfer` moves bytes. Both poll
their own task queue, so that a fleet can scale them apart. This is the only place that wires things.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from activities import metrics
from activities._boundary import Boundary
from activities.budgets import StoreBudgets
from activities.deletions import Permits
from activities.housekeeping import HousekeepingActivities
from activities.notices import NoticeActivities, Notices, token_of
from activities.objects import AwaitObjects, ObjectActivities
from activities.passes import PassActivities
from activities.shares import Shares
from activities.standing import Standing
from activities.steering import Steerings
from activities.streams import Ways
from activities.turns import Turns
from ledger.ledger import Ledger
from replication.errors import LedgerUnavailable, SettingsError
from replication.settings import Settings, check_roots, load_settings, settings_path
from service.health import Health, process_info, serving
from service.leaving import leave
from service.logs import configure_logging
from service.loop import run
from service.reloading import Reloading, start_again
from service.version import VERSION
from stores.registry import Stores
from workflows.bytecode import bytecode_of
from workflows.client import TemporalUnreachable, answers, connect, ensure_search_attributes, prometheus_runtime
from workflows.deletions import RouteDeletions
from workflows.housekeeping import Housekeeping
from workflows.notice import SendNotice, sender
from workflows.object import ReplicateObject
from workflows.partition import ReconcilePartition
from workflows.passes import ReconcileRoute, VerifyRoute
from workflows.search import count_open
from workflows.start import await_object

log = logging.getLogger("drayage.worker")

HEARTBEAT_THROTTLE = timedelta(seconds=5)
PROBE_TIMEOUT = timedelta(seconds=2)
WORKFLOWS: Sequence[type] = (ReplicateObject, ReconcileRoute, ReconcilePartition, VerifyRoute, RouteDeletions, Housekeeping, SendNotice)


def build_workers(client: Client, settings: Settings, stores: Stores, ledger: Ledger, role: str) -> list[Worker]:
    """The workers of a role, not yet running."""
    notices = Notices(settings.notify, sender(client, settings.temporal.control_queue))
    permits, turns, shares = Permits(client, settings, stores, notices), Turns(), Shares(ledger)
    steerings = Steerings(client, shares, StoreBudgets(settings, shares))
    ways = Ways(settings.worker.transfer_slots * settings.worker.streams)
    await_objects = _await_objects(client, settings.temporal.control_queue)
    objects = ObjectActivities(settings, stores, ledger, permits, steerings, turns, ways, await_objects)
    passes = PassActivities(settings, stores, ledger, permits, steerings, turns, notices)
    sweeps = HousekeepingActivities(settings, stores, client)
    control: list[Callable[..., Any]] = [
        objects.settle_object, objects.complete_copy, objects.abort_copy, objects.quarantine_object,
        sweeps.list_routes, sweeps.sweep_orphans, NoticeActivities(settings, os.environ).send_notice,
    ]  # fmt: skip
    control += [passes.begin_pass, passes.split_range, passes.weigh_deletions, passes.end_pass]
    transfer: list[Callable[..., Any]] = [objects.copy_object, objects.copy_part_run]
    bulk: list[Callable[..., Any]] = [passes.scan_range, passes.delete_extra]
    workers = []
    if role in ("all", "control"):
        queue, slots = settings.temporal.control_queue, settings.worker.control_slots
        workers.append(_worker(client, settings, queue, slots, control, workflows=WORKFLOWS))
    if role in ("all", "transfer"):
        queue, slots = settings.temporal.transfer_queue, settings.worker.transfer_slots
        workers.append(_worker(client, settings, queue, slots, transfer))
        queue, slots = settings.temporal.bulk_queue, settings.worker.bulk_slots
        workers.append(_worker(client, settings, queue, slots, bulk))
    return workers


def _await_objects(client: Client, queue: str) -> AwaitObjects:
    async def awaited(route: str, keys: Sequence[str], waiter: str, for_s: float) -> None:
        await asyncio.gather(*(await_object(client, queue, route, key, waiter, for_s) for key in keys))

    return awaited


def _worker(
    client: Client,
    settings: Settings,
    queue: str,
    slots: int,
    activities: list[Callable[..., Any]],
    workflows: Sequence[type] = (),
) -> Worker:
    return Worker(
        client,
        task_queue=queue,
        workflows=workflows,
        activities=activities,
        interceptors=[Boundary(settings.worker.retries.schedules)],
        max_concurrent_activities=slots,
        max_concurrent_workflow_tasks=min(100, max(4, slots)) if workflows else None,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=timedelta(seconds=settings.worker.graceful_stop),
    )


@contextlib.asynccontextmanager
async def running(workers: Sequence[Worker]) -> AsyncIterator[None]:
    """While the block runs, they poll. Afterwards all of them stop at once, so that all activities get the same time to finish."""
    async with contextlib.AsyncExitStack() as polling:
        for worker in workers:
            await polling.enter_async_context(worker)
        yield
        await asyncio.gather(*(worker.shutdown() for worker in workers))


def _health(settings: Settings, role: str, client: Client, ledger: Ledger) -> contextlib.AbstractAsyncContextManager[None]:
    """Serves health. A worker that fails ends the process, so whoever gets an answer talks to one that polls."""

    async def temporal_answers() -> bool:
        return await answers(client, PROBE_TIMEOUT)

    async def ledger_answers() -> bool:
        await ledger.find("", "")
        return True

    health = Health(probes={"temporal": temporal_answers, "ledger": ledger_answers})
    queue, routes = settings.temporal.task_queue, [route.name for route in settings.routes]
    return serving(settings.worker.health, "worker.health", health, process_info("worker", role=role, task_queue=queue, routes=routes))


@contextlib.asynccontextmanager
async def _gauges(settings: Settings, role: str, client: Client, ledger: Ledger) -> AsyncIterator[None]:
    """While the block runs, a worker with the control role that serves metrics tells where the routes stand."""
    if settings.worker.metrics is None or role == "transfer":
        yield
        return
    standing = Standing(ledger, [route.name for route in settings.routes], partial(count_open, client))
    telling = asyncio.create_task(standing.run())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _look_at(ledger: Ledger) -> None:
    """A ledger that is away, or of another release, stops no worker: it may be there when it is needed."""
    try:
        await ledger.find("", "")
    except LedgerUnavailable as error:
        log.warning("%s; what needs it waits", error)


def open_stores(settings: Settings, environ: Mapping[str, str]) -> Stores:
    """Every store that a route names. Raises `SettingsError` for a secret of theirs, or of notices, that is not there."""
    token_of(settings.notify, environ)
    stores = Stores(settings, environ)
    for name in sorted({location.store for route in settings.routes for location in (route.source, route.destination)}):
        stores.get(name)
    return stores


async def run_worker(settings: Settings, role: str, environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Connects, polls until `stop` is set, finishes or hands back what runs, closes everything."""
    runtime = prometheus_runtime(settings.worker.metrics)
    metrics.bind(runtime.metric_meter)
    stores, ledger = open_stores(settings, environ), Ledger(settings.ledger)
    try:
        client = await connect(settings.temporal, environ, runtime=runtime)
        await ensure_search_attributes(client)
        with bytecode_of(WORKFLOWS):
            workers = build_workers(client, settings, stores, ledger, role)
            async with running(workers), _health(settings, role, client, ledger), _gauges(settings, role, client, ledger):
                log.info("worker is ready: role %s, task queue %s, %d routes", role, settings.temporal.task_queue, len(settings.routes))
                await _look_at(ledger)
                await stop.wait()
                log.info("worker is stopping")
    finally:
        await stores.close()
        await ledger.close()


async def _main(settings: Settings, options: argparse.Namespace) -> bool:
    """True when the worker is to start again, with another configuration."""
    # What was imported lives as long as the process; objects on their way make much garbage that is no cycle.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    stop = asyncio.Event()
    reloading = Reloading(settings, lambda: _load_anew(options.config), stop)
    reloading.listen()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    with ThreadPoolExecutor(max_workers=settings.worker.threads, thread_name_prefix="drayage") as threads:
        loop.set_default_executor(threads)
        async with reloading.watching(settings_path(options.config, os.environ) if options.watch_config else None):
            await run_worker(settings, options.role, os.environ, stop)
    return reloading.wanted


def _load(path: Path | None) -> Settings:
    settings = load_settings(path, os.environ)
    check_roots(settings, lambda root: Path(os.path.realpath(root)))
    return settings


def _load_anew(path: Path | None) -> Settings:
    settings = _load(path)
    open_stores(settings, os.environ)  # and drops them: they hold nothing yet
    return settings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="worker.py", description="Runs a Drayage worker until SIGTERM.")
    parser.add_argument("--role", choices=("all", "control", "transfer"), default="all", help="which task queues to poll (default: all)")
    parser.add_argument("--config", type=Path, help="configuration file (default: $DRAYAGE_CONFIG, then drayage.yaml)")
    parser.add_argument("--watch-config", action="store_true", help="take a changed configuration over, as SIGHUP does")
    parser.add_argument("--version", action="version", version=f"drayage {VERSION}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a signal, 2 for a wrong configuration, 3 when Temporal cannot be reached."""
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
        start_again(Path(__file__).parent, [__file__, *arguments])
    return 0


if __name__ == "__main__":
    leave(main())
