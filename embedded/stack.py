"""Several embedded servers as one: started all at once, stopped all at once, all or nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from embedded.server import Server


class Stack:
    """`with Stack(temporal, seaweed, gcs):` or `async with`. It is ready when its slowest server is."""

    def __init__(self, *servers: Server) -> None:
        self.servers = servers
        self.ready_s = 0.0
        """Seconds that the last start took."""

    def start(self) -> Self:
        """Starts every server. If one fails, stops all of them and raises the first failure in the order given."""
        began = time.monotonic()
        failures = self._for_all(lambda server: server.start())
        if failures:
            self.stop()
            raise failures[0]
        self.ready_s = time.monotonic() - began
        return self

    def stop(self) -> None:
        """Stops every server, even when stopping one of them fails; then raises that failure."""
        failures = self._for_all(lambda server: server.stop())
        if failures:
            raise failures[0]

    def _for_all(self, action: Callable[[Server], object]) -> list[BaseException]:
        if not self.servers:
            return []
        with ThreadPoolExecutor(max_workers=len(self.servers), thread_name_prefix="embedded-stack") as pool:
            done = [pool.submit(action, server) for server in self.servers]
            return [error for future in done if (error := future.exception()) is not None]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.stop)
