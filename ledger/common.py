"""What both sides of two routes back and forth last had in common."""

from __future__ import annotations

from ledger.ledger import Ledger
from replication.routes import Route


async def last_common(ledger: Ledger, route: Route, back: Route, key: str) -> tuple[str, str] | None:
    """The newest receipt of either route, as (source token, replica token) of `route`. Raises `LedgerUnavailable`."""
    there = await ledger.find(route.name, key)
    return_trip = await ledger.find(back.name, route.destination_key(key))
    if return_trip is not None and (there is None or return_trip.recorded_at > there.recorded_at):
        return return_trip.destination_version, return_trip.source_version
    return (there.source_version, there.destination_version) if there is not None else None
