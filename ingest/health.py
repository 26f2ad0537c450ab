"""Whether this process lives, and whether it takes events: `/livez` and `/readyz` for a supervisor.

Live: the event loop turns. Ready: Temporal takes starts, and every source answers. While Temporal is away the process is
live and not ready: a restart would cure nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ingest.http_listener import listening

Report = Callable[[bool, str], None]
"""`(answers, cause)`: what a source says of itself."""


def silent(answers: bool, cause: str) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True, slots=True)
class Ailment:
    """What keeps a process from being ready, since when (seconds since 1970)."""

    name: str
    since: float
    cause: str


class Health:
    """What the sources of one process say of themselves; a source that said nothing yet is not ready."""

    def __init__(self, names: list[str], temporal: Callable[[], bool], *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._temporal = temporal
        self._temporal_since: float | None = None
        self._ailing = {name: Ailment(name, clock(), "has not answered yet") for name in names}

    def report(self, name: str) -> Report:
        """The report of one source."""

        def said(answers: bool, cause: str) -> None:
            if answers:
                self._ailing.pop(name, None)
            elif name not in self._ailing or self._ailing[name].cause != cause:
                since = self._ailing[name].since if name in self._ailing else self._clock()
                self._ailing[name] = Ailment(name, since, cause[:300])

        return said

    def ailments(self) -> list[Ailment]:
        """Empty when the process is ready."""
        found = sorted(self._ailing.values(), key=lambda ailment: ailment.name)
        if self._temporal():
            self._temporal_since = None
            return found
        self._temporal_since = self._temporal_since or self._clock()
        return [Ailment("temporal", self._temporal_since, "does not take starts"), *found]


async def serve_health(listen: str, health: Health, stop: asyncio.Event) -> None:
    """Answers until `stop` is set. Raises `SettingsError` when the address cannot be listened on."""

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def readyz(_: web.Request) -> web.Response:
        ailments: list[Any] = [{"name": a.name, "since": a.since, "cause": a.cause} for a in health.ailments()]
        return web.json_response({"ready": not ailments, "ailments": ailments}, status=503 if ailments else 200)

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz)])
    async with listening(app, listen, "ingest.health"):
        await stop.wait()
