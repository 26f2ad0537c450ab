"""A worker whose `ReconcileRoute` does what `--start-after` says, so that `sync` can be tested by what a pass answers.

The last part of the key is the scenario: `done`, `slow` (until it is approved), `held`, `waiting`, `incomplete`, `denied`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from temporalio import workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from replication.passes import Counters, LimitUpdate, PassInput, PassProgress, PassResult, Steering
    from replication.settings import load_settings
    from service.leaving import leave

STUBBORN = "STUB_IGNORES_SIGTERM"
COUNTERS = Counters(listed=5, skipped=1, copied=3, failed=1, bytes_copied=4096, bytes_listed=8192)


@workflow.defn(name="ReconcileRoute")
class StubPass:
    @workflow.init
    def __init__(self, asked: PassInput) -> None:
        self._asked = asked
        self._scenario = asked.filters.start_after.rpartition("/")[2] or "done"
        self._approved = False
        self._limits: LimitUpdate | None = None

    @workflow.run
    async def run(self, asked: PassInput) -> PassResult:
        workflow.logger.warning("scenario %s", self._scenario)
        if self._scenario in ("slow", "held", "waiting"):
            await workflow.wait_condition(lambda: self._approved)
        if self._scenario == "denied":
            raise ApplicationError("the keys are wrong", type="credentials-refused", non_retryable=True)
        counters = COUNTERS if self._scenario == "incomplete" else COUNTERS.model_copy(update={"failed": 0, "skipped": 2})
        state = "incomplete" if self._scenario == "incomplete" else "done"
        seconds = 3600.0 if self._scenario == "slow" else 2.0
        return PassResult(route=asked.route, mode=asked.mode, state=state, counters=counters, seconds=seconds, notes=[str(self._approved)])

    @workflow.query
    def progress(self) -> PassProgress:
        state = "running" if self._approved or self._scenario not in ("held", "waiting") else self._scenario
        return PassProgress.model_validate(
            {
                "route": self._asked.route,
                "mode": self._asked.mode,
                "state": state,
                "counters": COUNTERS,
                "steering": Steering(bytes_per_s=self._asked.limits.bytes_per_s),
                "held": "3 deletions, more than 2" if self._scenario == "held" else "",
                "problem": "endpoint-unreachable: nobody is there" if self._scenario == "waiting" else "",
            }
        )

    @workflow.update
    def approve(self) -> None:
        self._approved = True

    @workflow.update
    def limit(self, limits: LimitUpdate) -> None:
        self._limits = limits


async def _main(config: Path) -> None:
    settings = load_settings(config, {})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(settings.temporal.address, data_converter=pydantic_data_converter)
    if STUBBORN in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    async with Worker(client, task_queue=settings.temporal.control_queue, workflows=[StubPass]):
        logging.warning("worker is ready")
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    asyncio.run(_main(parser.parse_args().config))
    leave(0)
