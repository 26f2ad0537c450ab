"""A site with one route that no other test has: passes, schedules and the ledger are those of a route."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cli.conftest import route
from tests.cli.site import Ended, Site
from tests.e2e.sides import S3Side


@dataclass
class Lane:
    """The route `name` from `source` to `destination`, both below `{name}/`."""

    site: Site
    name: str
    source: S3Side
    destination: S3Side
    bucket: str

    def key(self, number: int) -> str:
        return f"{self.name}/{number:04}"

    async def put(self, *numbers: int, data: bytes = b"x") -> list[str]:
        """Stores source objects; their keys."""
        keys = [self.key(number) for number in numbers]
        for key in keys:
            await asyncio.to_thread(self.source.put, key, data)
        return keys

    async def remove(self, *numbers: int) -> None:
        for number in numbers:
            await asyncio.to_thread(self.source.delete, self.key(number))

    async def replicas(self) -> int:
        """How many stand at the destination, up to 1,000."""
        listed = self.destination.client.list_objects_v2
        found = await asyncio.to_thread(listed, Bucket=self.bucket, Prefix=f"{self.name}/")
        return len(found.get("Contents", []))

    async def starter(self, command: str, *arguments: str, json: bool = True) -> Ended:
        """`starter.py COMMAND ROUTE …`"""
        return await self.site.starter(command, self.name, *arguments, *(["--json"] if json else []))

    async def status(self) -> dict[str, Any]:
        """What `status` tells of the route."""
        told: dict[str, Any] = (await self.starter("status")).document["routes"][0]
        return told


def make_lane(make_site: Callable[..., Site], s3: S3Side, s3b: S3Side, *, ledger: str = "", bucket: str = "", **settings: Any) -> Lane:
    name = f"lane-{uuid.uuid4().hex[:12]}"
    bucket = bucket or s3b.bucket
    described = route(name, s3, s3b.name, bucket, before=f"{name}/", after=f"{name}/", **settings)
    return Lane(make_site(routes=[described], **({"ledger": ledger} if ledger else {})), name, s3, s3b, bucket)
