"""What every command starts from: the settings, the environment, the output; and how it reaches Temporal and the stores.

What a command does not use is not imported: the ledger's and the stores' libraries take a third of a quick command's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from temporalio.client import Client

from cli.output import Output
from replication.errors import RouteUnknown, UsageError
from replication.keys import key_problem
from replication.routes import Route
from replication.settings import Settings
from workflows.client import connect

if TYPE_CHECKING:
    from ledger.ledger import Ledger
    from stores.registry import Stores

DONE, DIFFERS, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
"""The exit codes: done; finished with objects that failed or differ; wrong usage or configuration; the server or a
store cannot be reached; interrupted."""
ANSWER = timedelta(seconds=10)
"""How long a worker may take to answer a query; where none polls there is no answer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """One run of one command."""

    settings: Settings
    environ: Mapping[str, str]
    output: Output

    async def connect(self) -> Client:
        """Raises `TemporalUnreachable`."""
        return await connect(self.settings.temporal, self.environ)

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        """The configured stores; closed when the block ends."""
        from stores.registry import Stores

        stores = Stores(self.settings, self.environ)
        try:
            yield stores
        finally:
            await stores.close()

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """The ledger, opened when it is first asked; closed when the block ends."""
        from ledger.ledger import Ledger

        ledger = Ledger(self.settings.ledger)
        try:
            yield ledger
        finally:
            await ledger.close()

    def route(self, name: str) -> Route:
        """Raises `UsageError` that names the argument."""
        try:
            return self.settings.route(name)
        except RouteUnknown as error:
            raise UsageError(f"argument ROUTE: {error}") from None


def check_key_argument(key: str, where: str = "argument KEY") -> str:
    """Returns a key that some store can hold. Raises `UsageError` that says which argument is wrong and why."""
    if problem := key_problem(key):
        raise UsageError(f"{where}: {problem}: {short(key)}" if key else f"{where}: {problem}")
    return key


def short(key: str, limit: int = 60) -> str:
    """A key for an error line: quoted, escaped, cut."""
    text = ascii(key)
    return text if len(text) <= limit else f"{text[:limit]}…"


async def for_each(items: Iterable[T], limit: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Runs `work` for every item, at most `limit` at once. The first failure cancels the others and is raised."""
    rest = iter(items)

    async def lane() -> None:
        for item in rest:
            await work(item)

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(limit):
                lanes.create_task(lane())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
