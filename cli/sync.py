"""`sync SOURCE DESTINATION`: one command that brings a Temporal server, a worker and a ledger of its own.

What is under way when it is interrupted stays in the server's database, and goes on when the same command is run again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError

from cli import sync_pass
from cli.filters import filters_of, limits_of
from cli.live import with_open_partitions
from cli.output import Output, printable
from cli.passes import tell_findings
from cli.session import INTERRUPTED
from cli.sync_engine import ROOT, Engine
from cli.sync_pass import Ending, Handle, OpenPass
from cli.sync_state import State, configuration, pair_id, state_home
from cli.sync_urls import Place, beside, check_pair, parse_place, short_url
from cli.sync_view import View, tell
from cli.unsettled import unsettled
from ledger.ledger import Ledger
from replication.errors import LedgerUnavailable, UsageError
from replication.passes import PassInput, PassProgress
from replication.secrets import resolve_secret
from replication.settings import TemporalSettings, parse_settings
from service.leaving import leave

STARTER = ROOT / "starter.py"
LIVE_S = 0.5
QUIET_S = 1.0
LAST_LOOK_S = 2.0
SECRETS = ("access_key_id", "secret_access_key", "session_token")
NOT_ASKED = frozenset({"command", "source", "destination", "json", "approve", "concurrency", "bandwidth"})
"""Options that do not change what a pass is to do: it is joined whatever they are."""


@dataclass(frozen=True)
class Request:
    """One command, with everything checked that can be without contacting anybody."""

    source: Place
    destination: Place
    deletes: dict[str, Any] | None
    asked: PassInput
    options: str
    """What the pass is to do, as it was typed: an age such as `7d` is the same on the next day."""
    approve: bool
    state: State

    def configuration(self, address: str) -> dict[str, Any]:
        destination = self.destination
        if self.asked.mode == "plan" and destination.folder is not None and not os.path.isdir(destination.folder):
            store = {"type": "file", "root": str(self.state.folder)}
            destination = Place(store, self.state.nothing.name, "")
        return configuration(self.state, self.source, destination, deletes=self.deletes, address=address, cpus=os.cpu_count())


def prepare(options: argparse.Namespace, environ: Mapping[str, str], output: Output) -> Coroutine[Any, Any, int]:
    """The command, ready to run. Raises `UsageError` or `SettingsError`; nothing is made and nobody is contacted."""
    request = request_of(options, environ)
    parse_settings(request.configuration("127.0.0.1:7233"))
    for typed, place in zip(_typed(options), (request.source, request.destination), strict=True):
        if typed != place:
            output.note(f"{short_url(typed)} is taken as the folder {short_url(place)}")
    return run(request, environ, output)


def request_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Request:
    source, destination = _typed(options)
    source, destination = beside(destination, source), beside(source, destination)
    check_pair(source, destination)
    _check_folders(source, destination)
    _check_secrets(source, destination, environ)
    if options.start_after and not options.start_after.startswith(source.prefix):
        raise UsageError("argument --start-after: is not below the prefix of SOURCE: a full key is needed")
    state = State(state_home(environ), pair_id(source, destination), dry=options.dry_run)
    typed = {name: value for name, value in vars(options).items() if name not in NOT_ASKED}
    asked = PassInput(
        route=state.name, mode="plan" if options.dry_run else "repair", filters=filters_of(options), limits=limits_of(options)
    )
    return Request(
        source=source,
        destination=destination,
        deletes=_deletes(options),
        asked=asked,
        options=json.dumps(typed, default=repr, sort_keys=True),
        approve=options.approve,
        state=state,
    )


def _typed(options: argparse.Namespace) -> tuple[Place, Place]:
    return (
        parse_place("SOURCE", options.source, os.path.realpath),
        parse_place("DESTINATION", options.destination, os.path.realpath),
    )


def _deletes(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.max_delete is not None and not options.delete:
        raise UsageError("argument --max-delete: needs --delete")
    if not options.delete:
        return None
    # Who names a number means it; the share of the replicas is the guard of those who do not.
    capped = {} if options.max_delete is None else {"max_objects": options.max_delete, "max_percent": 100}
    return {"mode": "mirror", **capped}


def _check_folders(source: Place, destination: Place) -> None:
    if source.folder is not None and not os.path.isdir(source.folder):
        raise UsageError(f"argument SOURCE: path: {printable(source.folder)} is not a folder that exists")
    if destination.folder is not None and os.path.exists(destination.folder) and not os.path.isdir(destination.folder):
        raise UsageError(f"argument DESTINATION: path: {printable(destination.folder)} is not a folder")


def _check_secrets(source: Place, destination: Place, environ: Mapping[str, str]) -> None:
    for argument, place in (("SOURCE", source), ("DESTINATION", destination)):
        for name in SECRETS:
            if reference := place.store.get(name):
                resolve_secret(reference, environ, field=f"argument {argument}: {name}")


async def run(request: Request, environ: Mapping[str, str], output: Output) -> int:
    """Holds the pair's lock from here to the end. Raises `UsageError`, `TemporalUnreachable`."""
    with request.state.locked():
        engine, view = Engine(request.state, environ), View()
        with _interruptible(engine, output):
            try:
                with view.shown():
                    ending = await _pass(request, engine, view, output)
            except asyncio.CancelledError:
                ending = _interrupted(view)
            finally:
                await engine.stop()
        if ending.state == "done" and not ending.progress.counters.waiting and request.deletes is None:
            # With deletions on, the count of those made lately stays, so that the next run cannot make as many again.
            request.state.forget_workflows()
    ending = replace(ending, notes=(*ending.notes, *await _unsettled(request.state, ending.progress, output)))
    if request.asked.mode == "plan":
        await _tell_plan(request.state, ending, output)
    tell(output, ending, short_url(request.source), short_url(request.destination))
    _advise(output, ending)
    return ending.code


