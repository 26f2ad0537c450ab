"""`verify` as its users run it: every anomaly told, nothing written, certificates made and compared."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from temporalio.client import Client

from tests.certificates import sealed
from tests.cli.conftest import MakeSite, route
from tests.cli.site import Ended, Site
from tests.dss import Dss
from tests.e2e.sides import FileSide, GcsSide, Properties, S3Side, Side
from tests.poll import eventually
from tests.proxy import FaultProxy, Rule, Status

ALWAYS = 1_000_000
DAY_S = 86_400


def found(ended: Ended) -> list[tuple[str, str]]:
    """(key, anomaly) of every line but the closing ones."""
    return sorted((line["key"], line["anomaly"]) for line in ended.documents if "anomaly" in line)


def anomaly(ended: Ended, key: str, name: str) -> dict[str, Any]:
    (only,) = (line for line in ended.documents if line.get("anomaly") == name and line["key"] == key)
    return only


def snapshot(*sides: Side) -> dict[tuple[str, str], str]:
    """The stamp of everything that stands anywhere: it changes with every write."""
    return {(side.name, key): seen.stamp for side in sides for key in side.keys() if (seen := side.see(key))}


def tamper(side: S3Side, key: str, **changed: Any) -> None:
    """Writes over an S3 object, its metadata kept, but for what `changed` says."""
    now = side.client.get_object(Bucket=side.bucket, Key=key)
    fields = {"Body": now["Body"].read(), "Metadata": now["Metadata"], "ContentType": now["ContentType"], **changed}
    side.client.put_object(Bucket=side.bucket, Key=key, **fields)


async def ready(site: Site, name: str) -> None:
    """A worker, a route that was reconciled, and a verification that finds nothing."""
    await site.worker()
    done = await site.starter("reconcile", name, "--wait", "--json")
    assert done.code == 0, done
    healthy = await site.starter("verify", name, "--json")
    assert (healthy.code, found(healthy)) == (0, []), healthy
    assert healthy.document["skipped"] == healthy.document["listed"] > 0
    assert healthy.document["mode"] == "verify"


async def test_every_anomaly_is_told_and_nothing_is_written(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    token = uuid.uuid4().hex
    before, after = f"in-{token}/", f"out-{token}/"
    plain = ["gone", "orphan", "longer", "other-bytes", "header", "meta", "tagged", "taken", "denied", "fine"]
    for name in plain:
        s3.put(before + name, name.encode(), Properties(content_type="text/plain", metadata={"colour": "blue"}, tags={"team": "a"}))
    async with FaultProxy(s3b.settings()["endpoint"]) as proxy:
        stores = {s3.name: s3.settings(), "far": {**s3b.settings(), "endpoint": proxy.endpoint}}
        site = make_site(stores=stores, routes=[route("whole", s3, "far", s3b.bucket, before=before, after=after, exclude=["*.tmp"])])
        await ready(site, "whole")

        s3b.delete(after + "gone")
        s3.delete(before + "orphan")
        s3.put(before + "left-out.tmp", b"not ours")
        tamper(s3b, after + "longer", Body=b"longer than it was")
        tamper(s3b, after + "other-bytes", Body=b"OTHER-BYTES")
        tamper(s3b, after + "header", ContentType="text/html")
        tamper(s3b, after + "meta", Metadata={**s3b.client.head_object(Bucket=s3b.bucket, Key=after + "meta")["Metadata"], "colour": "red"})
        for name in ("header", "meta", "longer", "other-bytes"):
            s3b.client.put_object_tagging(Bucket=s3b.bucket, Key=after + name, Tagging={"TagSet": [{"Key": "team", "Value": "a"}]})
        s3b.client.put_object_tagging(Bucket=s3b.bucket, Key=after + "tagged", Tagging={"TagSet": [{"Key": "team", "Value": "b"}]})
        s3b.put(after + "taken", b"somebody's")
        s3b.put(after + "stranger", b"nobody's")
        proxy.add(Rule(Status(403), method="HEAD", path=after + "denied", times=ALWAYS))
        stood = snapshot(s3, s3b)
        told = await site.starter("verify", "whole", "--json")
        proxy.assert_fired()

        assert told.code == 1
        assert found(told) == sorted(
            (before + name, kind)
            for name, kind in [
                ("gone", "missing-at-destination"),
                ("orphan", "missing-at-source"),
                ("longer", "size"),
                ("other-bytes", "checksum"),
                ("header", "metadata"),
                ("meta", "metadata"),
                ("tagged", "tags"),
                ("taken", "size"),
                ("taken", "foreign"),
                ("stranger", "foreign"),
                ("denied", "unreadable"),
            ]
        )
        assert anomaly(told, before + "denied", "unreadable")["reason"] == "permission-refused"
        assert anomaly(told, before + "header", "metadata")["fields"] == ["content_type"]
        assert anomaly(told, before + "meta", "metadata")["source"] == {"metadata.colour": "blue"}
        longer = anomaly(told, before + "longer", "size")
        assert (longer["source"], longer["replica"], longer["route"]) == (6, 18, "whole")
        closing = told.documents[-1]
        assert (closing["listed"], closing["skipped"], closing["differing"], closing["extra"]) == (9, 1, 8, 2)
        assert snapshot(s3, s3b) == stood
        assert proxy.requests("PUT", token)[len(plain) :] == []

        read = await site.starter("verify", "whole")
        assert read.code == 1
        assert len(read.stdout.splitlines()) == 12
        assert "8 with anomalies" in read.stdout


async def test_what_a_policy_leaves_alone_is_no_anomaly(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    token = uuid.uuid4().hex
    s3.put(f"{token}/a", b"one")
    site = make_site(routes=[route("once", s3, s3b.name, s3b.bucket, before=f"{token}/", after=f"{token}/", overwrite="never")])
    await ready(site, "once")
    s3.put(f"{token}/a", b"another")
    told = await site.starter("verify", "once", "--json")
    assert (told.code, found(told), told.document["kept"]) == (0, [], 1)


async def test_routes_back_and_forth_are_right_when_each_has_what_the_other_wrote(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    token = uuid.uuid4().hex
    there = route("there", s3, s3b.name, s3b.bucket, before=f"{token}/", after=f"{token}/")
    back = route("back", s3b, s3.name, s3.bucket, before=f"{token}/", after=f"{token}/")
    s3.put(f"{token}/a", b"here")
    s3b.put(f"{token}/b", b"there")
    site = make_site(routes=[there, back])
    await site.worker()
    unfinished = await site.starter("verify", "there", "--json")
    assert (unfinished.code, found(unfinished)) == (1, [(f"{token}/a", "missing-at-destination")])
    for name in ("there", "back"):
        assert (await site.starter("reconcile", name, "--wait")).code == 0
    for name in ("there", "back"):
        told = await site.starter("verify", name, "--json")
        assert (told.code, found(told)) == (0, [])


async def test_a_missing_blob_is_told_of_every_manifest_above_it(make_site: MakeSite, s3: S3Side, s3b: S3Side) -> None:
    token = uuid.uuid4().hex
    whole, broken = Dss(1), Dss(2)
    for dss in (whole, broken):
        for key in dss.chain:
            s3.put(f"{token}/{key}", dss.content(key))
    s3.put(f"{token}/{broken.bundle}.dead", b"{}")
    site = make_site(routes=[route("dss", s3, s3b.name, s3b.bucket, before=f"{token}/", after=f"{token}/", dependencies="dss")])
    await ready(site, "dss")
    s3b.delete(f"{token}/{broken.blob}")
    s3.put(f"{token}/stray/{uuid.uuid4().hex}", b"no kind of object")
    (stray,) = (key for key in s3.keys() if key.startswith(f"{token}/stray/"))

    told = await site.starter("verify", "dss", "--json")
    blob = f"{token}/{broken.blob}"
    manifests = [f"{token}/{key}" for key in (broken.file, broken.bundle, broken.collection)]
    wanted = [(key, "missing-reference") for key in manifests]
    wanted += [(blob, "missing-at-destination"), (stray, "missing-at-destination"), (stray, "unreadable")]
    assert (told.code, found(told)) == (1, sorted(wanted))
    assert {tuple(anomaly(told, key, "missing-reference")["missing"]) for key in manifests} == {(blob,)}
    assert anomaly(told, stray, "unreadable")["reason"] == "unknown-kind"


async def test_a_google_bucket_is_compared_with_its_own_metadata_and_classes(make_site: MakeSite, s3: S3Side, gcs: GcsSide) -> None:
    token = uuid.uuid4().hex
    for name in ("gone", "meta", "class", "bytes", "fine"):
        s3.put(f"{token}/{name}", name.encode(), Properties(metadata={"colour": "blue"}))
    stores = {s3.name: s3.settings(), gcs.name: gcs.settings()}
    cloud = route("cloud", s3, gcs.name, gcs.bucket, before=f"{token}/", after=f"{token}/", storage_class="NEARLINE")
    site = make_site(stores=stores, routes=[cloud])
    await ready(site, "cloud")
    gcs.delete(f"{token}/gone")
    change(gcs, f"{token}/meta", metadata={"colour": "red"})
    change(gcs, f"{token}/class", storage_class="STANDARD")
    gcs.put(f"{token}/bytes", b"BYTES")
    stood = snapshot(s3, gcs)
    told = await site.starter("verify", "cloud", "--json")
    kinds = Counter(kind for _, kind in found(told))
    assert told.code == 1
    assert kinds == {"missing-at-destination": 1, "metadata": 1, "storage-class": 1, "checksum": 1, "foreign": 1}
    asked = anomaly(told, f"{token}/class", "storage-class")
    assert (asked["source"], asked["replica"]) == ("NEARLINE", "STANDARD")
    assert snapshot(s3, gcs) == stood


def change(side: GcsSide, key: str, *, metadata: dict[str, str] | None = None, storage_class: str = "NEARLINE") -> None:
    """Writes an object anew with its content and mark, and with other attributes."""
    before = side._bucket.blob(key)
    body = before.download_as_bytes(raw_download=True)
    before.reload()
    after = side._bucket.blob(key)
    after.metadata = {**before.metadata, **(metadata or {})}
    after.storage_class = storage_class
    after.upload_from_string(body, content_type=before.content_type)


async def test_a_folder_is_compared_with_a_bucket(make_site: MakeSite, s3: S3Side, tmp_path: Path) -> None:
    disk = FileSide("disk", tmp_path)
    token = uuid.uuid4().hex
    for name in ("gone", "orphan", "grown", "written", "fine"):
        disk.put(f"in/{name}", name.encode())
    site = make_site(
        stores={s3.name: s3.settings(), "disk": disk.settings()},
        routes=[route("up", disk, s3.name, s3.bucket, before="in/", after=f"{token}/")],
    )
    await ready(site, "up")
    s3.delete(f"{token}/gone")
    disk.delete("in/orphan")
    disk.put("in/grown", b"has grown")
    tamper(s3, f"{token}/written", Body=b"WRITTEN")
    told = await site.starter("verify", "up", "--json")
    wanted = [("gone", "missing-at-destination"), ("orphan", "missing-at-source"), ("grown", "size"), ("written", "checksum")]
    assert (told.code, found(told)) == (1, sorted((f"in/{name}", kind) for name, kind in wanted))


async def test_a_flipped_byte_that_nothing_shows_is_found_by_reading(make_site: MakeSite, s3: S3Side, tmp_path: Path) -> None:
    disk = FileSide("disk", tmp_path)
    token = uuid.uuid4().hex
    data = os.urandom(70 << 20)
    for name, content in (("large", data), ("small", b"small"), ("empty", b"")):
        s3.put(f"{token}/{name}", content)
    site = make_site(
        stores={s3.name: s3.settings(), "disk": disk.settings()},
        routes=[route("down", s3, "disk", disk.bucket, before=f"{token}/", after="")],
    )
    await ready(site, "down")
    deep = await site.starter("verify", "down", "--deep", "--json")
    assert (deep.code, found(deep)) == (0, [])

    flip(Path(tmp_path, disk.bucket, "large"), at=(64 << 20) + 5)
    shallow = await site.starter("verify", "down", "--json")
    assert (shallow.code, found(shallow)) == (0, [])
    deep = await site.starter("verify", "down", "--deep", "--json")
    assert (deep.code, found(deep)) == (1, [(f"{token}/large", "checksum")])
    line = anomaly(deep, f"{token}/large", "checksum")
    assert (line["offset"], "bytes differ" in line["message"]) == (64 << 20, True)


def flip(path: Path, at: int) -> None:
    """One bit of a file changes, and its times do not tell."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- since -----------------------------------------------------------------------------------------------------------


