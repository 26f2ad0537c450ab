"""What operators are told without asking: how passes end, and deletions that wait for them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator

from replication.models import Payload
from replication.passes import Counters, Mode, PassState
from replication.secrets import SecretRef
from replication.store_settings import SettingsModel, split_url

NoticeEvent = Literal["pass-ended", "pass-failed", "deletions-held"]

EVENTS: dict[NoticeEvent, str] = {
    "pass-failed": "a pass ended `failed` or `incomplete`, or a verification found anomalies",
    "pass-ended": "a pass ended in any other way",
    "deletions-held": "a mass deletion waits for `approve`; while one of changes waits, once an hour",
}
NAMED = ("listed", "copied", "updated", "deleted", "waiting", "blocked", "failed", "differing", "extra")
"""The counters that the text names where they are not 0."""


def _hook(value: str) -> str:
    split_url(value)
    if "#" in value:
        raise ValueError("must not hold a fragment")
    return value


class NotifySettings(SettingsModel):
    """An HTTP endpoint that is told what happens."""

    url: Annotated[str, AfterValidator(_hook)]
    token: SecretRef | None = None
    """Sent as `Authorization: Bearer`."""
    events: tuple[NoticeEvent, ...] = ("pass-failed", "deletions-held")


class Notice(Payload):
    """One of them, as it is sent: JSON with these names. `text` is for people; chats show it."""

    event: NoticeEvent
    text: str
    route: str
    at: datetime
    mode: Mode | None = None
    state: PassState | None = None
    reason: str = ""
    pass_id: str = ""
    counters: Counters | None = None

    @property
    def workflow_id(self) -> str:
        """The same for what is told again, so that it is sent once."""
        return f"notice:{self.event}:{self.route}:{self.pass_id or self.at.strftime('%Y-%m-%dT%H')}"


def pass_notice(route: str, mode: Mode, pass_id: str, state: PassState, reason: str, counters: Counters, at: float) -> Notice:
    """How a pass ended."""
    counted = [f"{count:,} {name}" for name in NAMED if (count := getattr(counters, name))]
    why = f" ({reason})" if reason else ""
    anomalies = mode == "verify" and counters.differing + counters.extra > 0
    return Notice(
        event="pass-failed" if state in ("failed", "incomplete") or anomalies else "pass-ended",
        text=f"{route}: {mode} {state}{why}" + (f": {', '.join(counted)}" if counted else ""),
        route=route,
        at=datetime.fromtimestamp(at, UTC),
        mode=mode,
        state=state,
        reason=reason,
        pass_id=pass_id,
        counters=counters,
    )


def held_notice(route: str, reason: str, pass_id: str, at: float) -> Notice:
    """Deletions of a pass, or of changes where `pass_id` is "", that wait for an operator."""
    text = f"{route}: deletions wait for `starter.py approve {route}`: {reason}"
    moment = datetime.fromtimestamp(at, UTC)
    return Notice(event="deletions-held", text=text, route=route, at=moment, reason=reason, pass_id=pass_id)
