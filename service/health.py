"""Liveness and readiness of a process, for whoever restarts and watches it, and what it is.

`GET /livez` is 200 while the event loop turns and everything attached runs: a restart helps otherwise. `GET /readyz` is 200
while all that the process needs answers: Temporal, a worker's ledger, the source of every ingestor; else that is 503 and
liveness stays 200, for a restart cures nothing. Both answer with a JSON list of what is wrong, one object each: `name`,
`since` (RFC 3339) and `cause`. `GET /info` tells what runs, and since when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from service.http_listener import listening
from service.version import VERSION

CAUSES = {"temporal": "does not take starts", "ledger": "does not answer"}
"""What can be probed, and what it means when it fails."""
PROBE_EVERY_S = 2.0
"""Each is asked at most so often, however often readiness is."""
PROBE_WAIT_S = 0.8
"""A probe that takes longer counts as no answer: a kubelet waits for one second."""
MAX_CAUSE = 300

Report = Callable[[bool, str], None]
"""`(answers, cause)`: what an ingestor says of its source. The cause holds no key and no secret."""
Ask = Callable[[], Awaitable[bool]]


def silent(answers: bool, cause: str) -> None:
    """A report that nobody reads."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    name: str
    since: str
    cause: str


class Probe:
    """Asks, at most once in `PROBE_EVERY_S` and one question at a time; all who want to know meanwhile wait for that one."""

    def __init__(self, ask: Ask, wait_s: float, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._wait_s = wait_s
        self._clock = clock
        self._asking: asyncio.Future[bool] | None = None
        self._asked_at = -PROBE_EVERY_S
        self._answered = True

    async def answers(self) -> bool:
        """What the last question told. One that takes longer than `wait_s` counts as no answer."""
        if self._asking is None:
            if self._clock() - self._asked_at < PROBE_EVERY_S:
                return self._answered
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(self._note)
        await asyncio.wait({self._asking}, timeout=self._wait_s)
        return self._asking is None and self._answered

    def _note(self, asking: asyncio.Future[bool]) -> None:
        self._asking, self._asked_at = None, self._clock()
        self._answered = not asking.cancelled() and asking.exception() is None and asking.result()

    async def close(self) -> None:
        """Gives up the question under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


class Health:
    """What the parts of this process last said of themselves. `names` is the closed set of those that report (`sqs[0]`,
    `watch[0]`, `webhook`); each counts as not ready until its first report."""

    def __init__(
        self,
        names: Iterable[str] = (),
        probes: Mapping[str, Ask] | None = None,
        *,
        probe_wait_s: float = PROBE_WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`probes` ask those of `CAUSES` that this process needs, and so notice an outage in which nothing is wanted of them."""
        self._now = now
        self._probes = {name: Probe(ask, probe_wait_s, clock) for name, ask in (probes or {}).items()}
        self._wrong: dict[str, Problem | None] = dict.fromkeys(self._probes)
        self._wrong |= {name: self._problem(name, "has not answered yet") for name in names}
        self._ended: dict[str, Problem] = {}

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
        """What keeps this process from being ready. Probes what was not probed just now."""
        for name, answers in zip(self._probes, await asyncio.gather(*(probe.answers() for probe in self._probes.values())), strict=True):
            self._note(name, answers, CAUSES[name])
        return [*(problem for problem in self._wrong.values() if problem is not None), *self._ended.values()]

    async def close(self) -> None:
        """Gives up the probes under way."""
        await asyncio.gather(*(probe.close() for probe in self._probes.values()))

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


@asynccontextmanager
async def serving(listen: str | None, field: str, health: Health, info: Mapping[str, Any]) -> AsyncIterator[None]:
    """While the block runs, `listen` (host:port) is answered, `/info` with `info`; without one nothing is. Raises `SettingsError`
    naming the setting `field` for an address that cannot be bound."""
    if listen is None:
        yield
        return

    async def livez(_: web.Request) -> web.Response:
        return _answer(health.dead())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(await health.unready())

    async def told(_: web.Request) -> web.Response:
        return web.json_response(info)

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/info", told)])
    try:
        async with listening(app, listen, field):
            yield
    finally:
        await health.close()


def process_info(program: str, **more: Any) -> dict[str, Any]:
    """What runs: the program, the product's version, and since when (RFC 3339)."""
    return {"program": program, "version": VERSION, "started_at": _utc_now().isoformat(timespec="milliseconds"), **more}


def _answer(problems: list[Problem]) -> web.Response:
    return web.json_response([asdict(problem) for problem in problems], status=503 if problems else 200)
