"""Connecting to Temporal: one way for the worker, the command line and the ingestors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from replication.settings import TemporalSettings
from workflows.visibility import SEARCH_ATTRIBUTES


class TemporalUnreachable(Exception):
    """The server does not answer, or refuses this client: exit code 3."""


def connect_config(settings: TemporalSettings, environ: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `Client.connect`: `TEMPORAL_*` variables and profiles win over the settings."""
    config: dict[str, Any] = dict(ClientConfig.load_client_connect_config(override_env_vars=dict(environ)))
    config.setdefault("target_host", settings.address)
    config.setdefault("namespace", settings.namespace)
    return config


async def connect(settings: TemporalSettings, environ: Mapping[str, str], *, runtime: Runtime | None = None) -> Client:
    """A connected client with the pydantic converter. Raises `TemporalUnreachable` in one line."""
    config = connect_config(settings, environ)
    try:
        return await Client.connect(**config, data_converter=pydantic_data_converter, runtime=runtime)
    except (RPCError, RuntimeError) as error:
        raise TemporalUnreachable(f"Temporal at {config['target_host']} cannot be reached: {_brief(error)}") from error


async def answers(client: Client, timeout: timedelta) -> bool:
    """One request; False while Temporal does not answer."""
    try:
        return await client.service_client.check_health(timeout=timeout)
    except (RPCError, RuntimeError):
        return False


def prometheus_runtime(address: str | None) -> Runtime:
    """The SDK's runtime, which serves its metrics and ours at `host:port`; None serves none."""
    prometheus = PrometheusConfig(bind_address=address, durations_as_seconds=True, counters_total_suffix=True) if address else None
    return Runtime(telemetry=TelemetryConfig(metrics=prometheus))


def _brief(error: Exception) -> str:
    """The innermost cause of a transport error, which the SDK tells as a nest of them."""
    return str(error).rpartition("message: ")[2].strip(' "})]') or type(error).__name__


async def ensure_search_attributes(client: Client) -> list[str]:
    """Registers what is missing of `SEARCH_ATTRIBUTES` and returns the names that were added; repeatable.

    Raises `TemporalUnreachable` where the server does not let this client register them.
    """
    service = client.operator_service
    try:
        known = await service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
        missing = [name for name in SEARCH_ATTRIBUTES if name not in known.custom_attributes]
        if missing:
            kinds = dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
            await service.add_search_attributes(AddSearchAttributesRequest(namespace=client.namespace, search_attributes=kinds))
        return missing
    except RPCError as error:
        if error.status == RPCStatusCode.ALREADY_EXISTS:
            return []
        raise TemporalUnreachable(
            f"the search attributes {', '.join(SEARCH_ATTRIBUTES)} cannot be registered in namespace {client.namespace} "
            f"({error.message}); an administrator can add them as keywords"
        ) from error
