"""The three sequences that a scan joins: what the source lists, what the destination lists, what the ledger remembers."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from activities.gate import Gate
from ledger.ledger import Ledger
from replication.errors import ServerFault
from replication.merge import Row, Stream, take_rows
from replication.passes import KeyRange
from replication.route_settings import LocationSettings
from replication.routes import Route
from stores.registry import Stores

PAGE = 1_000
PAGES_AHEAD = 3
RECEIPTS_PER_PAGE = 5_000

Page = tuple[list[str], Sequence[Any]]
"""Keys below the prefix, in order, and what the sequence has of each."""


class Ahead:
    """Reads an iterator of pages in the background, a few ahead of its consumer."""

    def __init__(self, pages: AsyncIterator[Page]) -> None:
        self.stream = Stream()
        self._queue: asyncio.Queue[Page | BaseException | None] = asyncio.Queue(PAGES_AHEAD)
        self._task = asyncio.create_task(self._read(pages))

    async def _read(self, pages: AsyncIterator[Page]) -> None:
        try:
            async for page in pages:
                await self._queue.put(page)
            await self._queue.put(None)
        except Exception as error:
            await self._queue.put(error)

    async def fill(self) -> None:
        """Waits until the stream knows something. Raises what the listing raised."""
        while self.stream.wants_more:
            page = await self._queue.get()
            if isinstance(page, BaseException):
                raise page
            if page is None:
                self.stream.ended = True
                return
            try:
                self.stream.feed(*page)
            except ValueError as error:
                raise ServerFault(f"the listing is not to be trusted: {error}") from error

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def joined(
    route: Route, stores: Stores, ledger: Ledger, gate: Gate, prefix: str, keys: KeyRange, page_size: int = PAGE
) -> AsyncGenerator[list[Row], None]:
    """Batches of (key below the route's prefix, source, replica, receipt) of a range, in key order.

    Each page of a listing passes the gate. The destination is asked first: an object that comes into being meanwhile then
    looks like one without a replica, never like a replica without a source. What has no key is nobody's replica. Raises
    whatever a listing raises; what came before is right all the same.
    """
    sides = [
        Ahead(_replicas(_listed(stores, gate, route.destination, prefix, keys, page_size))),
        Ahead(_listed(stores, gate, route.source, prefix, keys, page_size)),
        Ahead(_known(ledger, route, prefix, keys, time.time())),
    ]
    replica, source, receipt = (side.stream for side in sides)
    try:
        while True:
            for side in sides:
                await side.fill()
            if rows := take_rows(source, replica, receipt):
                yield rows
            if source.drained and replica.drained and receipt.drained:
                return
    finally:
        for side in sides:
            await side.close()


async def _listed(
    stores: Stores, gate: Gate, location: LocationSettings, prefix: str, keys: KeyRange, page_size: int
) -> AsyncIterator[Page]:
    cut = len(location.prefix)
    start = location.prefix + keys.after if keys.after else ""
    pages = stores.get(location.store).list_objects(location.bucket, location.prefix + prefix, start_after=start, page_size=page_size)
    async for page in pages:
        await gate.listed()
        names = [entry.key[cut:] for entry in page]
        count = _up_to(names, keys.up_to)
        if count:
            yield names[:count], page[:count]
        if count < len(names):
            return


async def _replicas(pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    async for names, entries in pages:
        if any(entry.problem for entry in entries):
            kept = [(name, entry) for name, entry in zip(names, entries, strict=True) if not entry.problem]
            names, entries = [name for name, _ in kept], [entry for _, entry in kept]
        yield names, entries


async def _known(ledger: Ledger, route: Route, prefix: str, keys: KeyRange, began: float) -> AsyncIterator[Page]:
    """Objects with a receipt, and those that were in the quarantine before the listings began."""
    cut, start = len(route.source.prefix), route.source.prefix + prefix
    after = max(route.source.prefix + keys.after if keys.after else "", _just_before(start))
    before = route.source.prefix + keys.up_to + "\0" if keys.up_to else None
    while True:
        found, tokens = await ledger.tokens(route.name, after=after, before=before, limit=RECEIPTS_PER_PAGE, rested_before=began)
        kept = [number for number, key in enumerate(found) if key.startswith(start)]
        if len(kept) == len(found):
            yield [key[cut:] for key in found] if cut else found, tokens
        elif kept:
            yield [found[number][cut:] for number in kept], [tokens[number] for number in kept]
        if len(found) < RECEIPTS_PER_PAGE or not found[-1].startswith(start):
            return
        after = found[-1]


def _up_to(names: list[str], last: str) -> int:
    """How many of the sorted names are not greater than `last`."""
    return bisect_right(names, last) if last else len(names)


def _just_before(prefix: str) -> str:
    """A string that is smaller than every key that starts with `prefix`, and larger than nearly all smaller ones."""
    if not prefix:
        return ""
    last = ord(prefix[-1])
    lower = 0xD7FF if last == 0xE000 else last - 1
    return prefix[:-1] + chr(lower) + "\U0010ffff" if last else prefix[:-1]
