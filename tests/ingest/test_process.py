"""`python -m ingest` as its users start it: every kind of source in one process, health, metrics, and an orderly end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from embedded.ports import free_ports
from embedded.pubsub import PubSubEmulator
from tests.ingest.conftest import Rig
from tests.ingest.test_events import s3_body, s3_record
from tests.poll import eventually


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError:
        return 0, ""


def post(url: str, body: str, token: str) -> int:
    request = urllib.request.Request(url, body.encode(), {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(answer.status)


@pytest.fixture
def everything(rig: Rig, pubsub: PubSubEmulator, tmp_path: Path) -> dict[str, str]:
    """The rig's queue, and beside it a subscription, a watched folder and a webhook; the addresses of the process."""
    ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
    addresses = dict(zip(("health", "metrics", "webhook"), ports, strict=True))
    topic = pubsub.create_topic(f"t-{tmp_path.name}")
    (tmp_path / "disk/inbox").mkdir(parents=True)
    document: dict[str, Any] = json.loads(json.dumps(rig.document))
    document["stores"]["disk"] = {"type": "file", "root": str(tmp_path / "disk")}
    folder = {
        "name": f"{rig.route}-folder",
        "source": {"store": "disk", "bucket": "inbox"},
        "destination": {"store": "replica", "bucket": rig.replica.bucket, "prefix": "from-the-folder/"},
    }
    document["routes"] = [{**document["routes"][0], "destination": {**document["routes"][0]["destination"], "prefix": "s3/"}}, folder]
    document["ingest"] = {
        "health": addresses["health"],
        "metrics": addresses["metrics"],
        "sqs": document["ingest"]["sqs"][1:],
        "pubsub": [{"subscription": pubsub.create_subscription(f"s-{tmp_path.name}", topic)}],
        "watch": [{"route": folder["name"], "quiet": "200ms"}],
        "webhook": {"listen": addresses["webhook"], "token": "env:TOKEN"},
    }
    rig.document = document
    rig.environ |= {"TOKEN": "let me in", "PUBSUB_EMULATOR_HOST": pubsub.host}
    rig.__post_init__()
    rig.environ |= {"TOKEN": "let me in", "PUBSUB_EMULATOR_HOST": pubsub.host}
    return addresses


async def test_every_source_is_followed_by_one_process(rig: Rig, everything: dict[str, str], tmp_path: Path) -> None:
    rig.notify()
    async with rig.worker(), rig.ingesting():
        await eventually(lambda: get(f"http://{everything['health']}/readyz")[0] == 200, 30, interval_s=0.2)
        assert get(f"http://{everything['health']}/livez")[0] == 200
        (tmp_path / "disk/inbox/a.txt").write_text("from the folder")
        rig.source.put("queued", b"from the queue")
        await eventually(lambda: rig.is_replicated("from-the-folder/a.txt", b"from the folder"), 30, interval_s=0.1)
        await eventually(lambda: rig.is_replicated("s3/queued", b"from the queue"), 30, interval_s=0.1)
        body = s3_body(s3_record("queued", bucket=rig.source.bucket))
        assert await asyncio.to_thread(post, f"http://{everything['webhook']}/", body, "let me in") == 202
        shown = get(f"http://{everything['metrics']}/metrics")[1]
    assert "drayage_ingest_started_total" in shown
    assert 'source="watch"' in shown
    assert "let me in" not in rig.log()


async def test_a_changed_configuration_is_taken_over_at_sighup(rig: Rig, everything: dict[str, str], tmp_path: Path) -> None:
    rig.notify()
    address = everything["health"]
    whole = rig.document["ingest"]
    rig.document["ingest"] = {"health": address, "sqs": whole["sqs"]}
    rig.source.put("before", b"from the queue")

    async def tells(child: subprocess.Popen[bytes], document: dict[str, Any], text: str) -> None:
        """At SIGHUP, about another configuration."""
        (rig.folder / "drayage.yaml").write_text(json.dumps(document))
        child.send_signal(signal.SIGHUP)
        await eventually(lambda: text in rig.log(), 10)

    async with rig.worker(), rig.ingesting() as child:
        await rig.replicated("s3/before", b"from the queue")
        await tells(child, {**rig.document, "routs": []}, "is not taken over: routs: unknown field")
        await tells(child, {**rig.document, "ingest": {"health": address}}, "is not taken over: ingest: nothing is configured")
        await tells(child, {**rig.document, "ingest": {"health": address, "watch": whole["watch"]}}, "has changed: starting again")
        await eventually(lambda: json.loads(get(f"http://{address}/info")[1] or "{}").get("sources") == ["watch[0]"], 30)
        (tmp_path / "disk/inbox/a.txt").write_text("from the folder")
        await rig.replicated("from-the-folder/a.txt", b"from the folder")
        assert child.poll() is None, "it is the same process"
