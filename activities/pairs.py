"""Two routes between the same two places: what both sides last had in common, and what a conflict would overwrite."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from temporalio import activity

from ledger.common import last_common
from ledger.ledger import Ledger
from ledger.rows import AuditEntry
from replication.errors import NotSupported, PreconditionFailed
from replication.mark import without_mark
from replication.models import ABSENT
from replication.routes import Route
from replication.settings import Settings
from stores.observe import View, observe
from stores.registry import Stores

log = logging.getLogger("drayage.activity")


def conflict_key(key: str, location_id: str, token: str) -> str:
    """Where the loser of a conflict is kept: `<key>.conflict-<location>-<version>`, eight hex digits each."""
    return f"{key}.conflict-{location_id[:8]}-{hashlib.sha256(token.encode()).hexdigest()[:8]}"


class Pairs:
    """Looks at keys of routes that another route leads back from; for the others, plain `observe`."""

    def __init__(self, settings: Settings, stores: Stores, ledger: Ledger) -> None:
        self._counterparts = settings.counterparts
        self._stores = stores
        self._ledger = ledger

    async def observe(self, route: Route, key: str) -> View:
        """Both sides, and for a pair what they last had in common. Raises `NotSupported` for a pair without fences."""
        if back := self._counterparts.get(route.name):
            capabilities = await self._stores.capabilities(route.destination.store, route.destination.bucket)
            if not capabilities.conditional_writes:
                raise NotSupported(
                    f"routes {route.name} and {back.name} lead back and forth, and the destination has no conditional writes"
                )
        return await self.look(route, key)

    async def look(self, route: Route, key: str) -> View:
        """The same for one who only tells: no endpoint is probed, for that writes."""
        back = self._counterparts.get(route.name)
        if back is None:
            return await observe(route, key, self._stores)
        return await observe(route, key, self._stores, paired=True, common=await last_common(self._ledger, route, back, key))

    async def keep_beside(self, view: View) -> None:
        """Copies what stands at the destination to a key of its own, as a user's object, before it is overwritten.

        The key is the same however often this is repeated. Raises `NotSupported` where the store cannot copy it by itself.
        """
        place, replica = view.destination, view.replica_info
        assert replica is not None
        if replica.size_bytes > place.store.limits.max_copy_size:
            raise NotSupported("the object that lost a conflict is too large to be kept beside the other by one copy")
        attributes = replace(replica.attributes, metadata=without_mark(replica.attributes.metadata))
        kept = conflict_key(place.key, view.route.destination_id, replica.version.token)
        try:
            done = await place.store.copy(place.bucket, place.key, replica.version, place.bucket, kept, attributes, ABSENT)
        except PreconditionFailed:
            return  # it is there already
        entry = AuditEntry(
            route=view.route.name,
            key=view.source.key,
            action="kept-beside",
            source_version=replica.version.token,
            destination_version=done.version.token,
            size_bytes=replica.size_bytes,
            reason=f"the loser of a conflict is {kept!r}",
            workflow=activity.info().workflow_id or "",
        )
        await self._ledger.record(audit=[entry])
        log.warning("conflict: what the other side had is kept as %r", kept, extra={"route": view.route.name, "key": view.source.key})
