"""Where to cut a range of keys so that several scans share it, found by asking the listing, whatever the keys look like."""

from __future__ import annotations

from replication.passes import KeyRange
from stores.base import Store

LAST = "\U0010ffff"
"""Sorts behind every other character."""
MAX_PROBES = 200
EACH_ONE = 32
"""So many next characters are found one by one; then ever more are skipped at a time: an alphabet may have thousands."""
PROBED = 10
"""Keys that a probe asks for: endpoints that list folder by folder need a few to know which one comes first."""


class Splitter:
    """Probes one location. `prefix` is in front of every key; bounds are what stands behind it."""

    def __init__(self, store: Store, bucket: str, prefix: str) -> None:
        self._store = store
        self._bucket = bucket
        self._prefix = prefix
        self._narrow = ""
        self._probes = 0

    async def cuts(self, narrow: str, keys: KeyRange, pieces: int) -> list[str]:
        """At most `pieces - 1` bounds, in order, that cut the range of keys that start with `narrow` where they differ."""
        self._narrow = narrow
        found = await self._branches(keys.after, keys.up_to)
        while 2 * len(found) < pieces and self._probes < MAX_PROBES:
            finer: list[str] = []
            for number, branch in enumerate(found):
                start = found[number - 1] + LAST if number else keys.after
                finer += await self._branches(start, branch + LAST) or [branch]
            if len(finer) <= len(found):
                break
            found = finer
        inside = [cut for cut in found if cut > keys.after and (not keys.up_to or cut < keys.up_to)]
        return _spread(list(dict.fromkeys([*found[:1], *inside])), pieces - 1)

    async def _branches(self, after: str, up_to: str) -> list[str]:
        """The longest beginning that all keys of the range share, with each character that follows it; [] for no keys."""
        first = await self._next(after, up_to)
        if first is None:
            return []
        common = await self._common(first, up_to)
        while first == common and (following := await self._next(first, up_to, skip=True)) is not None:  # a folder's own object
            first, common = following, await self._common(following, up_to)
        found, start = list[str](), first
        while self._probes < MAX_PROBES:
            found.append(start[: len(common) + 1])
            following = await self._next(_behind(found[-1], 2 ** (len(found) // EACH_ONE)), up_to)
            if following is None:
                break
            start = following
        return found

    async def _common(self, first: str, up_to: str) -> str:
        """The first key, cut until nothing of the range comes behind all that starts with it."""
        low, high = 0, len(first)
        while low < high:
            middle = (low + high + 1) // 2
            if await self._next(first[:middle] + LAST, up_to) is None:
                low = middle
            else:
                high = middle - 1
        return first[:low]

    async def _next(self, after: str, up_to: str, *, skip: bool = False) -> str | None:
        """The first key of the range behind `after`, where "" is no bound, or with `skip` the key that is the prefix itself."""
        self._probes += 1
        start = self._prefix + after if after or skip else ""
        pages = self._store.list_objects(self._bucket, self._prefix + self._narrow, start_after=start, page_size=PROBED)
        async for page in pages:
            key = page[0].key[len(self._prefix) :]
            return key if not up_to or key <= up_to else None
        return None


def _behind(branch: str, step: int) -> str:
    """Behind everything that begins with `branch`, or with it and the next characters after it, `step` in all."""
    if not branch:
        return LAST
    code = min(ord(branch[-1]) + step - 1, 0x10FFFE)
    return branch[:-1] + chr(0xE000 if 0xD800 <= code < 0xE000 else code) + LAST


def _spread(branches: list[str], count: int) -> list[str]:
    """`count` of the branches but the first, evenly spaced: each is where a new range begins."""
    inner = branches[1:]
    if len(inner) <= count:
        return inner
    return [inner[(number * len(inner)) // count] for number in range(count)]
