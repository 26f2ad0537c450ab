"""The passes of a route that run now: finding them, asking how far they are, telling them what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from cli.session import ANSWER
from cli.updates import update
from replication.ids import pass_workflow_id
from replication.passes import Mode, PassProgress
from replication.units import format_size

MODES: tuple[Mode, ...] = ("repair", "verify", "plan")


@dataclass(frozen=True)
class OpenPass:
    """A pass that has not ended."""

    mode: Mode
    handle: WorkflowHandle[Any, Any]

    async def progress(self) -> PassProgress | None:
        """None where no worker answers."""
        try:
            answer: PassProgress = await self.handle.query("progress", result_type=PassProgress, rpc_timeout=ANSWER)
        except RPCError:
            return None
        return answer

    async def update(self, name: str, *arguments: Any, answer: type | None = None) -> tuple[bool, Any]:
        """Whether the pass was still there, and its answer. Raises `TemporalUnreachable` where no worker takes it."""
        return await update(self.handle, name, arguments, answer=answer)


async def open_passes(client: Client, route: str) -> list[OpenPass]:
    """Of every mode, in a fixed order."""
    found = [await _open_pass(client, mode, route) for mode in MODES]
    return [one for one in found if one is not None]


async def _open_pass(client: Client, mode: Mode, route: str) -> OpenPass | None:
    handle = client.get_workflow_handle(pass_workflow_id(mode, route))
    try:
        description = await handle.describe()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    return OpenPass(mode, handle) if description.status == WorkflowExecutionStatus.RUNNING else None


def limits_text(limits: dict[str, Any]) -> str:
    """Of the fields of `Steering`: "4 objects at once, 10MiB/s, 200 requests/s", or "no limits"."""
    told = [
        f"{limits['concurrency']} objects at once" if limits["concurrency"] else "",
        f"{format_size(round(limits['bytes_per_s']))}/s" if limits["bytes_per_s"] else "",
        f"{limits['requests_per_s']:g} requests/s" if limits["requests_per_s"] else "",
    ]
    return ", ".join(text for text in told if text) or "no limits"
