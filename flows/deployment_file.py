"""prefect.yaml, read strictly: Prefect takes misspelt keys in silence, and a schedule that is not there starts nothing."""

import difflib
import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel, ValidationError

from flows.events import EVENTS
from flows.limits import GPU

POOLS = ("cpu", GPU)  # those that `brickroad up` makes, each with a worker
_TOP_KEYS = {field.alias or name for name, field in PrefectYamlModel.model_fields.items()} | {"definitions"}
_PAYLOAD_FIELD = re.compile(r"event\.payload\.(\w+)")


def read_deployments(path: Path) -> list[dict[str, Any]]:
    """The deployments of a file. Raises ValueError, in one line, for whatever Prefect would not do as it is written."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {_one_line(error)}") from None
    _refuse_unknown(document, _TOP_KEYS, str(path))
    deployments: list[dict[str, Any]] = document.get("deployments") or []
    for number, deployment in enumerate(deployments):
        where = f"{path}: deployment {deployment.get('name', number)}"
        _refuse_unknown(deployment, DeploymentConfig.model_fields, where)
        _check_pool(deployment.get("work_pool") or {}, where)
        _check_limit(deployment.get("concurrency_limit"), where)
        for schedule in deployment.get("schedules") or []:
            _check_schedule(schedule, f"{where}: schedule {schedule.get('slug', '')}")
        for trigger in deployment.get("triggers") or []:
            _check_trigger(trigger, f"{where}: trigger {trigger.get('name', '')!r}")
    return deployments


def refuse_wrong_flows(path: Path, deployments: list[dict[str, Any]]) -> None:
    """Raises ValueError, in one line, if a flow does not load, or would not take what a deployment, schedule or trigger gives it."""
    for deployment in deployments:
        where = f"{path}: deployment {deployment['name']}"
        flow = load_flow(deployment["entrypoint"], where)
        for parameters in _parameters_of(deployment):
            _refuse_unknown(parameters, inspect.signature(flow.fn).parameters, f"{where}: parameters")
            try:
                flow.validate_parameters(dict(parameters))
            except (ParameterTypeError, ValueError, TypeError) as error:
                raise ValueError(f"{where}: parameters: {_one_line(error)}") from None


def load_flow(entrypoint: str, where: str) -> Flow[..., Any]:
    """The flow of a module entrypoint. Raises ValueError if there is none."""
    module, _, name = entrypoint.rpartition(".")
    try:
        flow = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: entrypoint {entrypoint} does not load: {_one_line(error)}") from None
    if not isinstance(flow, Flow):
        raise ValueError(f"{where}: entrypoint {entrypoint} is not a flow")
    return flow


def _parameters_of(deployment: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the flow is called with: by a schedule, by a trigger, and by Run on the page, where a person fills in what is missing."""
    own = deployment.get("parameters") or {}
    others = [*(deployment.get("schedules") or []), *(deployment.get("triggers") or [])]
    for other in others:
        yield own | (other.get("parameters") or {})
    if not deployment.get("triggers"):
        yield own


def _check_pool(pool: Mapping[str, Any], where: str) -> None:
    _refuse_unknown(pool, WorkPoolConfig.model_fields, f"{where}: work_pool")
    if pool.get("name") not in POOLS:
        raise ValueError(
            f"{where}: work_pool {pool.get('name')!r} has no worker; the pools are {', '.join(POOLS)}"
        )


def _check_limit(limit: Any, where: str) -> None:
    if isinstance(limit, dict):
        _refuse_unknown(limit, ConcurrencyLimitSpec.model_fields, f"{where}: concurrency_limit")
        _refuse_invalid(ConcurrencyLimitConfig, limit, f"{where}: concurrency_limit")


def _check_schedule(schedule: Mapping[str, Any], where: str) -> None:
    _refuse_unknown(schedule, RawScheduleConfig.model_fields, where)
    _refuse_invalid(RawScheduleConfig, schedule, where)
    if "slug" not in schedule:  # without one, each deploy makes it anew
        raise ValueError(f"{where}: has no slug, by which it is known when the file is deployed again")
    if "cron" in schedule:
        _refuse_invalid(
            CronSchedule, {key: schedule[key] for key in ("cron", "timezone") if key in schedule}, where
        )


def _check_trigger(trigger: Mapping[str, Any], where: str) -> None:
    _refuse_unknown(trigger, DeploymentEventTrigger.model_fields, where)
    _refuse_invalid(DeploymentEventTrigger, trigger, where)
    for name in trigger.get("expect") or []:
        if name.startswith("brickroad."):
            _refuse_unknown([name], EVENTS, f"{where}: expect")
            payload = {field.name for field in fields(EVENTS[name])}
            _refuse_unknown(
                _PAYLOAD_FIELD.findall(str(trigger.get("parameters"))), payload, f"{where}: payload of {name}"
            )


def _refuse_invalid(kind: type[BaseModel], values: Mapping[str, Any], where: str) -> None:
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{where}: {'.'.join(map(str, first['loc']))}: {_one_line(first['msg'])}") from None


def _refuse_unknown(keys: Collection[str], known: Collection[str], where: str) -> None:
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
            raise ValueError(f"{where}: {key!r} is not known; {meant}")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
