"""Google's Pub/Sub emulator, which comes with the Google Cloud command line and needs Java."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from embedded.ports import LOOPBACK
from embedded.server import Server, ServerMissingError, http_json

PROGRAM = Path("platform", "pubsub-emulator", "bin", "cloud-pubsub-emulator")


class PubSubEmulator(Server):
    """Topics and subscriptions of any project, in memory."""

    name = "pubsub"
    ports_needed = 1
    grace_s = 0.0
    project = "embedded"

    @property
    def host(self) -> str:
        """The value of PUBSUB_EMULATOR_HOST."""
        return f"{LOOPBACK}:{self.ports[0]}"

    def command(self) -> list[str]:
        return [str(_program()), f"--host={LOOPBACK}", f"--port={self.ports[0]}"]

    def answers(self) -> bool:
        return http_json(self.ports[0], "GET", f"/v1/projects/{self.project}/topics")[0] == 200

    def create_topic(self, name: str) -> str:
        """The full name of the topic."""
        topic = f"projects/{self.project}/topics/{name}"
        self._ask("PUT", f"/v1/{topic}", {})
        return topic

    def create_subscription(self, name: str, topic: str, **settings: Any) -> str:
        """The full name of the subscription; `settings` are fields of its resource."""
        subscription = f"projects/{self.project}/subscriptions/{name}"
        self._ask("PUT", f"/v1/{subscription}", {"topic": topic, "ackDeadlineSeconds": 10, **settings})
        return subscription

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> Any:
        status, answer = http_json(self.ports[0], method, path, body)
        if status != 200:
            raise RuntimeError(f"the emulator answers {status} to {method} {path}: {answer}")
        return answer


def _program() -> Path:
    """Beside `gcloud`, or below CLOUDSDK_ROOT."""
    if shutil.which("java") is None:
        raise ServerMissingError("`java` is not installed; the Pub/Sub emulator needs it (Debian: apt install default-jre-headless)")
    found = shutil.which("gcloud")
    roots = [Path(root) for root in [os.environ.get("CLOUDSDK_ROOT", "")] if root]
    roots += [parent for parent in Path(found).resolve().parents] if found else []
    roots += [root / "lib" / "google-cloud-sdk" for root in roots]
    for root in roots:
        if (root / PROGRAM).is_file():
            return root / PROGRAM
    raise ServerMissingError("the Pub/Sub emulator is not installed; it comes beside gcloud (package google-cloud-cli-pubsub-emulator)")
