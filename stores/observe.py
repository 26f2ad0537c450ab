"""Looking at both sides of one key, now, and deciding: the only reader behind every decision of the product."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from replication.decide import Observation, decide
from replication.errors import ObjectNotFound, Refused
from replication.fidelity import Mapped, map_attributes
from replication.models import Decision, ObjectInfo
from replication.routes import Route
from stores.registry import Stores
from stores.transfer import Place


@dataclass(frozen=True, slots=True)
class View:
    """Both sides of a key, what the replica should look like, and what to do. `mapped` is None without a source."""

    route: Route
    source: Place
    destination: Place
    source_info: ObjectInfo | None
    replica_info: ObjectInfo | None
    mapped: Mapped | None
    source_place: str
    replica_place: str
    decision: Decision


def places(route: Route, key: str, stores: Stores) -> tuple[Place, Place]:
    """Where the object stands and where its replica does."""
    settings = route.settings
    source = Place(stores.get(settings.source.store), settings.source.bucket, key)
    destination = Place(stores.get(settings.destination.store), settings.destination.bucket, route.destination_key(key))
    return source, destination


async def observe(route: Route, key: str, stores: Stores, *, paired: bool = False, common: tuple[str, str] | None = None) -> View:
    """Reads both sides at once. Raises whatever keeps either from being known: nothing is decided on half a view.

    What somebody must act on is told before what may heal by itself. `paired` and `common` are those of `Observation`.
    """
    source, destination = places(route, key, stores)
    seen = await asyncio.gather(head_or_absent(source), head_or_absent(destination), return_exceptions=True)
    if failures := [side for side in seen if isinstance(side, BaseException)]:
        raise next((error for error in failures if isinstance(error, Refused)), failures[0])
    info, replica = (side for side in seen if not isinstance(side, BaseException))
    return view_of(route, source, destination, info, replica, paired, common)


async def head_or_absent(place: Place) -> ObjectInfo | None:
    """The object, or None on the store's positive word that it is not there."""
    try:
        return await place.store.head(place.bucket, place.key)
    except ObjectNotFound:
        return None


def view_of(
    route: Route,
    source: Place,
    destination: Place,
    info: ObjectInfo | None,
    replica: ObjectInfo | None,
    paired: bool = False,
    common: tuple[str, str] | None = None,
) -> View:
    """What both sides, read a moment ago, lead to."""
    settings = route.settings
    mapped = _mapped(route, source, destination, info) if info is not None else None
    source_place, replica_place = route.source_place(source.key), route.replica_place(source.key)
    seen = Observation(
        source=info,
        replica=replica,
        route=route.name,
        source_place=source_place,
        replica_place=replica_place,
        destination_id=route.destination_id,
        overwrite=settings.overwrite,
        deletes=settings.deletes_mode,
        foreign=settings.foreign,
        wanted=mapped.attributes if mapped else None,
        compare_tags=settings.tags == "copy",
        case_insensitive_metadata=destination.store.limits.metadata_ascii,
        paired=paired,
        common=common,
        conflict=settings.conflict,
    )
    return View(route, source, destination, info, replica, mapped, source_place, replica_place, decide(seen))


def _mapped(route: Route, source: Place, destination: Place, info: ObjectInfo) -> Mapped:
    settings = route.settings
    return map_attributes(
        info.attributes,
        source_kind=source.store.kind,
        destination_kind=destination.store.kind,
        destination_limits=destination.store.limits,
        storage_class=settings.storage_class,
        storage_class_map=settings.storage_class_map,
        tags=settings.tags,
        tag_metadata_prefix=settings.tag_metadata_prefix,
    )
