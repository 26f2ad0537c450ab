"""A route `r` between two stores that a test puts in the places of `a` and `b`, without any server."""

from __future__ import annotations

from typing import Any

from replication.settings import Settings, parse_settings
from tests.ledgers import ledger_url


def settings_of(**route: Any) -> Settings:
    """From bucket `one` of `a` to bucket `two` of `b`; `route` is what else the route has."""
    sides = {"source": {"store": "a", "bucket": "one"}, "destination": {"store": "b", "bucket": "two"}}
    stores = {name: {"type": "file", "root": f"/{name}"} for name in ("a", "b")}
    return parse_settings({"ledger": ledger_url(), "stores": stores, "routes": [{"name": "r", **sides, **route}]})