async def _pass(request: Request, engine: Engine, view: View, output: Output) -> Ending:
    view.stage("starting Temporal …")
    address = await engine.start_server()
    client = await engine.connect()
    found = await _found(request, client, output)
    _make_folders(request)
    request.state.write_config(request.configuration(address))
    view.stage("starting the worker …")
    await engine.start_worker()
    view.stage("comparing …")
    handle = await _joined(request, found, client, engine, view, output) if found else None
    if handle is None:
        handle = await sync_pass.start(client, TemporalSettings().control_queue, request.asked, request.options)
    every_s = LIVE_S if view.is_live else QUIET_S
    try:
        ending = await sync_pass.follow(client, handle, every_s=every_s, show=view.show, check=engine.check)
    except asyncio.CancelledError:
        await _look_once_more(client, handle, view)
        raise
    return _of_this_run(ending, view)


async def _look_once_more(client: Client, handle: Handle, view: View) -> None:
    """What is told at the end is what the pass knows then, and not what was shown last."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_LOOK_S):
            if (found := await sync_pass.progress_of(handle)) is not None:
                view.last = await with_open_partitions(client, found)


def _of_this_run(ending: Ending, view: View) -> Ending:
    """A pass that was joined had copied something before, and took its time for that."""
    joined = view.joined
    return ending if joined is None else replace(ending, seconds=view.seconds, bytes_before=joined.counters.bytes_copied)


async def _found(request: Request, client: Client, output: Output) -> OpenPass | None:
    """The pass that an interrupted run left. One with other options is cancelled before a worker can go on with it."""
    found = await sync_pass.open_pass(client, request.asked)
    if found is None:
        if request.approve:
            output.note("--approve: nothing is held")
    elif found.options != request.options:
        if request.approve:
            raise UsageError("argument --approve: what is held was started with other options: give the same ones")
        await sync_pass.cancel(found.handle)
    return found


async def _joined(request: Request, found: OpenPass, client: Client, engine: Engine, view: View, output: Output) -> Handle | None:
    """The handle of the pass to follow, brought to the limits of this command; None once it has made way for a new one."""
    if found.options != request.options:
        await sync_pass.cancelled(found.handle)
        return None
    progress = await with_open_partitions(client, await sync_pass.first_progress(found.handle, engine.check))
    if request.approve:
        await _approve(found.handle, progress, output)
    elif progress.state == "waiting":
        # It looks again only after a while; a new one looks at once.
        await sync_pass.cancel(found.handle)
        await sync_pass.cancelled(found.handle)
        return None
    output.note("goes on where the last run stopped")
    view.joined = progress
    await sync_pass.limit(found.handle, progress, request.asked.limits)
    return found.handle


async def _approve(handle: Handle, progress: PassProgress, output: Output) -> None:
    """Lets the deletions go on that the last run told of, and no later ones."""
    if progress.state != "held":
        output.note("--approve: nothing is held")
        return
    with suppress(RPCError, WorkflowUpdateFailedError):  # it ended before it could hear that
        await handle.execute_update("approve")


async def _unsettled(state: State, progress: PassProgress, output: Output) -> list[str]:
    def listing(resting: str) -> str:
        told = ["report", state.name, "--state", resting, "--config", str(state.config.absolute())]
        return shlex.join([sys.executable, str(STARTER), *told])

    if not progress.pass_id:
        return []
    ledger = Ledger(state.ledger_url)
    try:
        return await unsettled(ledger, progress.pass_id, progress.mode, progress.counters, listing)
    except LedgerUnavailable as error:
        output.note(f"the ledger cannot be read: {error}")
        return []
    finally:
        await ledger.close()


async def _tell_plan(state: State, ending: Ending, output: Output) -> None:
    """One line for each difference, once all are known."""
    if ending.state not in ("done", "incomplete") or not ending.progress.pass_id:
        return
    ledger = Ledger(state.ledger_url)
    try:
        await tell_findings(output, ledger, ending.progress.pass_id)
    except LedgerUnavailable as error:
        output.note(f"the ledger cannot be read: {error}")
    finally:
        await ledger.close()


def _make_folders(request: Request) -> None:
    """A destination folder comes into being with the first run that writes."""
    if request.asked.mode == "plan":
        request.state.nothing.mkdir(exist_ok=True)
    elif request.destination.folder is not None:
        try:
            Path(request.destination.folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"argument DESTINATION: path: cannot be made: {error.strerror}") from None


@contextmanager
def _interruptible(engine: Engine, output: Output) -> Iterator[None]:
    """Ctrl-C and SIGTERM cancel what runs here; the second one kills the children and this process."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked = False

    def interrupt() -> None:
        nonlocal asked
        if asked:
            engine.kill()
            leave(INTERRUPTED)
        asked = True
        output.note("stopping; once more kills")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _interrupted(view: View) -> Ending:
    return _of_this_run(Ending(INTERRUPTED, "interrupted", view.last or view.joined or PassProgress(route=""), view.seconds), view)


def _advise(output: Output, ending: Ending) -> None:
    """What to do now, on standard error."""
    reason = ending.reason.strip()
    match ending.state:
        case "done":
            return
        case "interrupted":
            output.note("interrupted: run the same command again to go on from here")
        case "held":
            output.note(f"held: {reason}: run the same command with --approve to let these deletions go on")
        case "waiting":
            output.note(f"waiting: {reason}: run the same command again to go on from here")
        case state:
            output.note(f"{state}: {reason}" if reason else state)
