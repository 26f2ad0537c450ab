"""JSON logs: one object per line, control characters escaped, with the fields that operators filter by."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

FIELDS = ("route", "key", "workflow_id", "run_id", "attempt", "activity", "reason", "retry_in_s", "outcome", "bytes_copied")
MAX_TEXT = 2_000


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, then those of `FIELDS` that the record has, then `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MAX_TEXT],
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    for context in (getattr(record, "temporal_activity", None), getattr(record, "temporal_workflow", None)):
        if isinstance(context, dict):
            found.update({name: context[name] for name in FIELDS if name in context and name not in found})
            if "activity_type" in context:
                found.setdefault("activity", context["activity_type"])
    return {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in found.items() if value is not None}


def configure_logging(*, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Sends every log of the process to standard error as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("botocore", "aiobotocore", "boto3", "urllib3", "google", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