async def test_since_looks_at_what_changed_on_either_side(make_site: MakeSite, tmp_path: Path) -> None:
    site, here, there = await folders(make_site, tmp_path, ["old-here", "old-there", "new-here", "new-there"])
    for name in ("old-here", "new-here"):
        here.put(name, b"changed at the source")
    for name in ("old-there", "new-there", "old-extra", "new-extra"):
        there.put(name, b"changed at the destination")
    for side in (here, there):
        for name in side.keys() - {"new-here", "new-there", "new-extra"}:
            age(tmp_path / side.bucket / name, 2 * DAY_S)

    recent = await site.starter("verify", "pair", "--since", "1d", "--json")
    assert recent.code == 1
    assert {key for key, _ in found(recent)} == {"new-here", "new-there", "new-extra"}
    all_of_it = await site.starter("verify", "pair", "--json")
    assert {key for key, _ in found(all_of_it)} == here.keys() | there.keys()

    since_last = await site.starter("verify", "pair", "--since", "last", "--json")
    assert {key for key, _ in found(since_last)} == {"new-here", "new-there", "new-extra"}
    assert (await site.starter("verify", "pair", "--since", "yesterday")).code == 2


async def test_a_scheduled_verification_goes_back_to_the_last_one(make_site: MakeSite, tmp_path: Path, temporal_client: Client) -> None:
    site, here, there = await folders(make_site, tmp_path, ["old", "new"])
    assert (await site.starter("schedule", "pair", "--every", "1h", "--since-last")).code == 2
    try:
        assert (await site.starter("schedule", "pair", "--every", "1h", "--verify", "--since-last")).code == 0
        there.delete("old")
        there.put("new", b"damaged")
        age(tmp_path / here.bucket / "old", 2 * DAY_S)
        handle = temporal_client.get_schedule_handle("verify:pair")
        await handle.trigger()
        last = await eventually(lambda: verified(site), 60.0, interval_s=0.5)
    finally:
        await site.starter("schedule", "pair", "--verify", "--delete")
    assert (last["state"], last["counters"]["listed"], last["counters"]["differing"]) == ("incomplete", 1, 1)


