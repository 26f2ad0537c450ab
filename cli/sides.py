"""The stores and buckets behind routes: whether each can be reached, and what its endpoint was found to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cli.session import DIFFERS, DONE, UNREACHABLE
from replication.errors import ObjectError, Refused, SettingsError
from replication.limits import Capabilities
from replication.route_settings import RouteSettings
from stores.registry import Stores

SIDE_COLUMNS = ("store", "bucket", "used as", "fencing", "upload checksum", "state")


@dataclass(frozen=True)
class Side:
    """One bucket, and either what its endpoint does or the error that it answered with."""

    store: str
    bucket: str
    writable: bool
    capabilities: Capabilities | None = None
    error: ObjectError | SettingsError | None = None

    @property
    def reason(self) -> str:
        return "settings" if isinstance(self.error, SettingsError) else self.error.reason if self.error else ""


async def probe_sides(routes: Iterable[RouteSettings], stores: Stores) -> list[Side]:
    """Every (store, bucket) of the routes, probed at once: destinations with objects of our own, sources by reading."""
    wanted: dict[tuple[str, str], bool] = {}
    for route in routes:
        wanted.setdefault((route.source.store, route.source.bucket), False)
        wanted[(route.destination.store, route.destination.bucket)] = True
    return await asyncio.gather(*(_probe(stores, store, bucket, writable) for (store, bucket), writable in sorted(wanted.items())))


async def _probe(stores: Stores, store: str, bucket: str, writable: bool) -> Side:
    try:
        return Side(store, bucket, writable, await stores.capabilities(store, bucket, writable=writable))
    except (ObjectError, SettingsError) as error:
        return Side(store, bucket, writable, error=error)


def worst_code(sides: Iterable[Side]) -> int:
    """The exit code: a store that does not answer before one that refuses."""
    errors = [side.error for side in sides if side.error is not None]
    if any(isinstance(error, ObjectError) and not isinstance(error, Refused) for error in errors):
        return UNREACHABLE
    return DIFFERS if errors else DONE


def side_row(side: Side) -> tuple[str, ...]:
    used = "destination" if side.writable else "source"
    if side.capabilities is None:
        return (side.store, side.bucket, used, "-", "-", f"{side.reason}: {side.error}")
    # Without writing to it, most of what an endpoint does is only presumed; a source needs none of it.
    found = (side.capabilities.fencing, side.capabilities.upload_checksum) if side.writable else ("-", "-")
    detail = side.capabilities.detail
    return (side.store, side.bucket, used, *found, f"ok: {detail}" if detail else "ok")


def side_document(side: Side) -> dict[str, Any]:
    told: dict[str, Any] = {"store": side.store, "bucket": side.bucket, "used_as": "destination" if side.writable else "source"}
    if side.capabilities is None:
        return {**told, "ok": False, "reason": side.reason, "message": str(side.error)}
    return {**told, "ok": True, "fencing": side.capabilities.fencing, "capabilities": asdict(side.capabilities)}
