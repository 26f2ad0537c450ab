"""`copy ROUTE KEY…`: starts, or joins, the object workflow of each key; with `--wait`, tells how each one went."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from cli.objects import RIGHT, Handle, settled, start_object
from cli.output import printable
from cli.session import DIFFERS, DONE, Session, check_key_argument, for_each, short
from replication.errors import UsageError
from replication.models import ReplicateObjectResult
from replication.routes import SKIP_REASONS, Route
from replication.units import format_size
from workflows.client import TemporalUnreachable

NO_SUCH_OBJECT = "both-absent"
"""Right for a route, but not what somebody who names a key wants to hear in silence: it makes the exit code 1."""
STARTS = 64
"""Starts under way at once."""
WAITS = 512
"""Workflows that are waited for at once; the others run meanwhile, and are asked about in turn."""
QUERIES_PER_S = 64
"""Looks at phases per second, over all keys: each is a little work for the server and for a worker."""


async def run(session: Session, route_name: str, keys: Sequence[str], *, from_file: str | None, wait: bool) -> int:
    route = session.route(route_name)
    wanted = [check(route, key, where) for key, where in named_keys(keys, from_file)]
    if not wanted:
        raise UsageError("argument KEY: no key is given; name some, or use --from-file")
    return await Copy(session, route, await session.connect()).run(list(dict.fromkeys(wanted)), wait=wait)


def named_keys(keys: Sequence[str], from_file: str | None) -> Iterator[tuple[str, str]]:
    """Every key with the words that name its argument. In a file, each line up to its line feed is one key."""
    for number, key in enumerate(keys, start=1):
        yield key, "argument KEY" if len(keys) == 1 else f"argument KEY {number}"
    if from_file is None:
        return
    try:
        content = sys.stdin.buffer.read() if from_file == "-" else Path(from_file).read_bytes()
    except OSError as error:
        raise UsageError(f"argument --from-file: {short(from_file)}: {error.strerror}") from None
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    for number, line in enumerate(lines, start=1):
        yield line.decode(errors="surrogateescape"), f"--from-file line {number}"


def check(route: Route, key: str, where: str) -> str:
    """Returns a key that is this route's business. Raises `UsageError`."""
    check_key_argument(key, where)
    if reason := route.skip_reason(key):
        detail = f" ({short(route.source.prefix)})" if reason == "outside-prefix" else ""
        raise UsageError(f"{where}: {reason}: {SKIP_REASONS[reason]}{detail}: {short(key)}")
    return key


class Copy:
    """One run of the command, past its checks."""

    def __init__(self, session: Session, route: Route, client: Client) -> None:
        self._session = session
        self._output = session.output
        self._route = route.name
        self._client = client
        self._handles: dict[str, Handle] = {}
        self._waiting = 0
        self._outcomes: Counter[str] = Counter()
        self._bytes = 0
        self._absent = 0
        self._told_of_silence = False

    async def run(self, keys: Sequence[str], *, wait: bool) -> int:
        try:
            await for_each(keys, STARTS, self._start if wait else self._start_and_tell)
            if not wait:
                return DONE
            await for_each(keys, WAITS, self._await)
        except (asyncio.CancelledError, RPCError) as error:
            self._output.note(f"{len(self._handles)} of {len(keys)} workflows were started; they go on without this command")
            if isinstance(error, RPCError):
                raise TemporalUnreachable(f"Temporal does not answer any more: {error.message}") from error
            raise
        return self._close()

    async def _start(self, key: str) -> None:
        self._handles[key] = await start_object(self._client, self._session.settings.temporal.control_queue, self._route, key)

    async def _start_and_tell(self, key: str) -> None:
        await self._start(key)
        handle = self._handles[key]
        self._output.line(f"started  {printable(key)}")
        self._output.document({"key": key, "route": self._route, "workflow_id": handle.id, "run_id": handle.result_run_id})

    async def _await(self, key: str) -> None:
        self._waiting += 1
        result = await settled(self._handles[key], self._route, key, interval_s=self._interval_s, unanswered=self._unanswered)
        self._waiting -= 1
        self._outcomes[result.outcome] += 1
        self._bytes += result.bytes_copied
        self._absent += result.reason == NO_SUCH_OBJECT
        self._output.line(result_line(result))
        self._output.document(result_document(result, self._handles[key].id))

    def _interval_s(self) -> float:
        return max(1.0, self._waiting / QUERIES_PER_S)

    def _unanswered(self) -> None:
        if not self._told_of_silence:
            self._told_of_silence = True
            queue = self._session.settings.temporal.control_queue
            self._output.note(f"no worker answers on task queue {queue}; waiting for one (`status` shows who polls)")

    def _close(self) -> int:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._outcomes.items()))
        self._output.line(f"{self._outcomes.total()} objects: {counts}; {format_size(self._bytes)} sent")
        return DONE if self._outcomes.keys() <= RIGHT and not self._absent else DIFFERS


def result_line(result: ReplicateObjectResult) -> str:
    """One line for people: outcome, key, size or reason."""
    told = [result.reason]
    if result.outcome in ("copied", "updated"):
        told = [
            format_size(result.bytes_copied),
            result.verification,
            f"{result.seconds:.1f} s",
            *(f"without {loss}" for loss in result.losses),
        ]
    elif result.message:
        told = [f"{result.reason}: {result.message}"]
    return f"{result.outcome:<8} {printable(result.key)}  {printable(', '.join(part for part in told if part))}"


def result_document(result: ReplicateObjectResult, workflow_id: str) -> dict[str, Any]:
    """One JSON line for programs."""
    return {**result.model_dump(mode="json"), "workflow_id": workflow_id}