async def verified(site: Site) -> dict[str, Any] | None:
    """The last pass, once it is a verification with anomalies."""
    (told,) = (await site.starter("status", "pair", "--json")).document["routes"]
    last: dict[str, Any] | None = told["last_pass"]
    return last if last is not None and last["mode"] == "verify" and last["state"] == "incomplete" else None


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


async def folders(make_site: MakeSite, root: Path, names: list[str]) -> tuple[Site, FileSide, FileSide]:
    """The route `pair` between two folders that were reconciled."""
    here, there = FileSide("disk", root), FileSide("disk", root)
    for name in names:
        here.put(name, name.encode())
    site = make_site(stores={"disk": here.settings()}, routes=[route("pair", here, "disk", there.bucket, before="", after="")])
    await ready(site, "pair")
    return site, here, there


# --- certificates ----------------------------------------------------------------------------------------------------


async def test_certificates_name_the_one_key_that_changed(make_site: MakeSite, tmp_path: Path) -> None:
    names = [f"{number % 7}/{number:05}" for number in range(2_400)]
    site, here, there = await folders(make_site, tmp_path, names)
    first, second = site.folder / "first.cert", site.folder / "second.cert"
    made = await site.starter("verify", "pair", "--certificate", str(first), "--json")
    assert (made.code, found(made)) == (0, [])
    statement = made.documents[0]
    assert (statement["objects"], statement["exceptions_count"], statement["route"]) == (2_400, 0, "pair")
    assert statement["statement"].endswith(f"digest root {statement['root']}, without exception.")

    same = await site.starter("verify", "pair", "--against", str(first), "--json")
    assert (same.code, same.documents[1]["changed_count"], same.documents[1]["leaves_read"]) == (0, 0, 0)
    assert same.documents[0]["root"] == statement["root"]

    here.put("2/01997", b"changed")
    assert (await site.starter("reconcile", "pair", "--wait")).code == 0
    differs = await site.starter("verify", "pair", "--against", str(first), "--certificate", str(second), "--json")
    assert differs.code == 1
    (changed,) = (line for line in differs.documents if "change" in line)
    assert (changed["key"], changed["change"], changed["after"]["size_bytes"]) == ("2/01997", "changed", 7)
    (counts,) = (line for line in differs.documents if "leaves_read" in line)
    assert (counts["changed_count"], counts["added_count"], counts["removed_count"]) == (1, 0, 0)
    assert 0 < counts["leaves_read"] < 2 * 1_024

    there.delete("0/00000")
    lines = (await site.starter("verify", "pair", "--certificate", str(first))).stdout.splitlines()
    assert any("2,399 objects" in line and 'except "0/00000" (missing-at-destination)' in line for line in lines)


