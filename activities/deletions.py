"""Permits for deletions: asked of the route's `RouteDeletions` workflow, many keys in one request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from activities.notices import SILENT, Notices
from replication.deletions import Count, DeletionsInput, Limits, PermitAnswer, PermitRequest
from replication.errors import ObjectError
from replication.ids import deletions_id
from replication.notices import held_notice
from replication.settings import Settings
from stores.registry import Stores

log = logging.getLogger("drayage.activity")

KEYS_PER_REQUEST = 100
ANSWER = timedelta(seconds=10)
COUNTS = 3
UNCOUNTED = "the replicas of the route are being counted, or could not be"


@dataclass(frozen=True, slots=True)
class Permit:
    """`reason` says why it is not granted; unless the route is `held`, asking again in a moment may do."""

    granted: bool
    reason: str = ""
    held: bool = False


class Permits:
    """Asks for permits. What comes while a request of the route is under way goes together into the next one.

    A permit that is granted and not used is counted all the same: that stops a route too early, never too late.
    """

    def __init__(self, client: Client, settings: Settings, stores: Stores, notices: Notices = SILENT) -> None:
        self._notices = notices
        self._stores = stores
        self._client = client
        self._settings = settings
        self._waiting: dict[str, list[tuple[str, asyncio.Future[Permit]]]] = defaultdict(list)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def ask(self, route: str, key: str) -> Permit:
        answer: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        self._waiting[route].append((key, answer))
        if route not in self._asking:
            self._asking[route] = asyncio.create_task(self._ask_all(route))
        return await answer

    async def _ask_all(self, route: str) -> None:
        try:
            while batch := self._waiting[route][:KEYS_PER_REQUEST]:
                del self._waiting[route][: len(batch)]
                try:
                    told = await self._request(route, [key for key, _ in batch])
                except Exception as error:
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                refused = Permit(False, told.reason or UNCOUNTED, held=bool(told.reason))
                if told.reason:
                    await self._notices.tell(held_notice(route, told.reason, "", time.time()))
                for number, (_, answer) in enumerate(batch):
                    if not answer.done():
                        answer.set_result(Permit(True) if number < told.granted else refused)
        finally:
            del self._asking[route]

    async def _request(self, route: str, keys: list[str]) -> PermitAnswer:
        """An empty answer where nobody answers in time, or the replicas cannot be counted."""
        limits, count = Limits.of(self._settings.route(route).settings.deletions), None
        for _ in range(COUNTS):
            answer = await self._update(route, PermitRequest(keys=keys, limits=limits, count=count))
            if not answer.count:
                return answer
            try:
                count = await self._count(route, answer.count)
            except ObjectError as error:
                log.warning("the replicas cannot be counted: %s", error, extra={"route": route, "reason": error.reason})
                break
        return PermitAnswer(granted=0)

    async def _update(self, route: str, request: PermitRequest) -> PermitAnswer:
        start: Any = WithStartWorkflowOperation(
            "RouteDeletions",
            DeletionsInput(route=route, limits=request.limits),
            id=deletions_id(route),
            task_queue=self._settings.temporal.control_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"deletions of route {route}"[:200],
        )
        try:
            answer: PermitAnswer = await self._client.execute_update_with_start_workflow(
                "permit", request, start_workflow_operation=start, result_type=PermitAnswer, rpc_timeout=ANSWER
            )
        except (RPCError, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError):
            with suppress(RPCError):
                await start.workflow_handle()  # the same error once more: unread, it would be logged as nobody's
            return PermitAnswer(granted=0)
        return answer

    async def _count(self, route: str, enough: int) -> Count:
        """Objects at the destination of the route, up to `enough` of them."""
        location, listed = self._settings.route(route).destination, 0
        async for page in self._stores.get(location.store).list_objects(location.bucket, location.prefix):
            listed += sum(not item.problem for item in page)
            if listed >= enough:
                return Count(listed=listed, complete=False)
        return Count(listed=listed, complete=True)
