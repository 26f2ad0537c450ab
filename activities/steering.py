"""Tells what a pass has under way in this process what its operators want, a second after they said it.

Limits hold over all workers: each process takes its share (`activities/shares.py`) of what the pass may take, and of what each
store may take, whichever passes use it.
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
from activities.shares import Shares
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
    """A pass with something under way here; `stores` are those of its route."""

    workflow_id: str
    stores: tuple[str, ...]
    paces: Paces = field(default_factory=Paces)
    gates: set[Gate] = field(default_factory=set)
    users: int = 0
    known: SteeringShare = field(default_factory=SteeringShare)
    asking: asyncio.Task[None] | None = None

    @property
    def budgets(self) -> tuple[str, ...]:
        return (pass_budget(self.workflow_id), *map(store_budget, self.stores))


def pass_budget(workflow_id: str) -> str:
    return f"pass {workflow_id}"


def store_budget(name: str) -> str:
    return f"store {name}"


class Steerings:
    """Asks each pass that has something under way in this process once a second, however much that is."""

    def __init__(self, client: Client, settings: Settings, shares: Shares) -> None:
        self._client = client
        self._settings = settings
        self._shares = shares
        self._passes: dict[str, _Pass] = {}
        self._stores: dict[str, Paces] = {}

    @asynccontextmanager
    async def gate(self, workflow_id: str, partition: int, route: Route, turns: Turns) -> AsyncIterator[Gate]:
        """The gate of a partition's scan, kept in line with its pass while the block runs."""
        async with self._using(workflow_id, route) as (found, paces):
            gate = Gate(partition, turns, [one.bytes for one in paces], [one.requests for one in paces])
            found.gates.add(gate)
            gate.steer(found.known)
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
        stores = tuple(sorted({route.source.store, route.destination.store}))
        found = self._passes.setdefault(workflow_id, _Pass(workflow_id, stores))
        found.users += 1
        with self._shares.using(found.budgets):
            try:
                if found.asking is None:
                    found.asking = asyncio.create_task(self._keep(found))
                    await self._ask(found)
                    await self._share(found)
                yield found, [found.paces, *(self._stores.setdefault(name, Paces()) for name in stores)]
            finally:
                found.users -= 1
                if not found.users and found.asking is not None:
                    found.asking.cancel()
                    self._passes.pop(workflow_id, None)

    async def _keep(self, found: _Pass) -> None:
        await asyncio.gather(self._ask_on(found), self._share_on(found))

    async def _ask_on(self, found: _Pass) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._ask(found)

    async def _ask(self, found: _Pass) -> None:
        """Without an answer, which may be long in coming, what was known goes on."""
        with suppress(RPCError):
            handle = self._client.get_workflow_handle(found.workflow_id)
            found.known = await handle.query("steering", result_type=SteeringShare, rpc_timeout=ANSWER)
        self._share_out(found)

    async def _share_on(self, found: _Pass) -> None:
        """Not after each answer: a process that is silent meanwhile would be taken for dead."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self._share(found)

    async def _share(self, found: _Pass) -> None:
        await self._shares.refresh(self._limited(found))
        self._share_out(found)

    def _limited(self, found: _Pass) -> list[str]:
        """The budgets of a pass that there is something to share of."""
        steering = found.known.steering
        limited = [pass_budget(found.workflow_id)] if steering.bytes_per_s or steering.requests_per_s else []
        return limited + [store_budget(name) for name in found.stores if self._settings.stores[name].limits]

    def _share_out(self, found: _Pass) -> None:
        steering, part = found.known.steering, self._shares.part
        found.paces.set(steering.bytes_per_s, steering.requests_per_s, part(pass_budget(found.workflow_id)), paused=steering.paused)
        for name in found.stores:
            limits = self._settings.stores[name].limits or StoreLimits()
            self._stores.setdefault(name, Paces()).set(limits.bandwidth, limits.requests, part(store_budget(name)))
        for gate in found.gates:
            gate.steer(found.known)


@contextmanager
def _reading(paces: list[Pace]) -> Iterator[None]:
    token = read_paces.set(paces)
    try:
        yield
    finally:
        read_paces.reset(token)
