"""Plans of copies: how the bytes of one source version travel, and under which attributes; and whether one was carried out."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, replace

from replication.errors import ObjectError
from replication.ids import new_copy_id
from replication.manifests.documents import MAX_MANIFEST_BYTES
from replication.mark import make_mark, own_mark, with_mark
from replication.models import Attributes, Checksums, Condition, CopyPlan, ObjectInfo, Version
from replication.parts import plan_parts
from replication.routes import Route
from replication.settings import Settings
from replication.verify import level, same_checksums
from stores.observe import View, head_or_absent
from stores.registry import Stores
from stores.transfer import Place, Transferred


@dataclass(frozen=True, slots=True)
class SmallPlan:
    """A `CopyPlan` of one request, which nobody has to remember: the same fields, as far as a commit needs them."""

    source: Version
    checksums: Checksums
    condition: Condition
    attributes: Attributes
    losses: list[str]
    copy_id: str
    reason: str
    upload_id: str = ""


class Plans:
    """Makes plans, each with an id, by which its commit is recognised: one of its own, or that of an earlier try."""

    def __init__(self, settings: Settings, stores: Stores) -> None:
        self._settings = settings
        self._stores = stores
        self._random = random.Random()  # noqa: S311 - seeded by the system; asking it for each id gives other threads the interpreter

    async def of_object(self, view: View, *, whole: bool = False, copy_id: str = "") -> CopyPlan:
        """How this source version travels: `whole` in one request. Raises `ObjectTooLarge` before anything moves."""
        info, route, settings = view.source_info, view.route, view.route.settings
        assert info is not None
        assert view.mapped is not None
        capabilities = await self._stores.capabilities(settings.destination.store, settings.destination.bucket)
        server_side = view.source.store.identity == view.destination.store.identity and capabilities.server_side_copy
        parts = plan_parts(
            info.size_bytes,
            destination_limits=view.destination.store.limits,
            one_shot_max=MAX_MANIFEST_BYTES if whole else settings.parts.one_shot_max,
            part_size=settings.parts.part_size,
            concurrency=settings.parts.concurrency,
            streams=self._settings.worker.streams,
            server_side=server_side,
        )
        copy_id = copy_id or new_copy_id(self._random)
        return CopyPlan(
            mode=parts.mode,
            server_side=server_side,
            source=info.version,
            checksums=info.checksums,
            condition=view.decision.condition,
            attributes=self._attributes(view, copy_id),
            losses=list(view.mapped.losses),
            copy_id=copy_id,
            epoch=route.epoch,
            reason=view.decision.reason,
            part_size=parts.part_size,
            part_count=parts.part_count,
            run_length=parts.run_length,
            runs_in_flight=parts.runs_in_flight,
        )

    def of_small(self, view: View, info: ObjectInfo, copy_id: str = "") -> SmallPlan:
        assert view.mapped is not None
        copy_id, losses = copy_id or new_copy_id(self._random), list(view.mapped.losses)
        attributes = self._attributes(view, copy_id)
        return SmallPlan(info.version, info.checksums, view.decision.condition, attributes, losses, copy_id, view.decision.reason)

    def attributes(self, view: View) -> Attributes:
        """Those of a replica whose bytes stay."""
        return self._attributes(view, new_copy_id(self._random))

    def _attributes(self, view: View, copy_id: str) -> Attributes:
        """The replica's attributes with the origin mark, which commits with the bytes."""
        info, mapped = view.source_info, view.mapped
        assert info is not None
        assert mapped is not None
        mark = make_mark(
            route=view.route.name,
            source=info,
            source_id=view.route.source_id,
            source_place=view.source_place,
            replica_place=view.replica_place,
            copy_id=copy_id,
        )
        source_etag = info.version.etag if view.destination.store.kind == "gcs" else ""
        metadata = with_mark(mapped.attributes.metadata, mark, source_etag=source_etag)
        return replace(mapped.attributes, metadata=metadata)


async def recognise_and_tidy(route: Route, key: str, destination: Place, plan: CopyPlan | SmallPlan) -> Transferred | None:
    """As `recognise`; removes the temporary parts of an upload whose commit was cut off before the store did."""
    found = await recognise(route, key, destination, plan)
    if found is not None and plan.upload_id:
        with suppress(ObjectError):  # what stays is Housekeeping's
            await destination.store.abort_upload(destination.bucket, destination.key, plan.upload_id)
    return found


async def recognise(route: Route, key: str, destination: Place, plan: CopyPlan | SmallPlan) -> Transferred | None:
    """Our own commit of this plan, if that is what stands at the destination; else None."""
    info = await head_or_absent(destination)
    return None if info is None else carried_out(info, route.replica_place(key), plan)


def carried_out(info: ObjectInfo, place: str, plan: CopyPlan | SmallPlan) -> Transferred | None:
    """The commit of this plan, if that is what `info` shows at that place."""
    if info.size_bytes != plan.source.size_bytes:
        return None
    mark = own_mark(info, place)
    if mark is None or mark.copy != plan.copy_id or same_checksums(info.checksums, plan.checksums) is False:
        return None
    compared = same_checksums(info.checksums, plan.checksums) is True
    return Transferred(info, info.checksums, level(source_compared=compared, destination_proved=compared), plan.source.size_bytes)
