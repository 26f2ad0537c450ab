"""Waiting in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from activities._progress import pulse

TOUCH_S = 1.0


class Line:
    """Who waits for something. Its length says how many do."""

    def __init__(self) -> None:
        self._places: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._places)

    def join(self) -> asyncio.Future[None]:
        """A place at the end."""
        place = asyncio.get_running_loop().create_future()
        self._places.append(place)
        return place

    def let_in(self) -> bool:
        """Lets the first one in; False if it has gone away."""
        place = self._places.popleft()
        if place.done():
            return False
        place.set_result(None)
        return True

    async def wait(
        self,
        place: asyncio.Future[None],
        *,
        given_back: Callable[[], None],
        long: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Returns once let in. `given_back` is called where the caller is let in and cancelled at the same time. What may take
        `long` tells the activity's pulse that it goes on, and calls `meanwhile`, which may raise to give the place up."""
        try:
            while long and not place.done():
                pulse().touch()
                meanwhile()
                await asyncio.wait([place], timeout=TOUCH_S)
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                given_back()
            else:
                with suppress(ValueError):
                    self._places.remove(place)
            raise
