"""Listings in byte order: checked where the endpoint keeps that order, restored where it lists folder by folder.

S3 lists keys in the order of their UTF-8 bytes. Endpoints that stand on a file system (SeaweedFS) list each folder as
if `/` sorted before every other character: `a/b` comes before `a-b`, although `-` is smaller than `/`. For those, a
subtree that fits one page is sorted in memory and a larger one is walked level by level, so that memory stays bounded.
Code points of Python strings compare as UTF-8 bytes do, so keys are compared as they are.
"""

from __future__ import annotations

import asyncio
import heapq
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import groupby, pairwise, takewhile

from replication.errors import ServerFault
from replication.keys import is_reserved
from replication.models import ListedObject, OpenUpload
from stores.s3wire import Answer, S3Wire
from stores.s3xml import ListingPage, parse_listing, parse_uploads

MAX_PAGE = 1000
EMPTY_PAGES = 1000
"""So many may follow each other."""

_TOKEN = re.compile(rb"<NextContinuationToken>([^<]+)</NextContinuationToken>")


def folder_order(key: str) -> str:
    """The sort key of an endpoint that lists folder by folder."""
    return key.replace("/", "\0")


class S3Listing:
    """The listings of one endpoint. `by_folder` is set as soon as it is known to list folder by folder."""

    def __init__(self, wire: S3Wire, *, by_folder: bool = False) -> None:
        self._wire = wire
        self.by_folder = by_folder

    async def pages(self, bucket: str, prefix: str, start_after: str, page_size: int) -> AsyncIterator[Sequence[ListedObject]]:
        """Pages of keys in byte order without reserved ones; `ServerFault` where that cannot be had.

        An order that only a folder-by-folder endpoint produces is remembered, so that the next listing is right.
        """
        size = min(page_size, MAX_PAGE)
        async for page in self._flat(bucket, prefix, start_after, size):
            if kept := [entry for entry in page if not is_reserved(entry.key)]:
                yield kept
        if self.by_folder and (prefix >= start_after or start_after.startswith(prefix)):
            async for batch in self._batched(self._walk(bucket, prefix, start_after, size), start_after, size):
                yield batch

    async def _flat(self, bucket: str, prefix: str, start_after: str, size: int) -> AsyncIterator[list[ListedObject]]:
        """Pages as the endpoint gives them, their order checked; none where the first shows that it lists by folder."""
        if self.by_folder:
            return
        last, first = start_after, True
        async for page in self._chain(bucket, prefix, size, start_after=start_after):
            if first and self.by_folder:
                return
            self._check_order(page.objects, last, prefix)
            if page.objects:
                last = page.objects[-1].key
            yield page.objects
            first = False

    def _check_order(self, objects: Sequence[ListedObject], last: str, prefix: str) -> None:
        keys = [last, *(entry.key for entry in objects)]
        if not all(key.startswith(prefix) for key in keys[1:]):
            raise ServerFault("the listing holds a key outside the prefix asked for")
        broken = next((pair for pair in pairwise(keys) if pair[0] >= pair[1]), None)
        if broken is None:
            return
        self.by_folder = all(folder_order(a) < folder_order(b) for a, b in pairwise(keys) if a)
        how = "it lists folder by folder" if self.by_folder else "keys repeat or go back"
        raise ServerFault(f"the listing is not in byte order ({how}): {broken[1]!r} after {broken[0]!r}")

    async def page(
        self, bucket: str, prefix: str, size: int, *, start_after: str = "", token: str = "", delimiter: str = ""
    ) -> ListingPage:
        """One ListObjectsV2 request."""
        return parse_listing((await self._ask(bucket, prefix, size, start_after, token, delimiter)).body)

    async def _ask(self, bucket: str, prefix: str, size: int, start_after: str, token: str, delimiter: str) -> Answer:
        query = {"list-type": "2", "encoding-type": "url", "max-keys": str(size), "prefix": prefix}
        optional = {"start-after": "" if token else start_after, "continuation-token": token, "delimiter": delimiter}
        answer = await self._wire.call("GET", bucket, query=query | {name: value for name, value in optional.items() if value})
        if answer.headers.get("Server", "").startswith("SeaweedFS"):
            self.by_folder = True
        return answer

    async def _chain(
        self, bucket: str, prefix: str, size: int, *, start_after: str = "", delimiter: str = ""
    ) -> AsyncIterator[ListingPage]:
        """All pages. Who has taken two is likely to want the rest: from then on the next one is asked for while the last is read."""
        chain, token, taken = Chain(), "", 0
        ahead: asyncio.Task[Answer] | None = None
        try:
            while True:
                answer = await (ahead or self._ask(bucket, prefix, size, start_after, token, delimiter))
                ahead, taken, following = None, taken + 1, _token(answer.body)
                if taken > 1 and following:
                    ahead = asyncio.create_task(self._ask(bucket, prefix, size, start_after, following, delimiter))
                    await asyncio.sleep(0)  # it is sent before the parser takes its time
                page = parse_listing(answer.body)
                yield page
                if not page.truncated:
                    return
                token = chain.follow(page)
                if ahead is not None and token != following:
                    await _drop(ahead)
                    ahead = None
        finally:
            if ahead is not None:
                await _drop(ahead)

    async def uploads(self, bucket: str, prefix: str) -> AsyncIterator[OpenUpload]:
        """Unfinished uploads under `prefix`, all pages."""
        markers = ("", "")
        while True:
            query = {"uploads": "", "encoding-type": "url", "max-uploads": "1000", "prefix": prefix}
            if markers[0]:
                query |= {"key-marker": markers[0], "upload-id-marker": markers[1]}
            page = parse_uploads((await self._wire.call("GET", bucket, query=query)).body)
            for upload in page.uploads:
                if upload.key.startswith(prefix):
                    yield upload
            if not page.truncated:
                return
            if not page.uploads or markers == (page.key_marker, page.id_marker):
                raise ServerFault("the listing of uploads is truncated but does not go on")
            markers = (page.key_marker, page.id_marker)

    # --- endpoints that list by folder -------------------------------------------------------------------------------

    async def _walk(
        self, bucket: str, prefix: str, start_after: str, size: int, known: Beginning | None = None
    ) -> AsyncIterator[ListedObject]:
        """Every key under `prefix` that is greater than `start_after`, in byte order. `known` is how its listing begins."""
        if known is None:
            page = await self.page(bucket, prefix, size)
            known = Beginning(page.objects, is_all=not page.truncated)
        if known.is_all:
            for entry in sorted(known.objects, key=lambda entry: entry.key):
                if entry.key > start_after:
                    yield entry
            return
        objects, folders = known.level(prefix)
        async for item in self._level(bucket, prefix, start_after, size, objects):
            if isinstance(item, ListedObject):
                if item.key > start_after:
                    yield item
            elif not is_reserved(item) and (item > start_after or start_after.startswith(item)):
                async for entry in self._walk(bucket, item, start_after, size, folders.get(item)):
                    yield entry

    async def _level(
        self, bucket: str, prefix: str, start_after: str, size: int, known: Sequence[ListedObject]
    ) -> AsyncIterator[ListedObject | str]:
        """The keys and folders (as strings that end with `/`) right under `prefix`, in byte order. `known` are its first ones.

        They arrive ordered by name without the `/`. A folder is held back until the names pass it; what is held is a
        chain of names that extend each other, so it stays short.
        """
        held: list[str] = []
        marker, first = level_marker(prefix, start_after)
        if first:
            held.append(first)
        elif len(known) > 1:  # the last one is asked for again: a folder of its name comes right behind it
            for entry in known[:-1]:
                yield entry
            marker = known[-2].key
        seen = {first}
        async for page in self._chain(bucket, prefix, size, start_after=marker, delimiter="/"):
            items: list[ListedObject | str] = [*page.objects, *page.prefixes]
            for item in sorted(items, key=_name):
                while held and held[0] < _name(item):
                    yield heapq.heappop(held)
                if isinstance(item, ListedObject):
                    yield item
                elif item not in seen:
                    heapq.heappush(held, item)
        while held:
            yield heapq.heappop(held)

    async def _batched(self, entries: AsyncIterator[ListedObject], start_after: str, size: int) -> AsyncIterator[Sequence[ListedObject]]:
        batch: list[ListedObject] = []
        last = start_after
        async for entry in entries:
            if entry.key <= last:
                raise ServerFault(f"the listing is not in byte order: {entry.key!r} after {last!r}")
            last = entry.key
            if is_reserved(last):
                continue
            batch.append(entry)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first keys under a folder in the order in which such an endpoint gives them, or all of them."""

    objects: Sequence[ListedObject]
    is_all: bool

    def level(self, prefix: str) -> tuple[list[ListedObject], dict[str, Beginning]]:
        """The objects that come right under `prefix` before any folder does, and how the listings of its folders begin.

        Nothing where the keys are not in the order of folders: then nobody knows what stands between them."""
        keys = [folder_order(entry.key) for entry in self.objects]
        if any(a >= b for a, b in pairwise(keys)):
            return [], {}

        def folder(entry: ListedObject) -> str:
            name, slash, _ = entry.key[len(prefix) :].partition("/")
            return prefix + name + slash if slash else ""

        folders = {name: Beginning(list(found), is_all=True) for name, found in groupby(self.objects, folder) if name}
        last = folder(self.objects[-1]) if self.objects else ""
        if last:
            folders[last] = Beginning(folders[last].objects, is_all=False)
        return list(takewhile(lambda entry: not folder(entry), self.objects)), folders


class Chain:
    """The tokens of a listing's pages, one leading to the next. Real stores give empty pages in between, which are no end."""

    def __init__(self) -> None:
        self._token = ""
        self._empty = 0

    def follow(self, page: ListingPage) -> str:
        """The token that continues a truncated page. `ServerFault` for a missing or repeated one, or for too many empty pages."""
        self._empty = 0 if page.objects or page.prefixes else self._empty + 1
        if not page.token or page.token == self._token or self._empty > EMPTY_PAGES:
            raise ServerFault("the listing is truncated but does not go on")
        self._token = page.token
        return page.token


def _token(body: bytes) -> str:
    """What a page seems to go on with; whether it does is known once it was parsed."""
    found = _TOKEN.search(body)
    return unescape(found[1].decode(errors="replace")) if found else ""


async def _drop(ahead: asyncio.Task[Answer]) -> None:
    ahead.cancel()
    await asyncio.gather(ahead, return_exceptions=True)


def _name(item: ListedObject | str) -> str:
    return item.key if isinstance(item, ListedObject) else item.removesuffix("/")


def level_marker(prefix: str, start_after: str) -> tuple[str, str]:
    """Where a level's listing can start so that nothing greater than `start_after` is missed, and the one folder that
    this start passes over ("" for none).

    A name that is cut short before a character smaller than `/` may be a folder that sorts behind `start_after`; then
    the level is listed from its beginning.
    """
    if not start_after.startswith(prefix):
        return "", ""
    name = start_after[len(prefix) :].partition("/")[0]
    if not name or any(char < "/" for char in name):
        return "", ""
    return prefix + name, prefix + name + "/"
