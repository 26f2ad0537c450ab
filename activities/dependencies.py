"""Whether everything that a manifest names stands at the destination of its route.

"Stands" is the decision of `replication/decide.py` about that key, in the destination store of this route: a bare HEAD
would take a truncated or foreign object for the dependency. Few references are looked at one by one; many are compared
by listing both sides, and only what the listings leave open is looked at.

What is missing is carried as a code (`replication/manifests/found.py`), so a look costs what is still missing. Before a
manifest is published that was waited for, everything it names is looked at once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from itertools import islice

from replication.decide import stands
from replication.errors import DependencyCycle, InvalidManifest, ObjectNotFound, SourceChanged, UnsatisfiableDependency
from replication.manifests.documents import MAX_MANIFEST_BYTES, MAX_REFERENCES
from replication.manifests.dss import blob_key_of, pointer_resolves
from replication.manifests.found import decode_missing, encode_missing
from replication.manifests.references import Reference
from replication.manifests.rules import Rule
from replication.models import ListedObject, ObjectInfo, Waiting
from replication.routes import SKIP_REASONS, Route
from replication.verify import listed_equal
from stores.observe import View, head_or_absent, observe, places
from stores.registry import Stores
from stores.transfer import Place

SHOWN = 20
"""Missing keys that are shown, and whose workflows are asked to say when they stand."""
LOOKS_AT_ONCE = 32
LISTED_FROM = 200
"""More references than this are compared by listings."""
CHUNK = 5_000
"""References whose listings are held at once."""
SPARE_PAGES = 4
"""A listing that needs more than this many times the pages of its references is given up for single looks."""
PAGE = 1000
LARGE = 4 * 1024 * 1024
"""Manifests above this size are read one at a time: parsed, they take many times their size."""
WALKED = 200
"""Manifests that a search for a cycle reads at most."""

Touch = Callable[[int], None]


class Dependencies:
    """Looks for the dependencies of manifests. `touch` in the calls says that work advances."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._one_large = asyncio.Lock()

    async def missing(self, view: View, rule: Rule, waited: Waiting | None, woken: Collection[str], touch: Touch) -> Waiting | None:
        """What the manifest of `view` still waits for; None when everything stands, which was looked at just now.

        `waited` is the answer of the look before; it counts only for the same version of the manifest. With `woken`, only
        those keys are looked at. Raises `InvalidManifest`, `UnsatisfiableDependency`, `DependencyCycle`, `SourceChanged`.
        """
        info, route = view.source_info, view.route
        assert info is not None
        references = await self.references(route, view.source, info, rule, touch)
        everything = range(len(references))
        open_before = _open_before(waited, info, len(references))
        if open_before is None:
            _check(route, view.source.key, references)
            found_open = await self._open(route, references, everything, touch)
        else:
            asked = [i for i in open_before if references[i].key in woken] if woken else open_before
            answered = set(asked) - set(await self._open(route, references, asked, touch))
            found_open = [i for i in open_before if i not in answered]
            if not found_open:
                found_open = await self._open(route, references, everything, touch)
        if not found_open:
            return None
        await self._find_cycle(route, view.source.key, [references[i] for i in found_open], touch)
        wait, first = route.settings.dependency_wait, list(dict.fromkeys(references[i].key for i in islice(found_open, SHOWN)))
        return Waiting(
            version=info.version.token,
            total=len(references),
            missing_count=len(found_open),
            missing=encode_missing(found_open, len(references)),
            first=first,
            poll_s=wait.poll,
            poll_max_s=wait.poll_max,
            deadline_s=wait.deadline,
        )

    # --- what it names -----------------------------------------------------------------------------------------------

    async def references(self, route: Route, source: Place, info: ObjectInfo, rule: Rule, touch: Touch) -> tuple[Reference, ...]:
        """What the manifest `info` at `source` names. Raises `InvalidManifest`, `SourceChanged`."""
        if rule.reads == "siblings":
            return await self._siblings(route, source, rule, touch)
        if info.size_bytes > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"a manifest of {info.size_bytes} bytes is larger than {MAX_MANIFEST_BYTES}")
        if info.size_bytes <= LARGE:
            return rule.references(source.key, await read_whole(source, info), info.attributes.content_encoding)
        async with self._one_large:
            content = await read_whole(source, info)
            touch(0)
            return await asyncio.to_thread(rule.references, source.key, content, info.attributes.content_encoding)

    async def _siblings(self, route: Route, source: Place, rule: Rule, touch: Touch) -> tuple[Reference, ...]:
        found: list[Reference] = []
        async for page in source.store.list_objects(source.bucket, rule.siblings(source.key)):
            touch(0)
            siblings = [item for item in page if self._is_sibling(route, item.key)]
            if nameless := next((item for item in siblings if item.problem), None):
                raise UnsatisfiableDependency(f"the sibling {nameless.key} never replicates: {nameless.problem}")
            found += [Reference(item.key) for item in siblings]
            if len(found) > MAX_REFERENCES:
                raise InvalidManifest(f"the marker has more than {MAX_REFERENCES} siblings")
        return tuple(found)

    def _is_sibling(self, route: Route, key: str) -> bool:
        """Not another marker, and not what the route leaves behind anyway."""
        if route.skip_reason(key):
            return False
        assert route.rules is not None
        rule = route.rules.rule_of(key)
        return rule is None or rule.reads != "siblings"

    # --- what stands -------------------------------------------------------------------------------------------------

    async def _open(self, route: Route, references: Sequence[Reference], asked: Sequence[int], touch: Touch) -> list[int]:
        """Those of `asked`, in order, that do not stand."""
        if len(asked) < LISTED_FROM:
            return await self._look(route, references, asked, touch)
        ordered = sorted(asked, key=lambda index: references[index].key.encode())
        found: list[int] = []
        for start in range(0, len(ordered), CHUNK):
            chunk = ordered[start : start + CHUNK]
            absent, unclear = await self._compare(route, references, chunk, touch)
            found += absent + await self._look(route, references, unclear, touch)
        return sorted(found)

    async def _compare(
        self, route: Route, references: Sequence[Reference], chunk: Sequence[int], touch: Touch
    ) -> tuple[list[int], list[int]]:
        """By listings: what is absent at the destination, and what only a look can tell."""
        keys = [references[index].key for index in chunk]
        source, first = places(route, keys[0], self._stores)
        sources, replicas = await asyncio.gather(
            _listed(source, keys, touch), _listed(first, [route.destination_key(key) for key in keys], touch)
        )
        if replicas is None:
            return [], list(chunk)
        absent, unclear = list[int](), list[int]()
        for index, key in zip(chunk, keys, strict=True):
            replica = replicas.get(route.destination_key(key))
            original = sources.get(key) if sources is not None else None
            if replica is None:
                (absent if original is not None or not references[index].while_kept else unclear).append(index)
            elif original is None or references[index].pointer is not None or not listed_equal(original, replica):
                unclear.append(index)
        return absent, unclear

    async def _look(self, route: Route, references: Sequence[Reference], asked: Iterable[int], touch: Touch) -> list[int]:
        left, found = iter(asked), list[int]()

        async def lane() -> None:
            for index in left:
                if not await self._stands(route, references[index]):
                    found.append(index)
                touch(0)

        await together(lane() for _ in range(LOOKS_AT_ONCE))
        return sorted(found)

    async def _stands(self, route: Route, reference: Reference) -> bool:
        view = await observe(route, reference.key, self._stores)
        if not stands(view.decision, view.replica_info):
            return reference.while_kept and view.source_info is None
        return reference.pointer is None or await self._pointer_resolves(route, view, reference.pointer)

    async def _pointer_resolves(self, route: Route, view: View, pointer: str) -> bool:
        """Whether the blob of a file manifest stands, is a JSON document, and holds what the pointer names."""
        assert view.replica_info is not None
        file_manifest = await _read_capped(view.destination, view.replica_info)
        blob = await observe(route, route.source.prefix + blob_key_of(file_manifest), self._stores)
        if blob.replica_info is None or not stands(blob.decision, blob.replica_info):
            return False
        return pointer_resolves(await _read_capped(blob.destination, blob.replica_info), pointer)

    # --- what can never stand ----------------------------------------------------------------------------------------

    async def _find_cycle(self, route: Route, key: str, missing: Sequence[Reference], touch: Touch) -> None:
        """Raises `DependencyCycle` when manifests that are missing lead back to `key`."""
        trail: dict[str, str] = {}
        todo = [ref.key for ref in missing[:WALKED] if ref.exists == "manifest" or is_manifest(route, ref.key)]
        trail.update(dict.fromkeys(todo, key))
        for _ in range(WALKED):
            if not todo:
                return
            at = todo.pop()
            touch(0)
            for named in await self._named_by(route, at, touch):
                if named == key:
                    await self._report(route, _path(trail, key, at))
                elif named not in trail and len(trail) < 10 * WALKED:
                    trail[named] = at
                    todo.append(named)

    async def _named_by(self, route: Route, key: str, touch: Touch) -> list[str]:
        """The manifests that a manifest at the source names; nothing for one that is absent or cannot be read."""
        assert route.rules is not None
        if route.skip_reason(key):
            return []
        source, _ = places(route, key, self._stores)
        rule, info = route.rules.rule_of(key), await head_or_absent(source)
        if rule is None or rule.reads == "siblings" or info is None or info.size_bytes > LARGE:
            return []
        try:
            references = await self.references(route, source, info, rule, touch)
        except (InvalidManifest, SourceChanged):
            return []
        return [ref.key for ref in references if is_manifest(route, ref.key)]

    async def _report(self, route: Route, path: list[str]) -> None:
        """A cycle that one of its members has left (it stands, in an older version) resolves itself."""
        for key in path[1:-1]:
            view = await observe(route, key, self._stores)
            if stands(view.decision, view.replica_info):
                return
        raise DependencyCycle("manifests that wait for each other: " + " -> ".join(path[:10]))


