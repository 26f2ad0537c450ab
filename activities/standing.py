"""Where the routes stand, as gauges: what monitoring looks at without asking the command line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from temporalio.service import RPCError

from activities import metrics
from ledger.ledger import Ledger
from ledger.rows import last_ended
from replication.errors import LedgerUnavailable

log = logging.getLogger("drayage.worker")

EVERY_S = 30.0
AGES_S = {"0s": 0.0, "1m": 60.0, "10m": 600.0, "1h": 3_600.0, "1d": 86_400.0}
PASSES = 50
"""The newest passes on record among which the last one of each mode is looked for."""

CountOpen = Callable[[str, float], Awaitable[int]]
"""(route, seconds): how many of its object workflows are open, and began at least so long ago."""


class Standing:
    """Tells it of all `routes`, again and again. Nothing of it costs more where a route has more objects in sync."""

    def __init__(self, ledger: Ledger, routes: Sequence[str], count_open: CountOpen) -> None:
        self._ledger = ledger
        self._routes = routes
        self._count_open = count_open
        self._reasons: dict[str, set[str]] = {route: set() for route in routes}
        self._silent = False

    async def run(self) -> None:
        """Until it is cancelled. While ledger or Temporal are away, the gauges keep what they told last."""
        while True:
            try:
                for route in self._routes:
                    await self.tell(route)
                self._silent = False
            except (LedgerUnavailable, RPCError) as error:
                self._stand_still(str(error))
            except Exception:
                log.exception("a defect in the gauges of the routes")
            await asyncio.sleep(EVERY_S)

    def _stand_still(self, why: str) -> None:
        """Told once for each outage."""
        if not self._silent:
            log.warning("the gauges of the routes stand still: %s", why)
        self._silent = True

    async def tell(self, route: str) -> None:
        """Raises `LedgerUnavailable`, `RPCError`."""
        for name, seconds in AGES_S.items():
            metrics.gauge("drayage_open_objects", await self._count_open(route, seconds), route=route, older_than=name)
        resting = await self._ledger.quarantine_counts(route)
        self._reasons[route] |= resting.keys()
        for reason in self._reasons[route]:
            metrics.gauge("drayage_resting_objects", resting.get(reason, 0), route=route, reason=reason)
        metrics.gauge("drayage_pending_deletions", await self._ledger.pending_count(route), route=route)
        passes = await self._ledger.passes(route, PASSES)
        for mode in sorted({record.mode for record in passes}):
            last = last_ended(record for record in passes if record.mode == mode)
            if last is not None and last.ended_at is not None:
                metrics.gauge("drayage_last_pass_ended_seconds", last.ended_at, route=route, mode=mode)
                for counter, value in last.counters.items():
                    metrics.gauge("drayage_last_pass", value, route=route, mode=mode, counter=counter)
