"""The configuration: what is read, and what is refused, with every problem told at once and no secret repeated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from replication.errors import SettingsError
from replication.limits import GIB, MIB
from replication.route_settings import DeletesSettings
from replication.secrets import resolve_secret
from replication.settings import Settings, WorkerSettings, check_roots, load_settings, memory_bound, parse_settings
from replication.settings_file import models_in
from replication.store_settings import CdnSettings, FileSettings, S3Settings

EXAMPLE = Path(__file__).parents[2] / "drayage.example.yaml"
SECRET = "hunter2-hunter2"


def document(**sections: Any) -> dict[str, Any]:
    return {
        "stores": {
            "weed": {"type": "s3", "endpoint": "http://127.0.0.1:8333"},
            "aws": {"type": "s3"},
            "gcp": {"type": "gcs"},
            "disk": {"type": "file", "root": "/srv/data"},
        },
        **sections,
    }


def route(name: str = "photos", source: str = "weed:photos/", destination: str = "gcp:copy/", **policies: Any) -> dict[str, Any]:
    return {"name": name, "source": location(source), "destination": location(destination), **policies}


def location(text: str) -> dict[str, str]:
    store, _, place = text.partition(":")
    bucket, _, prefix = place.partition("/")
    return {"store": store, "bucket": bucket, "prefix": prefix}


def store(**fields: Any) -> dict[str, Any]:
    return {"stores": {"x": {"type": "s3", **fields}}}


def problems(source: Any) -> list[str]:
    """What is wrong with a document, or with a file if `source` is a path."""
    with pytest.raises(SettingsError) as refusal:
        load_settings(source, {}) if isinstance(source, Path) else parse_settings(source)
    assert SECRET not in str(refusal.value)
    assert all("\n" not in problem for problem in refusal.value.problems)
    return refusal.value.problems


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_example_loads() -> None:
    settings = load_settings(EXAMPLE, {})
    assert [route.name for route in settings.routes] == ["photos", "local-files", "site"]
    assert settings.ingest.watch[0].quiet == 30


def test_the_example_names_every_setting() -> None:
    text = EXAMPLE.read_text()
    fields = {field for model in models_under(Settings) for field in model.model_fields}
    assert {field for field in fields if not re.search(rf"\b{field}\b", text)} == set()


def test_the_example_shows_the_defaults() -> None:
    shown = load_settings(EXAMPLE, {})
    default = parse_settings(document(routes=[route()]))
    assert shown.temporal == default.temporal
    assert shown.worker == default.worker
    assert shown.ledger == default.ledger
    assert shown.routes[0].model_copy(update={"internal": None}) == default.routes[0].model_copy(
        update={side: getattr(shown.routes[0], side) for side in ("source", "destination")}
    )


def models_under(model: type[BaseModel]) -> set[type[BaseModel]]:
    below = {child for field in model.model_fields.values() for child in models_in(field.annotation)}
    return {model}.union(*(models_under(child) for child in below))


def test_the_path_wins_over_the_variable_and_the_variable_over_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given", "named", "drayage"):
        (tmp_path / f"{name}.yaml").write_text(f"temporal: {{namespace: {name}}}")
    monkeypatch.chdir(tmp_path)
    named = {"DRAYAGE_CONFIG": str(tmp_path / "named.yaml")}
    assert load_settings(tmp_path / "given.yaml", named).temporal.namespace == "given"
    assert load_settings(None, named).temporal.namespace == "named"
    assert load_settings(None, {}).temporal.namespace == "drayage"


def test_settings_cannot_be_changed() -> None:
    settings = parse_settings(document(routes=[route()]))
    with pytest.raises(ValidationError):
        settings.routes[0].overwrite = "never"  # type: ignore[misc]


def test_an_empty_field_means_its_default() -> None:
    empty = route(include=None, parts={"part_size": None, "one_shot_max": None}, deletes=None)
    assert parse_settings(document(routes=[empty], ingest=None, worker={"memory": None})) == parse_settings(document(routes=[route()]))


def test_sizes_and_durations_have_units() -> None:
    settings = parse_settings(document(routes=[route(parts={"part_size": "1.5GiB"})], worker={"graceful_stop": "1m30s"}))
    assert settings.routes[0].parts.part_size == 3 * GIB // 2
    assert settings.worker.graceful_stop == 90


def test_deletes_are_one_word_or_a_mapping() -> None:
    long = parse_settings(document(routes=[route(deletes={"mode": "mirror", "hold": "24h"})])).routes[0]
    assert long.deletes == DeletesSettings(mode="mirror", hold=86_400)
    assert long.deletes_mode == parse_settings(document(routes=[route(deletes="mirror")])).routes[0].deletes_mode == "mirror"


def test_the_queues_of_control_and_transfer_differ() -> None:
    temporal = parse_settings({"temporal": {"task_queue": "q"}}).temporal
    assert (temporal.control_queue, temporal.transfer_queue) == ("q", "q-transfer")


# --- refusing: the file ----------------------------------------------------------------------------------------------


NO_VALUES = [
    f"!!int {SECRET}",
    '!!int ""',
    f"!!float {SECRET}",
    f"!!bool {SECRET}",
    f"!!timestamp {SECRET}",
    "0x_",
    "0b_",
    "9" * 5000,
    '"\\ud800"',
]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1,\n", "line 2, column 1: expected the node content, but found '<stream end>'"),
        (f"a: {SECRET}: b", "line 1, column 19: mapping values are not allowed here"),
        (f"a: *{SECRET}", "line 1, column 4: found undefined alias"),
        (f"a: !{SECRET} b", "line 1, column 4: could not determine a constructor for the tag"),
        (f'a: "{SECRET}', "line 1, column 20: found unexpected end of stream"),
        ("a: \x01", "holds a character that YAML does not allow"),
        *((f"a: {scalar}", "line 1, column 4: found a value that is not what its form promises") for scalar in NO_VALUES),
        ("[" * 5000, "is nested too deeply"),
        ("a: {" * 3000, "is nested too deeply"),
        ("temporal: {}\nledger: x\ntemporal: {}\n", "line 3: duplicate key 'temporal'"),
        ("stores:\n  a: {type: s3, region: x, region: y}", "line 2: duplicate key 'region'"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_by_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert problems(path) == [f"{path}: {problem}"]


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert problems(path) == [f"{path}: No such file or directory (--config PATH or DRAYAGE_CONFIG name the configuration)"]


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: \xe9")
    assert problems(path) == [f"{path}: is not UTF-8"]


@pytest.mark.parametrize("source", [None, [], "text", 5])
def test_a_document_that_is_no_mapping_is_refused(source: object) -> None:
    assert problems(source) == ["settings: must be a mapping"]


# --- refusing: fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"routs": []}, "routs: unknown field (did you mean 'routes'?)"),
        ({"xyzzy": 1}, "xyzzy: unknown field"),
        ({"temporal": {"adress": "x:1"}}, "temporal.adress: unknown field (did you mean 'address'?)"),
        (store(regoin="x"), "stores.x.regoin: unknown field (did you mean 'region'?)"),
        ({"stores": {"x": {"type": "gcs", "projct": "p"}}}, "stores.x.projct: unknown field (did you mean 'project'?)"),
        ({"stores": {"x": {"type": "file", "root": "/r", "region": "r"}}}, "stores.x.region: unknown field"),
        (document(routes=[route(delets="mirror")]), "routes[0].delets: unknown field (did you mean 'deletes'?)"),
        (document(routes=[route(parts={"size": 1})]), "routes[0].parts.size: unknown field (did you mean 'part_size'?)"),
        (
            document(routes=[route(dependencies=[{"match": "*", "refs": "x"}])]),
            "routes[0].dependencies[0].refs: unknown field",
        ),
        ({"ingest": {"sqs": [{"queue_url": "http://h/q", "regoin": "x"}]}}, "ingest.sqs[0].regoin: unknown field (did you mean 'region'?)"),
        ({"worker": {"stream": 4}}, "worker.stream: unknown field (did you mean 'streams'?)"),
        ({"stores": {"x": {"type": "s4"}}}, "stores.x.type: must be s3, gcs or file"),
        ({"stores": {"x": {}}}, "stores.x.type: must be s3, gcs or file"),
        ({"stores": {"x": 5}}, "stores.x: must be a mapping"),
        ({"stores": {"a:b": {"type": "s3"}}}, "stores: 'a:b' cannot be a store's name: 1 to 63 letters, digits, '-', '_' and '.'"),
        (store(region=5), "stores.x.region: must be text"),
        (store(region=""), "stores.x.region: must be a region's name such as us-east-1"),
        (store(region="else.where/#"), "stores.x.region: must be a region's name such as us-east-1"),
        (store(region="us-east-1\n"), "stores.x.region: must be a region's name such as us-east-1"),
        (store(endpoint="http://a..b"), "stores.x.endpoint: must name a host: each part between two dots has 1 to 63 characters"),
        (store(endpoint=f"http://{'a' * 64}.b"), "stores.x.endpoint: must name a host: each part between two dots has 1 to 63 characters"),
        *(
            ({"stores": {"x": {"type": "s3", "cdn": [{"bucket": "b", "url": "https://d.example/"} | wrong]}}}, f"stores.x.cdn[0]{problem}")
            for wrong, problem in (
                ({"url": "d.example"}, ".url: must be an http:// or https:// URL"),
                ({"url": "https://d.example/?a=b"}, ".url: must not hold a query"),
                ({"url": "http://169.254.169.254/"}, ".url: must not be a link-local or metadata address"),
                ({"bucket": ""}, ".bucket: is empty"),
                ({"rewrite": {"": "x"}}, ".rewrite: must replace text of an encoded URL with such text, without a query"),
                ({"rewrite": {"a": "?x"}}, ".rewrite: must replace text of an encoded URL with such text, without a query"),
                ({"key_pair_id": "K1"}, ": key_pair_id and private_key belong together: give both or neither"),
                (
                    {"private_key": SECRET},
                    ".private_key: must be a reference, env:NAME or file:/absolute/path: a secret itself never stands here",
                ),
                ({"signed_for": "5s"}, ".signed_for: must be greater than or equal to 60"),
                ({}, ".bucket: no route has its source in 'b' of this store"),
            )
        ),
        (store(expected_bucket_owner="12"), "stores.x.expected_bucket_owner: must be an AWS account id of twelve digits, in quotes"),
        ({"worker": {"streams": "4"}}, "worker.streams: must be a whole number"),
        (document(routes=[route(storage_class="")]), "routes[0].storage_class: is empty"),
        ({"stores": []}, "stores: must be a mapping"),
        ({"routes": {}}, "routes: must be a list"),
        ({"stores": {"x": {"type": "file", "root": "srv"}}}, "stores.x.root: must be an absolute path"),
        ({"stores": {"x": {"type": "file", "root": "/srv/../etc"}}}, "stores.x.root: must not hold '..'"),
        ({"stores": {"x": {"type": "file"}}}, "stores.x.root: is required"),
        ({"stores": {"x": {"type": "gcs", "anonymous": "yes"}}}, "stores.x.anonymous: must be true or false"),
        (document(routes=[route(overwrite="maybe")]), "routes[0].overwrite: must be 'latest' or 'never'"),
        (document(routes=[route(deletes="all")]), "routes[0].deletes: must be 'ignore' or 'mirror'"),
        (document(routes=[route(deletes={"mode": "all"})]), "routes[0].deletes.mode: must be 'ignore' or 'mirror'"),
        (document(routes=[route(dependencies="hca")]), "routes[0].dependencies: must be 'none', 'dss', 'iceberg', 'delta' or 'success'"),
        (document(routes=[route(dependencies=[{}])]), "routes[0].dependencies[0].match: is required"),
        (
            document(routes=[route(dependencies=[{"match": "*.json"}])]),
            "routes[0].dependencies[0]: a rule of kind json says in 'references' where the names of other objects stand",
        ),
        (
            document(routes=[route(dependencies=[{"match": "*", "kind": "delta", "references": "$.a"}])]),
            "routes[0].dependencies[0]: a rule of kind delta knows where names stand: it takes no 'references'",
        ),
        (
            document(routes=[route(dependencies=[{"match": "*", "references": ["$.a", "b"]}])]),
            "routes[0].dependencies[0].references[1]: must be a JSON path, which starts with '$', or a JSON pointer, which starts with '/'",
        ),
        (
            document(routes=[route(dependencies=[{"match": "*", "references": "$.a", "key": "data/{value"}])]),
            "routes[0].dependencies[0].key: has a { without its other half (write {{ for a literal brace)",
        ),
        (document(routes=[route(foreign="burn")]), "routes[0].foreign: must be 'overwrite', 'keep' or 'conflict'"),
        (document(routes=[route(include=["a["])]), "routes[0].include[0]: has a [ without its ] (write [[] for a literal bracket)"),
        (document(routes=[route(internal=[""])]), "routes[0].internal[0]: is empty, and would keep every key from replicating"),
        (
            document(routes=[route(name="Photos")]),
            "routes[0].name: must be 1 to 63 of a-z, 0-9, '-', '_' and '.', the first a letter or digit",
        ),
        (document(routes=[{**route(), "source": {"store": "weed"}}]), "routes[0].source.bucket: is required"),
        (document(routes=[route(parts={"part_size": 0})]), "routes[0].parts.part_size: must be at least one byte"),
        (document(routes=[route(parts={"part_size": -5})]), "routes[0].parts.part_size: must be between 0 and 1024PiB"),
        (
            document(routes=[route(parts={"part_size": "64M"})]),
            "routes[0].parts.part_size: has no known unit of size (write one of B, KiB, MiB, GiB, TiB, PiB, kB, MB, GB, TB)",
        ),
        (document(routes=[route(parts={"concurrency": 0})]), "routes[0].parts.concurrency: must be greater than or equal to 1"),
        ({"temporal": {"address": "localhost"}}, "temporal.address: must be host:port"),
        ({"temporal": {"address": "::1:7233"}}, "temporal.address: must be host:port, an IPv6 address in [brackets]"),
        ({"ingest": {"pubsub": [{"subscription": "s"}]}}, "ingest.pubsub[0].subscription: must be projects/PROJECT/subscriptions/NAME"),
        ({"ingest": {"webhook": {"listen": "8088", "token": "env:T"}}}, "ingest.webhook.listen: must be host:port"),
        ({"ingest": {"webhook": {"listen": "h:1"}}}, "ingest.webhook.token: is required"),
        ({"ingest": {"sqs": [{"queue_url": "http://h"}]}}, "ingest.sqs[0].queue_url: must be the URL of a queue, its path included"),
        ({"ledger": "mysql://h/d"}, "ledger: must be sqlite:///path or postgresql://user@host/database"),
        ({"ledger": "sqlite:///"}, "ledger: must be sqlite:///path or postgresql://user@host/database"),
        ({"ledger": "postgresql://u@h"}, "ledger: must be sqlite:///path or postgresql://user@host/database"),
    ],
)
def test_a_wrong_field_is_told_by_its_path(source: object, problem: str) -> None:
    assert problems(source) == [problem]


@pytest.mark.parametrize("bucket", ["", "a/b", "..", "a b", "a\nb", "b" * 256])
def test_what_is_no_bucket_is_refused(bucket: str) -> None:
    wrong = route()
    wrong["source"]["bucket"] = bucket
    (problem,) = problems(document(routes=[wrong]))
    assert problem.startswith("routes[0].source.bucket: must be a bucket's name")


@pytest.mark.parametrize("prefix", [".drayage/", ".drayage/parts/", "p" * 1025, "a\0b"])
def test_a_prefix_that_no_key_can_have_is_refused(prefix: str) -> None:
    wrong = route()
    wrong["destination"]["prefix"] = prefix
    (problem,) = problems(document(routes=[wrong]))
    assert problem.startswith("routes[0].destination.prefix: ")


# --- refusing: secrets and endpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("literal", [SECRET, f"env: {SECRET}", f"env:{SECRET}", f"file:{SECRET}", f"ENV:{SECRET}", f"env:A\n{SECRET}", ""])
@pytest.mark.parametrize("field", ["access_key_id", "secret_access_key"])
def test_a_literal_secret_is_refused_without_being_repeated(field: str, literal: str) -> None:
    keys = {"access_key_id": "env:KEY", "secret_access_key": "file:/run/secret", field: literal}
    assert problems(store(**keys)) == [
        f"stores.x.{field}: must be a reference, env:NAME or file:/absolute/path: a secret itself never stands here"
    ]


@pytest.mark.parametrize(
    "source",
    [
        {"ledger": f"postgresql://user:{SECRET}@host/db"},
        {"ledger": f"postgresql://host/db?password={SECRET}"},
        {"ledger": f"postgresql://user:{SECRET}@[host/db"},
        store(endpoint=f"http://user:{SECRET}@host"),
        store(endpoint=f"http://{SECRET}@host"),
        store(endpoint=f"http://user:{SECRET}@[host"),
        store(session_token=SECRET),
        {"ingest": {"webhook": {"listen": "h:1", "token": SECRET}}},
        {"ingest": {"sqs": [{"queue_url": f"http://u:{SECRET}@h/q"}]}},
        {"ingest": {"sqs": [{"queue_url": "http://h/q", "secret_access_key": SECRET}]}},
        {"temporal": {"address": f"https://u:{SECRET}@h"}},
    ],
)
def test_no_secret_is_repeated_wherever_it_stands(source: object) -> None:
    assert len(problems(source)) == 1


def test_half_a_pair_of_keys_is_refused() -> None:
    message = "access_key_id and secret_access_key belong together: give both or neither"
    assert problems(store(access_key_id="env:KEY")) == [f"stores.x: {message}"]
    assert problems({"ingest": {"sqs": [{"queue_url": "http://h/q", "secret_access_key": "env:S"}]}}) == [f"ingest.sqs[0]: {message}"]
    assert problems(store(session_token="env:T")) == ["stores.x: session_token needs access_key_id and secret_access_key"]


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("127.0.0.1:8333", "must be an http:// or https:// URL"),
        ("ftp://host", "must be an http:// or https:// URL"),
        ("http://", "must be an http:// or https:// URL"),
        ("http://ho st", "must be an http:// or https:// URL"),
        ("http://host:99999", "is not a URL"),
        ("http://host/path", "must not hold a path or query"),
        ("http://host?x=1", "must not hold a path or query"),
        ("http://host/#x", "must not hold a path or query"),
        ("http://user@host", "must not hold a user or password"),
    ],
)
def test_an_endpoint_is_a_plain_http_url(endpoint: str, problem: str) -> None:
    assert problems(store(endpoint=endpoint)) == [f"stores.x.endpoint: {problem}"]


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1:80",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "METADATA.google.internal.:80",
        "100.100.100.200",
    ],
)
def test_metadata_addresses_are_refused_in_every_spelling(host: str) -> None:
    assert problems(store(endpoint=f"http://{host}")) == ["stores.x.endpoint: must not be a link-local or metadata address"]
    assert len(problems({"ingest": {"sqs": [{"queue_url": f"http://{host}/q"}]}})) == 1


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8333", "https://s3.example.com", "http://[::1]:9000/", "http://10.0.0.1", "http://minio"]
)
def test_ordinary_endpoints_are_taken(endpoint: str) -> None:
    x = parse_settings(store(endpoint=endpoint)).stores["x"]
    assert isinstance(x, S3Settings)
    assert x.endpoint == endpoint.rstrip("/")


# --- refusing: what does not fit together ----------------------------------------------------------------------------


def test_an_unknown_store_is_told_with_the_stores_there_are() -> None:
    assert problems(document(routes=[route(destination="gpc:copy/")])) == [
        "routes[0].destination.store: unknown store 'gpc' (stores: aws, disk, gcp, weed)"
    ]


def test_two_routes_of_one_name_are_refused() -> None:
    assert problems(document(routes=[route(), route(destination="gcp:other/")])) == [
        "routes[1].name: 'photos' is the name of routes[0] too"
    ]


@pytest.mark.parametrize(
    ("destination", "parts", "problem"),
    [
        ("aws:b/", {"part_size": "4MiB"}, "part_size: 4MiB is less than a part of s3 must have, 5MiB"),
        ("aws:b/", {"part_size": "6GiB"}, "part_size: 6GiB is more than a part of s3 can have, 5GiB"),
        ("aws:b/", {"one_shot_max": "6GiB"}, "one_shot_max: 6GiB is more than s3 takes at once, 5GiB"),
        ("gcp:b/", {"one_shot_max": "6TiB"}, "one_shot_max: 6TiB is more than gcs takes at once, 5TiB"),
    ],
)
def test_sizes_that_the_destination_cannot_hold_are_refused(destination: str, parts: dict[str, str], problem: str) -> None:
    assert problems(document(routes=[route(destination=destination, parts=parts)])) == [f"routes[0].parts.{problem}"]


def test_sizes_at_the_limits_of_the_destination_are_taken() -> None:
    small = route("small", destination="aws:b/", parts={"part_size": "5MiB", "one_shot_max": "5GiB"})
    large = route("large", destination="gcp:b/", parts={"part_size": 1, "one_shot_max": "5TiB"})
    assert len(parse_settings(document(routes=[small, large])).routes) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gcp:copy/", "gcp:copy/"),
        ("gcp:copy/", "gcp:copy/a/"),
        ("gcp:copy/a", "gcp:copy/ab/"),
        ("disk:b/x/", "disk:b/"),
        ("weed:copy/", "same:copy/"),
        ("aws:copy/", "east:copy/"),
        ("disk:data/b/", "below:b/"),
    ],
)
def test_routes_that_would_write_the_same_keys_are_refused(one: str, other: str) -> None:
    both = document(routes=[route("one", "weed:src/", one), route("two", "weed:src/", other)])
    both["stores"] |= {
        "same": {"type": "s3", "endpoint": "http://localhost:8333/", "region": "elsewhere"},
        "east": {"type": "s3", "endpoint": "https://s3.us-east-2.amazonaws.com", "region": "us-east-2"},
        "below": {"type": "file", "root": "/srv/data/data"},
    }
    assert problems(both) == [
        "routes[1].destination: overlaps routes[0].destination: route 'two' and route 'one' would write the same keys"
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [("gcp:copy/a/", "gcp:copy/b/"), ("gcp:copy/", "gcp:copy2/"), ("weed:copy/", "aws:copy/"), ("disk:b/", "disk:b2/")],
)
def test_routes_to_different_places_are_taken(one: str, other: str) -> None:
    assert len(parse_settings(document(routes=[route("one", "weed:src/", one), route("two", "weed:src/", other)])).routes) == 2


def test_two_ways_are_two_routes() -> None:
    there, back = route("there", "weed:a/", "gcp:b/"), route("back", "gcp:b/", "weed:a/")
    assert len(parse_settings(document(routes=[there, back])).routes) == 2


@pytest.mark.parametrize("destination", ["weed:photos/", "weed:photos/mirror/"])
def test_a_route_into_its_own_source_is_refused(destination: str) -> None:
    assert problems(document(routes=[route(destination=destination)])) == [
        "routes[0].destination: overlaps routes[0].source: route 'photos' would replicate its own replicas"
    ]


def test_a_route_within_a_bucket_is_taken_when_its_prefixes_are_apart() -> None:
    assert parse_settings(document(routes=[route(source="weed:b/in/", destination="weed:b/out/")])).routes


def test_a_watch_needs_a_route_from_a_file_system() -> None:
    watched = {"watch": [{"route": "photos"}, {"route": "photo"}, {"route": "files"}]}
    routes = [route(), route("files", source="disk:in/", destination="gcp:files/")]
    assert problems(document(routes=routes, ingest=watched)) == [
        "ingest.watch[0].route: the source of 'photos' is of type s3; only a file system can be watched",
        "ingest.watch[1].route: unknown route 'photo' (routes: files, photos)",
    ]


def test_memory_that_cannot_suffice_is_refused_with_both_numbers() -> None:
    worker = {"transfer_slots": 100, "streams": 8, "memory": "1GiB"}
    assert problems({"worker": worker}) == [
        "worker.memory: 1GiB is less than the 1.8GiB that 100 control slots and 100 transfer slots of 8 streams with 0 stores may need"
    ]
    assert parse_settings({"worker": worker | {"memory": "2GiB"}}).worker.memory == 2 * GIB


def test_the_memory_bound_grows_with_what_is_at_once() -> None:
    s3, disk = S3Settings(type="s3"), FileSettings(type="file", root=Path("/r"))
    worker = WorkerSettings(control_slots=4, transfer_slots=2, bulk_slots=5, streams=3)
    assert memory_bound(worker, [s3, disk]) == (150 + 64 + 12 + 4 + 2 * 2 * 3 + 1 + 8 * 5) * MIB
    fronted = S3Settings(type="s3", cdn=(CdnSettings(bucket="b", url="https://d.example"),))
    assert memory_bound(worker, [fronted, disk]) == memory_bound(worker, [s3, disk, disk])


def test_every_problem_is_told_at_once() -> None:
    wrong = document(
        routes=[
            route(overwrite="maybe", destination="gpc:copy/"),
            route("two", destination="aws:b/", parts={"part_size": "1MiB"}),
            route("two"),
        ],
        ingest={"watch": [{"route": "none"}]},
        worker={"memory": "1MiB"},
        ledger=f"postgresql://u:{SECRET}@h/d",
    )
    wrong["stores"]["bad"] = {"type": "s3", "secret_access_key": SECRET}
    assert [problem.split(": ")[0] for problem in problems(wrong)] == [
        "ledger",
        "stores.bad.secret_access_key",
        "routes[0].overwrite",
        "routes[0].destination.store",
        "routes[2].name",
        "routes[1].parts.part_size",
        "ingest.watch[0].route",
        "worker.memory",
    ]


def test_a_problem_of_a_store_is_told_once_and_not_for_its_routes_too() -> None:
    wrong = document(routes=[route(source="bad:b/")])
    wrong["stores"]["bad"] = {"type": "s3", "regoin": "x"}
    assert len(problems(wrong)) == 1


FIELDS = sorted({field for model in models_under(Settings) for field in model.model_fields})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 9)
    | st.floats()
    | st.sampled_from(["", "x", "s3", "env:X", "http://[", "64MiB", "\0", "h:1"])
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.integers(0, 1), inner)
)


@given(st.dictionaries(st.sampled_from(list(Settings.model_fields)), DOCUMENTS) | DOCUMENTS)
def test_any_document_is_read_or_refused_with_lines(source: object) -> None:
    try:
        refused: list[str] | None = None if isinstance(parse_settings(source), Settings) else []
    except SettingsError as refusal:
        refused = refusal.problems
    assert refused is None or (refused and all(re.match(r"[^\s:]+: \S", problem) for problem in refused))


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_a_secret_is_read_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    assert resolve_secret("env:KEY", {"KEY": SECRET}) == SECRET
    assert resolve_secret(f"file:{tmp_path}/key", {}) == SECRET


def test_a_secret_that_is_not_there_is_told_by_variable_and_field(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^stores\.x\.access_key_id: the environment variable KEY is not set$"):
        resolve_secret("env:KEY", {"KEY": ""}, field="stores.x.access_key_id")
    with pytest.raises(SettingsError, match=r"^token: cannot read .*/none: No such file or directory$"):
        resolve_secret(f"file:{tmp_path}/none", {}, field="token")
    (tmp_path / "empty").touch()
    with pytest.raises(SettingsError, match=r"is empty$"):
        resolve_secret(f"file:{tmp_path}/empty", {})


def test_routes_that_meet_behind_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    stores = {name: {"type": "file", "root": str(tmp_path / name)} for name in ("real", "alias", "else")}
    routes = [route("inward", "real:b/", "alias:b/copies/"), route("one", "real:c/", "else:d/"), route("other", "alias:c/", "else:e/")]
    settings = parse_settings({"stores": stores, "routes": routes})
    with pytest.raises(SettingsError, match=r"^routes\[0\]\.destination: overlaps .* would replicate its own replicas$"):
        check_roots(settings, Path.resolve)
    check_roots(parse_settings({"stores": stores, "routes": routes[1:]}), Path.resolve)


@pytest.mark.parametrize("secret", ["two\nlines", "a\tb", "nul\0", "\udcff"])
def test_what_no_header_can_carry_is_no_secret(tmp_path: Path, secret: str) -> None:
    with pytest.raises(SettingsError, match=r"^token: the environment variable KEY holds a line break or another character"):
        resolve_secret("env:KEY", {"KEY": secret}, field="token")
    (tmp_path / "key").write_text("two\nlines\n")
    with pytest.raises(SettingsError, match=r"/key holds a line break"):
        resolve_secret(f"file:{tmp_path}/key", {})


def test_no_secret_is_resolved_while_loading() -> None:
    assert yaml.safe_load(EXAMPLE.read_text())["stores"]["weed"]["access_key_id"] == "env:WEED_KEY"
    assert "env:WEED_KEY" in repr(load_settings(EXAMPLE, {"WEED_KEY": SECRET}))
