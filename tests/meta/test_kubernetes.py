"""`deploy/kubernetes` names what is there: files, commands, options, ports, paths and secrets. No cluster is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import ingest.__main__
import worker
from replication.settings import load_settings
from service.health import Health, serving
from service.version import VERSION
from tests.meta.test_compose import command_problems

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
WORKLOADS: dict[str, dict[str, Any]] = {name: yaml.safe_load((FOLDER / name).read_text()) for name in KUSTOMIZATION["resources"]}
SERVED = {name: workload for name, workload in WORKLOADS.items() if workload["kind"] == "Deployment"}
SETTINGS = load_settings(FOLDER / "drayage.yaml", {})


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


def option_problems(command: list[str]) -> list[str]:
    """Of a program that runs until it is stopped: which options its parser does not know."""
    parser, skipped = (worker.build_parser(), 2) if command[:2] == ["python", "worker.py"] else (ingest.__main__.build_parser(), 3)
    assert command[:3] == ["python", "-m", "ingest"] or skipped == 2
    return parser.parse_known_args(command[skipped:])[1]


def test_every_file_is_named() -> None:
    named = {*KUSTOMIZATION["resources"], *(file for made in KUSTOMIZATION["configMapGenerator"] for file in made["files"])}
    assert named | {"kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}
    assert KUSTOMIZATION["images"] == [{"name": "drayage", "newTag": VERSION}]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_command_and_its_options_exist(name: str) -> None:
    command = container(WORKLOADS[name])["command"]
    assert (option_problems(command) if name in SERVED else command_problems(command)) == []


def test_an_option_that_does_not_exist_is_found() -> None:
    assert option_problems(["python", "worker.py", "--watch-confg"]) == ["--watch-confg"]


@pytest.mark.parametrize("name", SERVED)
def test_ports_are_those_of_the_configuration(name: str) -> None:
    metrics = SETTINGS.ingest.metrics if name == "ingest.yaml" else SETTINGS.worker.metrics
    health = SETTINGS.ingest.health if name == "ingest.yaml" else SETTINGS.worker.health
    found = {port["name"]: f"0.0.0.0:{port['containerPort']}" for port in container(SERVED[name])["ports"]}
    assert found == {"metrics": metrics, "health": health}
    annotations = SERVED[name]["spec"]["template"]["metadata"]["annotations"]
    assert found["metrics"].endswith(f":{annotations['prometheus.io/port']}")


async def test_probes_ask_for_what_is_served(free_port: int) -> None:
    import aiohttp

    probes = {
        container(workload)[f"{kind}Probe"]["httpGet"]["path"]
        for workload in SERVED.values()
        for kind in ("liveness", "readiness", "startup")
    }
    async with serving(f"127.0.0.1:{free_port}", "worker.health", Health(), {}), aiohttp.ClientSession() as session:
        for path in probes:
            async with session.get(f"http://127.0.0.1:{free_port}{path}") as answer:
                assert answer.status == 200, path


@pytest.mark.parametrize("name", SERVED)
def test_there_is_memory_and_time_enough(name: str) -> None:
    pod, limits = SERVED[name]["spec"]["template"]["spec"], container(SERVED[name])["resources"]["limits"]
    assert int(re.fullmatch(r"(\d+)Mi", limits["memory"])[1]) << 20 > SETTINGS.worker.memory  # type: ignore[index]
    assert pod["terminationGracePeriodSeconds"] > SETTINGS.worker.graceful_stop


@pytest.mark.parametrize("name", WORKLOADS)
def test_nothing_runs_as_root_or_writes_to_the_image(name: str) -> None:
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container(WORKLOADS[name])["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["mountPath"]: mount["name"] for mount in container(WORKLOADS[name])["volumeMounts"]}
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    assert "/tmp" in mounted
    (config,) = [entry["value"] for entry in container(WORKLOADS[name])["env"] if entry["name"] == "DRAYAGE_CONFIG"]
    assert mounted[str(Path(config).parent)] == "config"


def test_a_selector_finds_its_pods() -> None:
    for workload in SERVED.values():
        assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]


def test_the_secret_that_the_head_makes_has_every_name() -> None:
    text = (FOLDER / "drayage.yaml").read_text()
    made = set(re.findall(r"--from-literal=([A-Z0-9_]+)=", (FOLDER / "kustomization.yaml").read_text()))
    assert made == {*re.findall(r"env:([A-Z0-9_]+)", text), "PGPASSWORD"}
