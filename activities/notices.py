"""Notices: who wants them, and sending one. Sent by a workflow of its own each, so that what caused it never waits for the receiver."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from temporalio import activity
from temporalio.exceptions import ApplicationError

from replication.notices import Notice, NotifySettings
from replication.secrets import resolve_secret
from replication.settings import Settings

ANSWER_S = 20.0
REPEATED = frozenset({408, 425, 429})
"""Refusals that may be none a moment later."""

Start = Callable[[Notice], Awaitable[None]]
"""Starts the workflow that sends a notice, unless there was one for it. Raises nothing that its caller has to know of."""


class Notices:
    """What happens, told to the endpoint of the settings if that wants to know."""

    def __init__(self, settings: NotifySettings | None, start: Start) -> None:
        self._wanted = frozenset(settings.events) if settings else frozenset()
        self._start = start
        self._told: dict[str, str] = {}

    async def tell(self, notice: Notice) -> None:
        """Once for each workflow id; this process remembers the last of each event and route."""
        subject = f"{notice.event}:{notice.route}"
        if notice.event in self._wanted and self._told.get(subject) != notice.workflow_id:
            await self._start(notice)
            self._told[subject] = notice.workflow_id


def token_of(settings: NotifySettings | None, environ: Mapping[str, str]) -> str:
    """The token as it is now, "" for none. Raises `SettingsError` for one that is not there."""
    return resolve_secret(settings.token, environ, field="notify.token") if settings and settings.token else ""


async def _nobody(notice: Notice) -> None:
    """For where nobody is to be told."""


SILENT = Notices(None, _nobody)


class NoticeActivities:
    """Built once per worker."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._notify = settings.notify
        self._environ = environ

    @activity.defn(name="send_notice")
    async def send_notice(self, notice: Notice) -> int:
        """POSTs it as JSON and returns the status of the answer. Raises `notice-refused`, which is final, and `notice-not-sent`."""
        if self._notify is None:
            raise ApplicationError("nobody is to be notified any more", type="notice-refused", non_retryable=True)
        headers = {"User-Agent": "drayage"}
        if token := token_of(self._notify, self._environ):
            headers["Authorization"] = f"Bearer {token}"
        try:
            status = await self._post(self._notify.url, notice.model_dump(mode="json"), headers)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ApplicationError(f"the endpoint of notices does not answer: {type(error).__name__}", type="notice-not-sent") from None
        if status >= 300:
            final = 300 <= status < 500 and status not in REPEATED
            kind = "notice-refused" if final else "notice-not-sent"
            raise ApplicationError(f"the endpoint of notices answered {status}", type=kind, non_retryable=final)
        return status

    async def _post(self, url: str, document: dict[str, Any], headers: Mapping[str, str]) -> int:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, json=document, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status
