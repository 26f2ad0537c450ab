"""What a supervisor is told about the ingestors while sources and Temporal come and go."""

from __future__ import annotations

import asyncio
import contextlib
import tomllib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from temporalio.client import Client

from embedded.ports import LOOPBACK, free_port
from embedded.temporal import TemporalServer
from ingest.dispatch import Dispatcher
from replication.errors import SettingsError
from service.health import PROBE_EVERY_S, Ask, Health, process_info, serving, silent
from service.version import VERSION
from tests.conftest import running
from tests.poll import SLACK, eventually

PATIENT_S = 20.0
"""For a Temporal that answers: however busy the machine is."""
BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clocks:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.seconds)


class Counted:
    """Asks Temporal for real, and counts."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.asked = self.under_way = self.most = 0

    async def __call__(self) -> bool:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self.dispatcher.takes_starts()
        finally:
            self.under_way -= 1


@contextlib.asynccontextmanager
async def served(health: Health) -> AsyncIterator[str]:
    """The address that is answered."""
    listen = f"{LOOPBACK}:{free_port()}"
    async with serving(listen, "ingest.health", health, {"program": "ingest"}):
        yield f"http://{listen}"


async def get(url: str, method: str = "GET") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        return answer.status, await answer.json() if method == "GET" else None


def dispatcher_of(client: Client, start_timeout_s: float = 2.0) -> Dispatcher:
    return Dispatcher(client, "q-health", start_timeout=timedelta(seconds=start_timeout_s))


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def health(temporal_client: Client, clocks: Clocks) -> Health:
    """Two ingestors and a Temporal that answers."""
    dispatcher = dispatcher_of(temporal_client)
    return Health(
        ["sqs[0]", "webhook"],
        {"temporal": dispatcher.takes_starts},
        probe_wait_s=PATIENT_S,
        clock=clocks.monotonic,
        now=clocks.now,
    )


async def test_ready_means_that_every_source_answered(health: Health) -> None:
    async with served(health) as url:
        status, wrong = await get(f"{url}/readyz")
        assert (status, [problem["name"] for problem in wrong]) == (503, ["sqs[0]", "webhook"])
        health.report("webhook")(True, "")
        health.report("sqs[0]")(True, "")
        assert await get(f"{url}/readyz") == (200, [])
        assert await get(f"{url}/livez") == (200, [])
        assert await get(f"{url}/readyz", "HEAD") == (200, None)


async def test_a_failure_is_told_with_its_first_time_and_its_last_cause(health: Health, clocks: Clocks) -> None:
    reports = [health.report(name) for name in ("sqs[0]", "webhook")]
    for report in reports:
        report(True, "")
    async with served(health) as url:
        for cause in ("refused", "timed out " + "x" * 1000):
            clocks.seconds += 60
            reports[0](False, cause)
        expected = {"name": "sqs[0]", "since": "2026-01-02T03:05:05.000+00:00", "cause": ("timed out " + "x" * 1000)[:300]}
        assert await get(f"{url}/readyz") == (503, [expected])
        assert await get(f"{url}/livez") == (200, [])
        reports[0](True, "")
        assert await get(f"{url}/readyz") == (200, [])


async def test_liveness_fails_when_an_ingestor_has_ended(health: Health) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise ValueError("a secret")

    tasks = {"sqs[0]": asyncio.create_task(forever()), "webhook": asyncio.create_task(fails())}
    for name, task in tasks.items():
        health.report(name)(True, "")
        health.attach(name, task)
    async with served(health) as url:
        await eventually(lambda: tasks["webhook"].done())
        status, dead = await get(f"{url}/livez")
        assert (status, [(problem["name"], problem["cause"]) for problem in dead]) == (503, [("webhook", "ended: ValueError")])
        assert (await get(f"{url}/readyz"))[0] == 503
    tasks["sqs[0]"].cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


def test_only_names_of_the_set_report(health: Health) -> None:
    for call in (health.report, lambda name: health.attach(name, None)):  # type: ignore[arg-type]
        with pytest.raises(KeyError):
            call("sqs[1]")
    silent(True, "")


@pytest.fixture
def server() -> Iterator[TemporalServer]:
    with running(TemporalServer(headless=True)) as started:
        yield started


async def test_while_temporal_is_away_the_process_lives_and_is_not_ready(server: TemporalServer, clocks: Clocks) -> None:
    dispatcher = dispatcher_of(await Client.connect(server.address))
    health = Health(probes={"temporal": dispatcher.takes_starts}, probe_wait_s=PATIENT_S, clock=clocks.monotonic)
    async with served(health) as url:
        assert await get(f"{url}/readyz") == (200, [])
        await asyncio.to_thread(server.kill)
        clocks.seconds += PROBE_EVERY_S
        status, wrong = await get(f"{url}/readyz")
        assert (status, [(problem["name"], problem["cause"]) for problem in wrong]) == (503, [("temporal", "does not take starts")])
        assert await get(f"{url}/livez") == (200, [])
        await asyncio.to_thread(server.restart)

        async def is_ready_again() -> bool:
            clocks.seconds += PROBE_EVERY_S
            return (await get(f"{url}/readyz"))[0] == 200

        await eventually(is_ready_again, 20, interval_s=0.1)
    await dispatcher.close()


async def test_a_start_that_temporal_did_not_take_ends_readiness(
    temporal_client: Client, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = dispatcher_of(temporal_client)
    health = Health(probes={"temporal": dispatcher.takes_starts}, probe_wait_s=PATIENT_S, clock=clocks.monotonic)
    assert await health.unready() == []
    monkeypatch.setattr(Dispatcher, "available", False)
    clocks.seconds += PROBE_EVERY_S
    assert [problem.name for problem in await health.unready()] == ["temporal"]


async def test_each_probe_is_told_by_its_name_and_its_cause(clocks: Clocks) -> None:
    there = {"temporal": True, "ledger": False}

    def probe(name: str) -> Ask:
        async def ask() -> bool:
            return there[name]

        return ask

    health = Health(probes={name: probe(name) for name in there}, clock=clocks.monotonic)
    assert [(problem.name, problem.cause) for problem in await health.unready()] == [("ledger", "does not answer")]
    there.update(temporal=False, ledger=True)
    assert [problem.name for problem in await health.unready()] == ["ledger"], "asked just now"
    clocks.seconds += PROBE_EVERY_S
    assert [(problem.name, problem.cause) for problem in await health.unready()] == [("temporal", "does not take starts")]


async def test_temporal_is_probed_once_an_interval_however_often_readiness_is_asked(temporal_client: Client, clocks: Clocks) -> None:
    dispatcher = dispatcher_of(temporal_client)
    probe = Counted(dispatcher)
    health = Health(probes={"temporal": probe}, probe_wait_s=PATIENT_S, clock=clocks.monotonic)
    async with served(health) as url:
        for expected in (1, 2):
            answers = await asyncio.gather(*(get(f"{url}/readyz") for _ in range(50)))
            assert {status for status, _ in answers} == {200}
            clocks.seconds += PROBE_EVERY_S - 0.01
            await get(f"{url}/readyz")
            assert probe.asked == expected
            clocks.seconds += 0.01


async def test_a_temporal_that_hangs_is_not_ready_and_is_asked_one_question_at_a_time(server: TemporalServer, clocks: Clocks) -> None:
    dispatcher = dispatcher_of(await Client.connect(server.address), 60)
    probe = Counted(dispatcher)
    health = Health(probes={"temporal": probe}, probe_wait_s=0.5, clock=clocks.monotonic)
    async with served(health) as url:

        async def is_ready() -> bool:
            return (await get(f"{url}/readyz"))[0] == 200

        await eventually(is_ready, 20)
        assert probe.asked == 1
        server.suspend()
        try:
            clocks.seconds += PROBE_EVERY_S
            async with asyncio.timeout(30 * SLACK):
                answers = await asyncio.gather(*(get(f"{url}/readyz") for _ in range(30)))
            assert {status for status, _ in answers} == {503}
            assert (probe.asked, probe.under_way, probe.most) == (2, 1, 1)
            assert await get(f"{url}/livez") == (200, [])
        finally:
            server.resume()

        await eventually(is_ready, 30, interval_s=0.1)
        assert probe.most == 1


async def test_what_runs_is_told(health: Health) -> None:
    async with served(health) as url:
        assert await get(f"{url}/info") == (200, {"program": "ingest"})
    told = process_info("ingest", sources=["sqs[0]"])
    assert (told["version"], told["sources"]) == (VERSION, ["sqs[0]"])
    assert datetime.fromisoformat(told["started_at"]).tzinfo is not None
    with Path(__file__).parents[2].joinpath("pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == VERSION


@pytest.mark.parametrize(("path", "method", "status"), [("/", "GET", 404), ("/readyz/", "GET", 404), ("/readyz", "POST", 405)])
async def test_nothing_else_is_served(health: Health, path: str, method: str, status: int) -> None:
    async with served(health) as url:
        assert (await get(url + path, method))[0] == status


async def test_an_address_that_is_taken_is_named_with_its_setting(health: Health) -> None:
    async with served(health) as url:
        listen = url.removeprefix("http://")
        with pytest.raises(SettingsError, match=r"^ingest\.health: cannot listen on "):
            async with serving(listen, "ingest.health", health, {}):
                pass
