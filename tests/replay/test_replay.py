"""Today's workflow code takes the same decisions on histories of earlier code: what makes a deploy safe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, WorkflowReplayResult
from temporalio.workflow import NondeterminismError

from embedded.temporal import TemporalServer
from tests.conftest import running
from tests.poll import SLACK
from tests.replay.record import HISTORIES, record_all
from tests.replay.scenarios import SCENARIOS, SHORT_HISTORIES
from worker import WORKFLOWS

COMMITTED = sorted(path.stem for path in HISTORIES.glob("*.json"))


def replayer() -> Replayer:
    return Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter)


def text_of(name: str) -> str:
    return (HISTORIES / f"{name}.json").read_text()


def id_in(name: str) -> str:
    """The workflow's id, which passes look at."""
    started = json.loads(text_of(name))["events"][0]["workflowExecutionStartedEventAttributes"]
    return str(started.get("workflowId") or f"replayed-{name}")


def event_types(document: dict[str, Any]) -> set[str]:
    return {event["eventType"].removeprefix("EVENT_TYPE_") for event in document["events"]}


async def replay(history: WorkflowHistory) -> WorkflowReplayResult:
    """Raises `NondeterminismError` when today's code decides otherwise."""
    async with asyncio.timeout(20 * SLACK):
        return await replayer().replay_workflow(history)


@pytest.mark.parametrize("name", COMMITTED)
async def test_a_committed_history_replays(name: str) -> None:
    replayed = await replay(WorkflowHistory.from_json(id_in(name), text_of(name)))
    assert replayed.replay_failure is None


def test_every_scenario_has_a_committed_history() -> None:
    assert {name.rstrip("0123456789").rstrip("-") for name in COMMITTED} == set(SCENARIOS)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_history_holds_what_it_is_named_for_and_no_machine(name: str) -> None:
    document = json.loads(text_of(name))
    types = event_types(document)
    if name.startswith("continued-"):
        last = name == max((other for other in COMMITTED if other.startswith("continued-")), key=lambda other: int(other.split("-")[1]))
        assert ("WORKFLOW_EXECUTION_CONTINUED_AS_NEW" in types) != last
    else:
        assert SCENARIOS[name.rstrip("0123456789").rstrip("-")][1] in types
    assert '"identity": "recorder"' in text_of(name)
    assert "/site-packages/" not in text_of(name)


@pytest.mark.parametrize(("name", "step"), [("small", "settle_object"), ("multi-part", "complete_copy"), ("housekeeping", "sweep_orphans")])
async def test_a_history_of_other_code_is_told_from_ours(name: str, step: str) -> None:
    """The check itself can fail, and an incompatible deploy parks workflows instead of failing them."""
    changed = text_of(name).replace(f'"{step}"', '"another_step"')
    with pytest.raises(NondeterminismError):
        await replay(WorkflowHistory.from_json("changed", changed))


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def short_history_client() -> AsyncIterator[Client]:
    with running(TemporalServer(headless=True, dynamic_config=SHORT_HISTORIES)) as server:
        yield await Client.connect(server.address, namespace=server.namespace, data_converter=pydantic_data_converter)


async def test_every_history_of_a_live_run_replays(short_history_client: Client) -> None:
    live = await record_all(short_history_client, list(SCENARIOS))
    assert len(live) > len(SCENARIOS)
    for name, (_, event) in SCENARIOS.items():
        history = live.get(name) or live[f"{name}-1"]
        assert event in event_types(json.loads(history.to_json())), name
    for name, history in live.items():
        try:
            await replay(history)
        except Exception as error:
            pytest.fail(f"{name} does not replay: {error}")
