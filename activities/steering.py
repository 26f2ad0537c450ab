"""Tells what a pass has under way in this process what its operators want, a second after they said it.

Limits hold over all workers: each process takes the share of a limit that its scans have of all scans of the pass. What a
store may take is shared by every pass in the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from activities._progress import pulse
from activities.gate import Gate
from activities.turns import Turns
from replication.passes import SteeringShare
from replication.routes import Route
from replication.settings import Settings
from replication.store_settings import StoreLimits
from stores.pace import Pace, read_paces

EVERY_S = 1.0
ANSWER = timedelta(seconds=5)


def _pace() -> Pace:
    return Pace(on_wait=lambda: pulse().touch())


@dataclass
class Paces:
    """One budget of bytes and one of requests."""

    bytes: Pace = field(default_factory=_pace)
    requests: Pace = field(default_factory=_pace)

    def set(self, bytes_per_s: float | None, requests_per_s: float | None, share: float, *, paused: bool = False) -> None:
        self.bytes.set_rate(bytes_per_s * share if bytes_per_s else None)
        self.requests.set_rate(requests_per_s * share if requests_per_s else None)
        self.bytes.paused = self.requests.paused = paused


@dataclass
class _Pass:
    """A pass with something under way here."""

    paces: Paces = field(default_factory=Paces)
    gates: set[Gate] = field(default_factory=set)
    users: int = 0
    known: SteeringShare = field(default_factory=SteeringShare)
    asking: asyncio.Task[None] | None = None


class Steerings:
    """Asks each pass that has something under way in this process once a second, however much that is."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._passes: dict[str, _Pass] = {}
        self._stores: dict[str, Paces] = {}

    @asynccontextmanager
    async def gate(self, workflow_id: str, route: Route, turns: Turns) -> AsyncIterator[Gate]:
        """The gate of a scan, kept in line with its pass while the block runs."""
        async with self._using(workflow_id, route) as (found, paces):
            gate = Gate(turns, [one.bytes for one in paces], [one.requests for one in paces])
            found.gates.add(gate)
            self._share_out(found)
            try:
                yield gate
            finally:
                found.gates.discard(gate)

    @asynccontextmanager
    async def paced(self, workflow_id: str, route: Route) -> AsyncIterator[None]:
        """Counts what is read in the block against the limits of a pass; "" for no pass."""
        if not workflow_id:
            yield
            return
        async with self._using(workflow_id, route) as (_, paces):
            with _reading([one.bytes for one in paces]):
                yield

    @asynccontextmanager
    async def _using(self, workflow_id: str, route: Route) -> AsyncIterator[tuple[_Pass, list[Paces]]]:
        found = self._passes.setdefault(workflow_id, _Pass())
        found.users += 1
        try:
            if found.asking is None:
                found.asking = asyncio.create_task(self._ask_on(workflow_id, found))
                await self._ask(workflow_id, found)
            yield found, [found.paces, *(self._of_store(name) for name in sorted({route.source.store, route.destination.store}))]
        finally:
            found.users -= 1
            if not found.users and found.asking is not None:
                found.asking.cancel()
                self._passes.pop(workflow_id, None)

    def _of_store(self, name: str) -> Paces:
        return self._stores.setdefault(name, Paces())

    async def _ask_on(self, workflow_id: str, found: _Pass) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._ask(workflow_id, found)

    async def _ask(self, workflow_id: str, found: _Pass) -> None:
        """Without an answer, what was known goes on."""
        with suppress(RPCError):
            handle = self._client.get_workflow_handle(workflow_id)
            found.known = await handle.query("steering", result_type=SteeringShare, rpc_timeout=ANSWER)
        self._share_out(found)

    def _share_out(self, found: _Pass) -> None:
        steering, scans = found.known.steering, max(1, found.known.scans)
        share = min(1.0, max(1, len(found.gates)) / scans)
        found.paces.set(steering.bytes_per_s, steering.requests_per_s, share, paused=steering.paused)
        for name, paces in self._stores.items():
            limits = self._settings.stores[name].limits or StoreLimits()
            paces.set(limits.bandwidth, limits.requests, share)
        for gate in found.gates:
            gate.steer(found.known)


@contextmanager
def _reading(paces: list[Pace]) -> Iterator[None]:
    token = read_paces.set(paces)
    try:
        yield
    finally:
        read_paces.reset(token)
