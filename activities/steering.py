"""Tells what a pass has under way in this process what its operators want, a second after they said it.

Limits hold over all workers: each process takes its share (`activities/shares.py`) of what the pass may take. What its stores
may be asked for comes on top (`activities/budgets.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition
from temporalio.service import RPCError, RPCStatusCode

from activities._progress import pulse
from activities.budgets import StoreBudgets, activity_paces
from activities.gate import Gate
from activities.shares import Shares
from activities.turns import Turns
from replication.passes import Steering, SteeringShare
from replication.routes import Route
from stores.pace import Budget, Paces, on_budget

EVERY_S = 1.0
ANSWER = timedelta(seconds=5)
ENDED = SteeringShare(steering=Steering(paused=True))
"""What holds for a pass that has ended: its scans begin nothing more, and what is under way goes on without its limits."""


@dataclass
class _Pass:
    """A pass with something under way here."""

    workflow_id: str
    paces: Paces = field(default_factory=activity_paces)
    gates: set[Gate] = field(default_factory=set)
    users: int = 0
    known: SteeringShare = field(default_factory=SteeringShare)
    has_told: asyncio.Event = field(default_factory=asyncio.Event)
    asking: asyncio.Task[None] | None = None

    @property
    def budget(self) -> str:
        return f"pass {self.workflow_id}"


class Steerings:
    """Asks each pass that has something under way in this process once a second, however much that is.

    Nothing begins before a pass has told for the first time what is wanted: it may be paused."""

    def __init__(self, client: Client, shares: Shares, stores: StoreBudgets) -> None:
        self._client = client
        self._shares = shares
        self._stores = stores
        self._passes: dict[str, _Pass] = {}

    @asynccontextmanager
    async def gate(self, workflow_id: str, partition: int, route: Route, turns: Turns) -> AsyncIterator[Gate]:
        """The gate of a partition's scan, kept in line with its pass while the block runs."""
        async with self._using(workflow_id, route) as (found, budget):
            gate = Gate(partition, turns, budget)
            found.gates.add(gate)
            gate.steer(found.known)
            try:
                yield gate
            finally:
                found.gates.discard(gate)

    @asynccontextmanager
    async def paced(self, workflow_id: str, route: Route) -> AsyncIterator[None]:
        """Counts what is read in the block against the limits of a pass; "" stands for a change, and for those of its stores."""
        if not workflow_id:
            async with self._stores.changing(route):
                yield
            return
        async with self._using(workflow_id, route) as (_, budget):
            with on_budget(budget):
                yield

    @asynccontextmanager
    async def _using(self, workflow_id: str, route: Route) -> AsyncIterator[tuple[_Pass, Budget]]:
        found = self._passes.setdefault(workflow_id, _Pass(workflow_id))
        found.users += 1
        with self._shares.using([found.budget]):
            try:
                if found.asking is None:
                    found.asking = asyncio.create_task(self._keep(found))
                await _first_word(found, found.asking)
                async with self._stores.using(route) as stores:
                    yield found, Budget([found.paces, *stores])
            finally:
                found.users -= 1
                if not found.users and found.asking is not None:
                    found.asking.cancel()
                    self._passes.pop(workflow_id, None)

    async def _keep(self, found: _Pass) -> None:
        await asyncio.gather(self._ask_on(found), self._share_on(found))

    async def _ask_on(self, found: _Pass) -> None:
        while True:
            if await self._ask(found) and not found.has_told.is_set():
                await self._share(found)
                found.has_told.set()
            await asyncio.sleep(EVERY_S)

    async def _ask(self, found: _Pass) -> bool:
        """Whether the pass told what is wanted, or there is none. Without an answer, what was known goes on."""
        handle = self._client.get_workflow_handle(found.workflow_id)
        open_only = QueryRejectCondition.NOT_OPEN
        try:
            found.known = await handle.query("steering", result_type=SteeringShare, rpc_timeout=ANSWER, reject_condition=open_only)
        except WorkflowQueryRejectedError:
            found.known = ENDED
        except RPCError as error:
            return error.status == RPCStatusCode.NOT_FOUND
        except WorkflowQueryFailedError:
            return False
        self._share_out(found)
        return True

    async def _share_on(self, found: _Pass) -> None:
        """Not after each answer: a process that is silent meanwhile would be taken for dead."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self._share(found)

    async def _share(self, found: _Pass) -> None:
        steering = found.known.steering
        if steering.bytes_per_s or steering.requests_per_s:
            await self._shares.refresh([found.budget])
        self._share_out(found)

    def _share_out(self, found: _Pass) -> None:
        steering, part = found.known.steering, self._shares.part(found.budget)
        found.paces.set(steering.bytes_per_s, steering.requests_per_s, part, paused=steering.paused)
        for gate in found.gates:
            gate.steer(found.known)


async def _first_word(found: _Pass, asking: asyncio.Task[None]) -> None:
    """Waits for it, and is alive meanwhile; raises what ended the asking."""
    while not found.has_told.is_set():
        pulse().touch()
        if asking.done():
            asking.result()
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
                await found.has_told.wait()
