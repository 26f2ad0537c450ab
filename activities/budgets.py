"""What each store may still be asked for by this process, which takes its share (`activities/shares.py`) of what all may ask.

Passes wait for it. Changes go before them, and wait only where they alone would ask too much.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from activities._progress import pulse
from activities.shares import Shares
from replication.routes import Route
from replication.settings import Settings
from stores.pace import Budget, Pace, Paces, on_budget

EVERY_S = 1.0
FOLLOWED_S = 5.0
"""How long after its last change a route goes on counting as a user of its stores."""


def activity_paces() -> Paces:
    """Whoever waits for them tells its activity's pulse that it goes on."""
    return Paces(*(Pace(on_wait=lambda: pulse().touch()) for _ in range(2)))


def store_budget(name: str) -> str:
    return f"store {name}"


class StoreBudgets:
    """The stores that have limits, for everything in this process that uses them."""

    def __init__(self, settings: Settings, shares: Shares) -> None:
        self._limits = {name: store.limits for name, store in settings.stores.items() if store.limits}
        self._shares = shares
        self._paces = {name: activity_paces() for name in self._limits}
        for name in self._limits:
            self._set(name)
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._changed_at: dict[str, float] = {}
        self._following: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def using(self, route: Route) -> AsyncIterator[list[Paces]]:
        """One user of what the stores of a route may be asked for."""
        names = self._limited(route)
        try:
            with self._shares.using([store_budget(name) for name in names]):
                for name in names:
                    await self._keep(name)
                yield [self._paces[name] for name in names]
        finally:
            for name in names:
                if not self._shares.here(store_budget(name)) and name in self._keeping:
                    self._keeping.pop(name).cancel()

    @asynccontextmanager
    async def changing(self, route: Route) -> AsyncIterator[Budget]:
        """What is read in the block is read for a change. All changes of a route together are one user."""
        names = self._limited(route)
        if names:
            self._changed_at[route.name] = time.monotonic()
            if route.name not in self._following:
                self._following[route.name] = asyncio.create_task(self._follow(route))
        budget = Budget([self._paces[name] for name in names], first=True)
        with on_budget(budget):
            yield budget

    async def _follow(self, route: Route) -> None:
        try:
            async with self.using(route):
                while time.monotonic() < self._changed_at[route.name] + FOLLOWED_S:  # noqa: ASYNC110
                    await asyncio.sleep(EVERY_S)  # each change moves the end
        finally:
            del self._following[route.name]

    async def _keep(self, name: str) -> None:
        """Takes this process's share from now on, while the store is used."""
        if name not in self._keeping:
            self._keeping[name] = asyncio.create_task(self._share_on(name))
            await self._share(name)

    async def _share_on(self, name: str) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._share(name)

    async def _share(self, name: str) -> None:
        await self._shares.refresh([store_budget(name)])
        self._set(name)

    def _set(self, name: str) -> None:
        limits = self._limits[name]
        self._paces[name].set(limits.bandwidth, limits.requests, self._shares.part(store_budget(name)))

    def _limited(self, route: Route) -> Sequence[str]:
        return sorted({route.source.store, route.destination.store} & self._limits.keys())
