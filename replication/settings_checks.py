"""What must hold between settings: stores that exist, names that are unique, sizes that fit, routes that do not meet.

Everything is told at once, so each check looks at whatever is sound by itself: a store with a wrong field is reported
for that field and takes no further part, and a route with a wrong policy is still held against its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from replication.ingest_settings import WatchSettings
from replication.limits import Limits
from replication.route_settings import LocationSettings, PartsSettings
from replication.store_settings import LIMITS, FileSettings, S3Settings, StoreSettings
from replication.units import format_size


@dataclass(frozen=True)
class Sound:
    """The parts of a document that are right by themselves, and every name that it declares. Routes are known by index."""

    stores: Mapping[str, StoreSettings]
    sources: Mapping[int, LocationSettings]
    destinations: Mapping[int, LocationSettings]
    parts: Mapping[int, PartsSettings]
    watches: Mapping[int, WatchSettings]
    store_names: frozenset[str]
    route_names: Mapping[int, str]


def cross_problems(sound: Sound) -> list[str]:
    """One line for each contradiction, starting with the path of the field."""
    checks = (
        _unknown_stores,
        _repeated_names,
        _impossible_parts,
        _routes_onto_themselves,
        _meeting_routes,
        _impossible_watches,
        _unread_cdns,
    )
    return [problem for check in checks for problem in check(sound)]


def _unknown_stores(sound: Sound) -> Iterator[str]:
    stores = ", ".join(sorted(sound.store_names)) or "none"
    for side, locations in (("source", sound.sources), ("destination", sound.destinations)):
        for index, location in locations.items():
            if location.store not in sound.store_names:
                yield f"routes[{index}].{side}.store: unknown store '{location.store}' (stores: {stores})"


def _repeated_names(sound: Sound) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, name in sound.route_names.items():
        if first.setdefault(name, index) != index:
            yield f"routes[{index}].name: '{name}' is the name of routes[{first[name]}] too"


def _impossible_parts(sound: Sound) -> Iterator[str]:
    for index, destination in sound.destinations.items():
        store, parts = sound.stores.get(destination.store), sound.parts.get(index)
        if store and parts:
            yield from (f"routes[{index}].parts.{problem}" for problem in _part_problems(parts, store.type, LIMITS[store.type]))


def _part_problems(parts: PartsSettings, kind: str, limits: Limits) -> Iterator[str]:
    size = parts.part_size
    if size is not None and size < limits.min_part_size:
        yield f"part_size: {format_size(size)} is less than a part of {kind} must have, {format_size(limits.min_part_size)}"
    if size is not None and size > limits.max_part_size:
        yield f"part_size: {format_size(size)} is more than a part of {kind} can have, {format_size(limits.max_part_size)}"
    if parts.one_shot_max is not None and parts.one_shot_max > limits.max_put_size:
        yield f"one_shot_max: {format_size(parts.one_shot_max)} is more than {kind} takes at once, {format_size(limits.max_put_size)}"


def _routes_onto_themselves(sound: Sound) -> Iterator[str]:
    for index, destination in sound.destinations.items():
        source = sound.sources.get(index)
        if source and overlap(sound.stores, source, destination):
            yield f"routes[{index}].destination: overlaps routes[{index}].source: {_named(sound, index)} would replicate its own replicas"


def _meeting_routes(sound: Sound) -> Iterator[str]:
    for (first, one), (second, other) in combinations(sound.destinations.items(), 2):
        if overlap(sound.stores, one, other):
            yield (
                f"routes[{second}].destination: overlaps routes[{first}].destination: "
                f"{_named(sound, second)} and {_named(sound, first)} would write the same keys"
            )


def _named(sound: Sound, index: int) -> str:
    name = sound.route_names.get(index)
    return f"route '{name}'" if name else f"routes[{index}]"


def overlap(stores: Mapping[str, StoreSettings], one: LocationSettings, other: LocationSettings) -> bool:
    """True when some key can belong to both locations, whatever their stores are called."""
    here, there = stores.get(one.store), stores.get(other.store)
    if here is None or there is None or here.identity != there.identity:
        return False
    a, b = here.address(one.bucket, one.prefix), there.address(other.bucket, other.prefix)
    return a.startswith(b) or b.startswith(a)


def _impossible_watches(sound: Sound) -> Iterator[str]:
    indexes = {name: index for index, name in reversed(list(sound.route_names.items()))}
    for place, watch in sound.watches.items():
        where = f"ingest.watch[{place}].route"
        if watch.route not in indexes:
            yield f"{where}: unknown route '{watch.route}' (routes: {', '.join(sorted(indexes)) or 'none'})"
        elif source := sound.sources.get(indexes[watch.route]):
            store = sound.stores.get(source.store)
            if store is not None and not isinstance(store, FileSettings):
                yield f"{where}: the source of '{watch.route}' is of type {store.type}; only a file system can be watched"


def _unread_cdns(sound: Sound) -> Iterator[str]:
    read = {(source.store, source.bucket) for source in sound.sources.values()}
    for name, store in sound.stores.items():
        for at, cdn in enumerate(store.cdn if isinstance(store, S3Settings) else ()):
            if (name, cdn.bucket) not in read:
                yield f"stores.{name}.cdn[{at}].bucket: no route has its source in '{cdn.bucket}' of this store"
