"""Liveness and readiness of the ingestors, for whoever restarts and watches the process.

`GET /livez` is 200 while the event loop turns and every attached ingestor runs: a restart helps otherwise. `GET /readyz`
is 200 while Temporal takes starts and the source of every ingestor answers; while Temporal is away that is 503 and
liveness stays 200, for a restart cures nothing. Both answer with a JSON list of what is wrong, one object each: `name`,
`since` (RFC 3339) and `cause`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from aiohttp import web

from service.http_listener import listening

TEMPORAL = "temporal"
PROBE_EVERY_S = 2.0
"""Temporal is asked at most so often, however often readiness is."""
PROBE_WAIT_S = 0.8
"""A probe that takes longer counts as no answer: a kubelet waits for one second."""
MAX_CAUSE = 300

Report = Callable[[bool, str], None]
"""`(answers, cause)`: what an ingestor says of its source. The cause holds no key and no secret."""
Probe = Callable[[], Awaitable[bool]]


def silent(answers: bool, cause: str) -> None:
    """A report that nobody reads."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    name: str
    since: str
    cause: str


class Health:
    """What the ingestors of this process last said of their sources. `names` is the closed set of those that report
    (`sqs[0]`, `pubsub[1]`, `watch[0]`, `webhook`); each counts as not ready until its first report."""

    def __init__(
        self,
        names: Iterable[str],
        temporal: Callable[[], bool],
        probe: Probe | None = None,
        *,
        probe_wait_s: float = PROBE_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`temporal` tells whether the last start was taken, as `Dispatcher.available` does; `probe` asks Temporal, as
        `Dispatcher.healthy` does, and so notices an outage in which nothing is started."""
        self._temporal = temporal
        self._ask = probe
        self._probe_wait_s = probe_wait_s
        self._clock = clock
        self._now = now
        self._wrong: dict[str, Problem | None] = {TEMPORAL: None}
        self._wrong |= {name: self._problem(name, "has not answered yet") for name in names}
        self._ended: dict[str, Problem] = {}
        self._probing: asyncio.Future[bool] | None = None
        self._probed_at = -PROBE_EVERY_S
        self._answered = True

    def report(self, name: str) -> Report:
        """The report of one ingestor. Raises `KeyError` for a name that is not in the set."""
        self._check(name)
        return lambda answers, cause: self._note(name, answers, cause)

    def attach(self, name: str, task: asyncio.Task[None]) -> None:
        """Lets `/livez` fail once `task`, the run of `name`, has ended. Raises `KeyError` for a name that is not in the set."""
        self._check(name)
        task.add_done_callback(lambda ended: self._note_end(name, ended))

    def dead(self) -> list[Problem]:
        """The attached ingestors that run no longer."""
        return list(self._ended.values())

    async def unready(self) -> list[Problem]:
        """What keeps this process from being ready. Probes Temporal, unless that was done just now."""
        self._note(TEMPORAL, self._temporal() and await self._temporal_answers(), "does not take starts")
        return [*(problem for problem in self._wrong.values() if problem is not None), *self._ended.values()]

    async def close(self) -> None:
        """Gives up the probe under way."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _temporal_answers(self) -> bool:
        """What the last probe told. One at a time is under way, and all who ask meanwhile wait for it."""
        if self._ask is None:
            return True
        if self._probing is None:
            if self._clock() - self._probed_at < PROBE_EVERY_S:
                return self._answered
            self._probing = asyncio.ensure_future(self._ask())
            self._probing.add_done_callback(self._note_answer)
        await asyncio.wait({self._probing}, timeout=self._probe_wait_s)
        return self._probing is None and self._answered

    def _note_answer(self, probing: asyncio.Future[bool]) -> None:
        self._probing, self._probed_at = None, self._clock()
        self._answered = not probing.cancelled() and probing.exception() is None and probing.result()

    def _note(self, name: str, answers: bool, cause: str) -> None:
        """`since` stays that of the first failure of a row."""
        before = self._wrong[name]
        self._wrong[name] = None if answers else self._problem(name, cause, before.since if before else None)

    def _note_end(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._ended[name] = self._problem(name, f"ended: {type(error).__name__}" if error else "ended")

    def _problem(self, name: str, cause: str, since: str | None = None) -> Problem:
        return Problem(name, since or self._now().isoformat(timespec="milliseconds"), cause[:MAX_CAUSE])

    def _check(self, name: str) -> None:
        if name not in self._wrong:
            raise KeyError(name)


async def serve_health(listen: str, health: Health, stop: asyncio.Event) -> None:
    """Answers at `listen` (host:port) until `stop` is set. Raises `SettingsError` for an address that cannot be bound."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(health.dead())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(await health.unready())

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz)])
    try:
        async with listening(app, listen, "ingest.health"):
            await stop.wait()
    finally:
        await health.close()


def _answer(problems: list[Problem]) -> web.Response:
    return web.json_response([asdict(problem) for problem in problems], status=503 if problems else 200)
