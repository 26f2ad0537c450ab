"""An HTTP server of this process, for as long as a block runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from replication.errors import SettingsError


@asynccontextmanager
async def listening(app: web.Application, listen: str, field: str) -> AsyncIterator[None]:
    """Serves `app` at `host:port`. Raises `SettingsError` that names the field when the address is taken or not ours."""
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise SettingsError([f"{field}: {listen} cannot be listened on: {error.strerror}"]) from None
        yield
    finally:
        await runner.cleanup()
