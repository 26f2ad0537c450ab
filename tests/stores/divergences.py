"""Where a test server, not our store, breaks the contract: subject -> test -> reason. The only such list.

Each entry is a strict expected failure: the day the server is right, the suite says so.
"""

from __future__ import annotations

DIVERGENCES: dict[str, dict[str, str]] = {
    "memory": {},
    "files": {},
    "s3-seaweed": {},
    "s3-moto": {},
    "gcs-fake": {},
}
