"""A route whose bytes come through a content delivery network, from the configuration to the replica."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from tests.cli.conftest import PART, MakeSite, route
from tests.e2e.sides import GcsSide, Properties, S3Side
from tests.edge import Edge, pem, signing_key
from tests.proxy import FaultProxy

PAIR = "K2JCJMDEHXQW5F"


async def test_a_pass_and_a_copy_read_what_they_copy_at_the_edge(make_site: MakeSite, s3: S3Side, gcs: GcsSide, tmp_path: Path) -> None:
    small = {f"cdn/{number:03} a+b#c": os.urandom(500 + number) for number in range(40)}
    large, late = {"cdn/large": os.urandom(3 * PART + 17)}, {"cdn/late": b"came later"}
    private = tmp_path / "cdn.pem"
    signing = signing_key()
    private.write_text(pem(signing))
    properties = Properties(content_type="text/x-cdn", metadata={"who": "me"})
    for key, data in {**small, **large, "cdn/000 a+b#c": b"old"}.items():
        await asyncio.to_thread(s3.put, key, data, properties)
    async with Edge(s3.client, s3.bucket, {PAIR: signing}) as edge, FaultProxy(s3.settings()["endpoint"]) as origin:
        await asyncio.to_thread(edge.keep, "cdn/000 a+b#c")  # and not the version that follows
        await asyncio.to_thread(s3.put, "cdn/000 a+b#c", small["cdn/000 a+b#c"], properties)
        cdn = {"bucket": s3.bucket, "prefix": "cdn/", "url": edge.url, "key_pair_id": PAIR, "private_key": f"file:{private}"}
        site = make_site(
            stores={s3.name: {**s3.settings(), "endpoint": origin.endpoint, "cdn": [cdn]}, gcs.name: gcs.settings()},
            routes=[
                route("cdn", s3, gcs.name, gcs.bucket, before="cdn/", after="from-cdn/", parts={"part_size": PART, "one_shot_max": PART})
            ],
        )
        await site.worker()
        passed = await site.starter("reconcile", "cdn", "--wait", "--json")
        await asyncio.to_thread(s3.put, "cdn/late", late["cdn/late"], properties)
        copied = await site.starter("copy", "cdn", "cdn/late", "--wait", "--json")
        deep = await site.starter("verify", "cdn", "--deep", "--json")
        reads = [request.target for request in origin.requests(method="GET") if "/cdn/" in request.target and "?" not in request.target]

    everything = {**small, **large, **late}
    assert (passed.code, passed.documents[-1]["copied"], passed.documents[-1]["failed"]) == (0, 41, 0)
    assert (copied.code, copied.document["outcome"], copied.document["verification"]) == (0, "copied", "end-to-end")
    assert deep.code == 0
    for key, data in everything.items():
        seen = await asyncio.to_thread(gcs.see, key.replace("cdn/", "from-cdn/", 1))
        assert seen is not None
        assert (seen.sha256, seen.properties.content_type) == (hashlib.sha256(data).hexdigest(), "text/x-cdn")
        assert seen.properties.metadata["who"] == "me"
    assert {target.rpartition("/")[2] for target in reads} == {"000%20a%2Bb%23c"}, "only what the edge had in an older version"
    assert set(edge.served) == set(everything)


async def test_an_edge_that_refuses_leaves_every_object_at_rest_with_the_reason(make_site: MakeSite, s3: S3Side, gcs: GcsSide) -> None:
    await asyncio.to_thread(s3.put, "refused/a", b"data")
    async with Edge(s3.client, s3.bucket, {PAIR: signing_key()}) as edge:
        site = make_site(
            stores={s3.name: {**s3.settings(), "cdn": [{"bucket": s3.bucket, "url": edge.url}]}, gcs.name: gcs.settings()},
            routes=[route("cdn", s3, gcs.name, gcs.bucket, before="refused/", after="refused/")],
        )
        await site.worker()
        setup = await site.starter("setup")
        copied = await site.starter("copy", "cdn", "refused/a", "--wait", "--json")
    assert setup.code == 1
    assert "permission-refused: CDN 127.0.0.1" in setup.stdout
    assert (copied.code, copied.document["outcome"], copied.document["reason"]) == (1, "blocked", "permission-refused")
    assert await asyncio.to_thread(gcs.see, "refused/a") is None
