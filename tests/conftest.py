"""Fixtures that several test folders share: real servers, started on first use and kept for the session.

A server whose program is not installed skips the tests that need it on a developer's machine and fails them in CI.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import pytest_asyncio
from hypothesis import settings
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from embedded import ports
from embedded.fake_gcs import FakeGcs
from embedded.moto import MotoServer
from embedded.pubsub import PubSubEmulator
from embedded.seaweedfs import SeaweedFS
from embedded.server import Server, ServerMissingError
from embedded.temporal import TemporalServer

# Two processes and several servers share the cores: how long one example takes says nothing about the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# What runs in the background of a shell without job control ignores Ctrl-C, and so would the commands under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

AnyServer = TypeVar("AnyServer", bound=Server)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """The server, started; skips or fails the test when its program is missing, and stops it in every case."""
    try:
        server.start()
    except ServerMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have every server: {missing}")
        pytest.skip(str(missing))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def temporal_server() -> Iterator[TemporalServer]:
    """An in-memory Temporal with Drayage's search attributes. Tests use a uuid for every task queue and workflow id."""
    with running(TemporalServer(headless=True)) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal_client(temporal_server: TemporalServer) -> AsyncIterator[Client]:
    yield await Client.connect(temporal_server.address, namespace=temporal_server.namespace, data_converter=pydantic_data_converter)


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    with running(SeaweedFS()) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed_b() -> Iterator[SeaweedFS]:
    """A second endpoint with other credentials: no server-side copies between the two."""
    with running(SeaweedFS()) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[FakeGcs]:
    with running(FakeGcs()) as server:
        yield server


@pytest.fixture(scope="session")
def pubsub() -> Iterator[PubSubEmulator]:
    with running(PubSubEmulator()) as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[MotoServer]:
    with running(MotoServer()) as server:
        yield server


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


@pytest.fixture
def bucket_name() -> Callable[[], str]:
    """Makes bucket names that no other test has, valid in S3 and in GCS."""
    return lambda: f"t-{uuid.uuid4().hex}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many tests did not run and why: a skipped test proves nothing."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped if isinstance(report.longrepr, tuple))
    if reasons:
        terminalreporter.section(f"{len(skipped)} tests did not run")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:4d}  {reason}")
