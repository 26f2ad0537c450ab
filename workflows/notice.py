"""`SendNotice`: one notice on its way to the endpoint of the settings, for a day at most."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

with workflow.unsafe.imports_passed_through():
    from activities.notices import NoticeActivities
    from replication.notices import Notice

from workflows import options
from workflows.visibility import route_attributes

log = logging.getLogger("drayage.worker")

_SENDING = RetryPolicy(initial_interval=timedelta(seconds=5), backoff_coefficient=2.0, maximum_interval=timedelta(minutes=10))


@workflow.defn(name="SendNotice", failure_exception_types=options.DEFECTS)
class SendNotice:
    """Fails with the last reason where the endpoint refuses, or did not answer for a day."""

    @workflow.run
    async def run(self, notice: Notice) -> int:
        return await workflow.execute_activity_method(
            NoticeActivities.send_notice,
            notice,
            start_to_close_timeout=timedelta(minutes=1),
            schedule_to_close_timeout=timedelta(days=1),
            heartbeat_timeout=options.HEARTBEAT,
            retry_policy=_SENDING,
        )


def sender(client: Client, queue: str) -> Callable[[Notice], Awaitable[None]]:
    """Starts a `SendNotice` for each notice, unless there was one for it. Where Temporal refuses, the log has the notice."""

    async def start(notice: Notice) -> None:
        try:
            await client.start_workflow(
                "SendNotice",
                notice,
                id=notice.workflow_id,
                task_queue=queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                search_attributes=route_attributes(notice.route),
                static_summary=notice.text[:200],
                priority=options.priority(notice.route),
            )
        except WorkflowAlreadyStartedError:
            return
        except RPCError as error:
            log.warning("a notice is not sent (%s): %s", error, notice.text, extra={"route": notice.route})

    return start
