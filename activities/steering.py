"""Tells the gates of running scans what the operators of their passes want, a second after they said it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from activities.gate import Gate
from replication.passes import SteeringShare

EVERY_S = 1.0
ANSWER = timedelta(seconds=5)


class Steerings:
    """Asks each pass that has scans in this process once a second, however many they are."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._gates: dict[str, set[Gate]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, SteeringShare] = {}

    @asynccontextmanager
    async def steered(self, workflow_id: str, gate: Gate) -> AsyncIterator[None]:
        """Keeps the gate in line with the pass of that workflow while the block runs."""
        gates = self._gates.setdefault(workflow_id, set())
        gates.add(gate)
        if workflow_id not in self._asking:
            await self._ask(workflow_id)
            self._asking[workflow_id] = asyncio.create_task(self._ask_on(workflow_id))
        elif known := self._known.get(workflow_id):
            gate.steer(known)
        try:
            yield
        finally:
            gates.discard(gate)
            if not gates:
                self._asking.pop(workflow_id).cancel()
                self._gates.pop(workflow_id, None)
                self._known.pop(workflow_id, None)

    async def _ask_on(self, workflow_id: str) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._ask(workflow_id)

    async def _ask(self, workflow_id: str) -> None:
        """Without an answer, what was known goes on."""
        with suppress(RPCError):
            handle = self._client.get_workflow_handle(workflow_id)
            share: SteeringShare = await handle.query("steering", result_type=SteeringShare, rpc_timeout=ANSWER)
            self._known[workflow_id] = share
            for gate in self._gates.get(workflow_id, ()):
                gate.steer(share)
