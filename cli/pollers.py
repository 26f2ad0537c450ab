"""Who works on a task queue."""

from __future__ import annotations

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError


async def pollers(client: Client, queue: str, *, activities: bool = False) -> list[str]:
    """Identities of the workers that polled the queue in the last minutes; [] also where the server does not tell."""
    kind = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if activities else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    request = DescribeTaskQueueRequest(namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
    try:
        answer = await client.workflow_service.describe_task_queue(request)
    except RPCError:
        return []
    return sorted({poller.identity for poller in answer.pollers})
