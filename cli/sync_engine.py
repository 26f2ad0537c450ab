"""The Temporal server and the worker of one `sync`: two child processes that Ctrl-C does not reach and that never outlive it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from cli.sync_state import GRACEFUL_STOP_S, State
from embedded.process import ManagedProcess, ServerStartError
from embedded.server import ServerMissingError
from embedded.temporal import TemporalServer
from workflows.client import TemporalUnreachable

ROOT = Path(__file__).parent.parent
WORKER = ROOT / "worker.py"
PRELOAD = ROOT / "embedded" / "preload.py"
READY = "worker is ready"
READY_S = 60.0
LOOK_EVERY_S = 0.05


class EngineFailed(TemporalUnreachable):
    """A child could not be started, or ended by itself."""


class Engine:
    """`start_server`, then `start_worker`; `stop` and `kill` in any state. The worker does its imports while the server starts."""

    def __init__(self, state: State, environ: Mapping[str, str]) -> None:
        self._state = state
        self._server = TemporalServer(state.folder, db_filename=state.database.name, headless=True)
        self._worker = ManagedProcess(
            "worker",
            [sys.executable, str(PRELOAD), str(WORKER), "--config", str(state.config)],
            log=state.worker_log,
            inherited=worker_environment(environ),
            grace_s=GRACEFUL_STOP_S + 15.0,
            held=True,
        )

    async def start_server(self) -> str:
        """The server's address. Raises `EngineFailed`."""
        self._state.rotate_logs()
        await to_the_end(self._worker.start)
        try:
            await to_the_end(self._server.start)
        except (ServerMissingError, ServerStartError) as error:
            raise EngineFailed(str(error)) from None
        return self._server.address

    async def connect(self) -> Client:
        """Without the variables and profiles that lead to other servers."""
        try:
            return await Client.connect(self._server.address, namespace=self._server.namespace, data_converter=pydantic_data_converter)
        except (RPCError, RuntimeError) as error:
            raise EngineFailed(f"the embedded Temporal server cannot be reached: {error}") from None

    async def start_worker(self) -> None:
        """Returns when it polls. Raises `EngineFailed`."""
        self._worker.release()
        try:
            async with asyncio.timeout(READY_S):
                while READY not in self._state.worker_log.read_text(errors="replace"):
                    self.check()
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            raise EngineFailed(f"the worker did not start; its log: {self._state.worker_log}") from None

    def check(self) -> None:
        """Raises `EngineFailed` when a child has ended."""
        for name, running, log in (
            ("Temporal server", self._server.is_running, self._server.folder / "server.log"),
            ("worker", self._worker.is_running, self._state.worker_log),
        ):
            if not running:
                raise EngineFailed(f"the {name} has ended; its log: {log}")

    async def stop(self) -> None:
        """First the worker, which hands back what it does, then the server, which keeps it."""
        await to_the_end(self._worker.stop)
        await to_the_end(self._server.stop)

    def kill(self) -> None:
        self._worker.kill()
        if self._server.is_running:
            self._server.kill()


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the stores need of the caller's environment, without what would lead the worker to another Temporal server."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("TEMPORAL_", "DRAYAGE_"))}
    return {**kept, "TEMPORAL_CONFIG_FILE": "/dev/null", "PYTHONUNBUFFERED": "1"}


async def to_the_end(work: Callable[[], object]) -> None:
    """Runs blocking work in a thread. Cancelled, it still waits for the work's end, so that nobody undoes half of it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
