"""Records the committed histories anew: `python -m tests.replay.record`, after a change that is meant to break replay.

A change that is not meant to break it must replay the histories as they are.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded.temporal import TemporalServer
from tests.replay.scenarios import SCENARIOS, SHORT_HISTORIES

HISTORIES = Path(__file__).parent / "histories"


async def record_all(client: Client, names: list[str]) -> dict[str, WorkflowHistory]:
    """Runs the scenarios side by side; `name` or, where there are several runs, `name-1`, `name-2`, … -> history."""
    runs = await asyncio.gather(*(SCENARIOS[name][0](client) for name in names))
    found: dict[str, WorkflowHistory] = {}
    for name, handles in zip(names, runs, strict=True):
        for number, handle in enumerate(handles, 1):
            found[name if len(handles) == 1 else f"{name}-{number}"] = await handle.fetch_history()
    return found


def scrubbed(value: Any) -> Any:
    """Without the names of machines and folders, which replay does not need."""
    if isinstance(value, dict):
        return {name: _known(name, item) for name, item in value.items()}
    return [scrubbed(item) for item in value] if isinstance(value, list) else value


def _known(name: str, item: Any) -> Any:
    if name == "identity":
        return "recorder"
    return "" if name in ("stackTrace", "binaryChecksum") else scrubbed(item)


async def main() -> None:
    HISTORIES.mkdir(exist_ok=True)
    for old in HISTORIES.glob("*.json"):
        old.unlink()
    with TemporalServer(headless=True, dynamic_config=SHORT_HISTORIES) as server:
        client = await Client.connect(server.address, namespace=server.namespace, data_converter=pydantic_data_converter)
        for name, history in (await record_all(client, list(SCENARIOS))).items():
            document = scrubbed(json.loads(history.to_json()))
            (HISTORIES / f"{name}.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
