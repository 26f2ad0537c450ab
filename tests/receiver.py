"""An HTTP endpoint that takes notices: what it was sent, and what it answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass
class Receiver:
    """`answers` are the next statuses; afterwards it is 204. `taken` are the bodies that were answered so."""

    answers: deque[int] = field(default_factory=deque)
    requests: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.post("/{path:.*}", self._take)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook?a=b"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        document = await request.json()
        self.requests.append((request.path_qs, request.headers.get("Authorization"), document))
        status = self.answers.popleft() if self.answers else 204
        if status == 204:
            self.taken.append(document)
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else None)

    def events(self) -> list[tuple[str, str]]:
        return [(document["event"], document["route"]) for document in self.taken]
