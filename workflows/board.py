"""What operators see of a pass and set: how far it is, how fast it may go, what it waits for."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from replication.passes import Counters, LimitUpdate, PassProgress, Steering

from workflows.visibility import pass_details


class Board:
    """The progress of a pass, kept where the `progress` query and the Web UI read it."""

    def __init__(self, progress: PassProgress) -> None:
        self.progress = progress

    @property
    def counters(self) -> Counters:
        return self.progress.counters

    @property
    def steering(self) -> Steering:
        return self.progress.steering

    def count(self, counters: Counters) -> None:
        self.show(counters=self.counters.plus(counters))

    def pause(self, paused: bool) -> None:
        self._stand(steering=self.steering.model_copy(update={"paused": paused}))

    def limit(self, change: LimitUpdate) -> None:
        self.show(steering=change.applied(self.steering))

    def hold(self, reason: str) -> None:
        """Deletions wait for an operator, or with "" no longer do."""
        self._stand(held=reason)

    def troubled(self, problem: str) -> None:
        """What the pass waits for; "" when that is over."""
        self._stand(problem=problem)

    def show(self, **fields: Any) -> None:
        self.progress = self.progress.model_copy(update=fields)
        workflow.set_current_details(pass_details(self.progress))

    def _stand(self, **fields: Any) -> None:
        """Shows what changes the state of a pass that has not ended."""
        state = self.progress.model_copy(update=fields).standing
        self.show(state=state, **fields)
