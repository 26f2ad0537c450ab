"""`docker-compose.yml` is valid, and everything that it names is there.

`compose-spec.json` is the Compose Specification's schema as `docker-compose` 1.29.2 ships it (Apache-2.0), unchanged.
No container engine is needed; that the images start is not shown here.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from replication.settings import load_settings

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests/meta/compose-spec.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()


def schema_problems(document: object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft201909Validator(SCHEMA).iter_errors(document)]


def bind_mounts(service: dict[str, Any]) -> dict[PurePosixPath, Path]:
    """Path in the container -> path in the repository."""
    mounts = (volume.split(":") for volume in service.get("volumes", []))
    return {PurePosixPath(parts[1]): ROOT / parts[0] for parts in mounts if parts[0].startswith(".")}


def environment(service: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = service.get("environment", {})
    return found


def command_problems(command: list[str]) -> list[str]:
    """What a `python …` command names that this repository does not have."""
    if command[0] != "python":
        return [f"{command[0]} is not python"]
    script, *arguments = command[1:]
    if not (ROOT / script).is_file():
        return [f"no file {script}"]
    if script != "starter.py":
        return []
    parser = importlib.import_module("cli.main").build_parser()
    try:
        parser.parse_args(arguments)
    except SystemExit:
        return [f"starter.py has no command {shlex.join(arguments)}"]
    return []


def test_the_file_is_valid_by_the_compose_specification() -> None:
    assert schema_problems(COMPOSE) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("comand", "x"), ("read_only", "perhaps"), ("ports", [{"target": "a"}]), ("depends_on", {"x": {"condition": "up"}})],
)
def test_the_schema_refuses_a_wrong_service(field: str, value: object) -> None:
    document = copy.deepcopy(COMPOSE)
    document["services"]["worker"][field] = value
    assert schema_problems(document)


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_pinned_to_a_version(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?", service["image"])


def test_the_base_images_are_pinned_to_a_version() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases
    assert [base for base in bases if not re.fullmatch(r"python:\d+\.\d+\.\d+-\S+", base)] == []


@pytest.mark.parametrize("name", OURS)
def test_our_commands_exist(name: str) -> None:
    assert command_problems(OURS[name]["command"]) == []


def test_a_command_that_does_not_exist_is_found() -> None:
    assert command_problems(["python", "starter.py", "no-such-command"])
    assert command_problems(["python", "no_such_file.py"])
    assert command_problems(["weed", "server"])


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_paths_and_scripts_exist(name: str) -> None:
    service = SERVICES[name]
    mounts = bind_mounts(service)
    assert [path for path in mounts.values() if not path.exists()] == []
    words = [*service.get("entrypoint", []), *service.get("command", [])]
    for target, source in mounts.items():
        inside = [PurePosixPath(word).relative_to(target) for word in words if word.startswith(f"{target}/")]
        assert [path for path in inside if not (source / path).is_file()] == []


def test_named_volumes_are_declared_and_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_can_be_met(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        target = SERVICES[other]
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in target, other
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert target["restart"] == "on-failure", f"{other} would start again after it succeeded"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_confined(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    uid, gid = service["user"].split(":")
    assert f"USER {uid}:{gid}" in DOCKERFILE
    assert int(uid) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_credentials_come_from_the_environment(name: str) -> None:
    secrets = {key: value for key, value in environment(SERVICES[name]).items() if re.search(r"KEY|SECRET|PASSWORD|PWD|TOKEN", key)}
    assert [key for key, value in secrets.items() if not re.fullmatch(r"\$\{DRAYAGE_[A-Z0-9_]+:-[a-z-]+\}", value)] == []


def test_the_worker_outlives_its_graceful_stop() -> None:
    settings = load_settings(ROOT / "deploy/drayage.yaml", {})
    grace = SERVICES["worker"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > settings.worker.graceful_stop


def test_the_configuration_loads_and_its_secrets_and_endpoints_are_served() -> None:
    settings = load_settings(ROOT / "deploy/drayage.yaml", {})
    text = (ROOT / "deploy/drayage.yaml").read_text()
    variables = set(re.findall(r"env:(\w+)", text))
    assert variables
    assert variables <= environment(SERVICES["worker"]).keys()
    hosts = {settings.temporal.address.split(":")[0], *re.findall(r"http://([\w-]+):", text)}
    assert hosts <= SERVICES.keys()


def test_the_buckets_of_the_routes_are_made() -> None:
    settings = load_settings(ROOT / "deploy/drayage.yaml", {})
    made = set(re.findall(r'"(photos[\w-]*)"', (ROOT / "deploy/buckets.py").read_text()))
    assert {location.bucket for route in settings.routes for location in (route.source, route.destination)} == made


def test_the_image_gets_what_it_copies_and_runs() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [path for path in allowed if not (ROOT / path).exists()] == []
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    assert [path for path in copied if path != "." and path not in allowed] == []
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= set(allowed)
    assert {service["command"][1] for service in OURS.values()} <= set(allowed)


@pytest.mark.parametrize("script", sorted((ROOT / "deploy").rglob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(script: Path) -> None:
    assert subprocess.run(["sh", "-n", str(script)], check=False, capture_output=True).stderr == b""


def test_the_dynamic_configuration_has_temporals_shape() -> None:
    document = yaml.safe_load((ROOT / "deploy/temporal/dynamicconfig.yaml").read_text())
    assert document
    assert all(isinstance(values, list) and all("value" in item for item in values) for values in document.values())