async def test_what_no_certificate_can_be_made_of_is_said_before_anything_begins(make_site: MakeSite, tmp_path: Path) -> None:
    site, _, _ = await folders(make_site, tmp_path, ["a"])
    broken = site.folder / "broken.cert"
    assert (await site.starter("verify", "pair", "--certificate", str(broken))).code == 0
    broken.write_bytes(broken.read_bytes()[:-20] + bytes(20))
    refused = await site.starter("verify", "pair", "--against", str(broken))
    assert (refused.code, refused.stdout, len(refused.problems)) == (1, "", 1)
    assert "cannot be trusted" in refused.stderr

    for arguments in (
        ["--certificate", "c", "--prefix", "a"],
        ["--certificate", "c", "--since", "last"],
        ["--certificate", "c", "--no-wait"],
        ["--certificate", str(site.folder / "no" / "folder")],
        ["--against", "absent.cert"],
        ["--against", str(broken), "--certificate", str(broken)],
    ):
        wrong = await site.starter("verify", "pair", *arguments)
        assert (wrong.code, wrong.stdout, len(wrong.problems)) == (2, "", 1), wrong


async def test_a_certificate_that_states_other_numbers_than_its_leaves_have_is_refused(make_site: MakeSite, tmp_path: Path) -> None:
    site, _, _ = await folders(make_site, tmp_path, [f"{number:05}" for number in range(1_500)])
    path = site.folder / "c"
    assert (await site.starter("verify", "pair", "--certificate", str(path))).code == 0
    whole = path.read_bytes()
    for lie in ({"objects": 2_000}, {"size_bytes": 7}):
        path.write_bytes(whole)
        sealed(path, lambda statement, lie=lie: statement.update(lie))  # type: ignore[misc]
        refused = await site.starter("verify", "pair", "--against", str(path))
        assert (refused.code, refused.stdout, len(refused.problems)) == (1, "", 1), lie
        assert "its tree is not what it states" in refused.stderr


async def test_a_certificate_of_another_route_is_refused(make_site: MakeSite, tmp_path: Path) -> None:
    site, here, _ = await folders(make_site, tmp_path, ["a"])
    path = site.folder / "c"
    await site.starter("verify", "pair", "--certificate", str(path))
    other = FileSide("disk", tmp_path)
    site.document["routes"].append(route("other", here, "disk", other.bucket, before="", after=""))
    site.write(site.document)
    refused = await site.starter("verify", "other", "--against", str(path))
    assert (refused.code, "'pair'" in refused.stderr) == (2, True)