def _open_before(waited: Waiting | None, info: ObjectInfo, total: int) -> list[int] | None:
    if waited is None or waited.version != info.version.token or waited.total != total:
        return None
    return decode_missing(waited.missing, total)


def _check(route: Route, manifest: str, references: Sequence[Reference]) -> None:
    """Refuses what can never stand."""
    for reference in references:
        if reference.key == manifest:
            raise DependencyCycle(f"the manifest names itself: {manifest}")
        if reason := route.skip_reason(reference.key):
            raise UnsatisfiableDependency(f"{reference.key} is named and never replicates ({reason}: {SKIP_REASONS[reason]})")
        if reference.exists == "manifest" and not is_manifest(route, reference.key):
            raise InvalidManifest(f"{reference.key} is named as a manifest, and no rule of the route knows it as one")


def is_manifest(route: Route, key: str) -> bool:
    """Raises `UnknownKind` where the route's rules leave no key untold."""
    return route.rules is not None and route.rules.rule_of(key) is not None


def _path(trail: dict[str, str], key: str, at: str) -> list[str]:
    path = [key]
    while at != key:
        path.append(at)
        at = trail[at]
    return [*path, key][::-1]


async def _listed(place: Place, keys: Sequence[str], touch: Touch) -> dict[str, ListedObject] | None:
    """What a listing shows of `keys` (sorted by bytes); None where too much else stands between them."""
    wanted, last = set(keys), keys[-1].encode()
    pages_left = SPARE_PAGES * (1 + len(keys) // PAGE)
    found: dict[str, ListedObject] = {}
    async for page in _pages(place, _shared(keys[0], keys[-1]), keys[0][:-1]):
        touch(0)
        found.update((item.key, item) for item in page if item.key in wanted and not item.problem)
        if page and page[-1].key.encode() >= last:
            break
        pages_left -= 1
        if pages_left == 0:
            return None
    return found


def _shared(one: str, other: str) -> str:
    """The longest text that both start with."""
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _pages(place: Place, prefix: str, start_after: str) -> AsyncIterator[Sequence[ListedObject]]:
    return place.store.list_objects(place.bucket, prefix, start_after=start_after, page_size=PAGE)


async def read_whole(place: Place, info: ObjectInfo) -> bytes:
    """The object's bytes as stored, of exactly this version. Raises `SourceChanged` where it is gone."""
    if info.size_bytes == 0:
        return b""
    pieces = []
    try:
        async with place.store.read(place.bucket, place.key, pin=info.version, offset=0, length=info.size_bytes) as chunks:
            async for chunk in chunks:
                pieces.append(chunk)
    except ObjectNotFound as gone:
        raise SourceChanged(str(gone)) from gone
    return b"".join(pieces)


async def _read_capped(place: Place, info: ObjectInfo) -> bytes:
    if info.size_bytes > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"{place.key} has {info.size_bytes} bytes, and is to be read as a document of at most {MAX_MANIFEST_BYTES}")
    return await read_whole(place, info)


async def together(lanes: Iterable[Awaitable[None]]) -> None:
    """Runs lanes side by side; the first failure ends all and is raised as it is."""
    tasks = [asyncio.ensure_future(lane) for lane in lanes]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
