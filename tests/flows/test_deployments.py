"""prefect.yaml, strictly: Prefect itself accepts misspelt keys in silence, so we do not."""

import ast
import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows import services
from flows.deployment_file import POOLS, load_flow, read_deployments, refuse_wrong_flows
from flows.events import EVENTS

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "prefect.yaml"
DEPLOYMENTS = read_deployments(FILE)


def spoilt(tmp_path: Path, deployment: str, *keys: Any, value: Any, drop: str | None = None) -> Path:
    """prefect.yaml with another value at one place."""
    document = copy.deepcopy(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    place = next((one for one in document["deployments"] if one["name"] == deployment), document)
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if drop:
        del place[drop]
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def flows_of_files() -> dict[str, str]:
    """Every flow of flows/: its entrypoint, by its name with dashes."""
    found = {}
    for path in (ROOT / "flows").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            if any(one.startswith("flow(") for one in decorators):
                found[node.name.replace("_", "-")] = f"flows.{path.stem}.{node.name}"
    return found


def test_every_flow_is_deployed_under_its_name() -> None:
    assert {one["name"]: one["entrypoint"] for one in DEPLOYMENTS} == flows_of_files()
    for one in DEPLOYMENTS:
        assert load_flow(one["entrypoint"], "").name == one["name"]


def test_flows_load_and_take_what_they_are_given() -> None:
    refuse_wrong_flows(FILE, DEPLOYMENTS)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_says_what_it_is(deployment: dict[str, Any]) -> None:
    from prefect.utilities.callables import parameter_schema

    assert deployment["description"].endswith(".")
    assert deployment["version"] == "{{ $BRICKROAD_VERSION }}"
    assert "brickroad" in deployment["tags"]
    schema = parameter_schema(load_flow(deployment["entrypoint"], ""))
    for name, field in schema.properties.items():
        assert field.get("description"), f"{deployment['name']}: {name} has no description in the UI's form"


def test_what_is_scheduled_and_what_starts_what() -> None:
    crons = {
        (one["name"], each["slug"]): each["cron"] for one in DEPLOYMENTS for each in one.get("schedules", [])
    }
    assert {
        ("build-dataset", "nightly"): "0 2 * * *",
        ("train-model", "weekly"): "0 4 * * 0",
        ("verify-dataset", "weekly"): "0 6 * * 6",
    }.items() <= crons.items()
    started = {
        event: one["name"]
        for one in DEPLOYMENTS
        for trigger in one.get("triggers", [])
        for event in trigger["expect"]
    }
    assert started == {
        "brickroad.dataset.published": "train-model",
        "brickroad.model.trained": "register-candidate",
    }
    assert set(started) == set(EVENTS), "each event starts something"


def test_up_runs_workers_of_the_pools_that_deployments_name() -> None:
    assert services.POOLS == POOLS
    assert {one["work_pool"]["name"] for one in DEPLOYMENTS} == set(POOLS)


WRONG = {
    "a key of the file": (("", "deploymens"), [], "'deploymens' is not known; did you mean 'deployments'?"),
    "a key of a deployment": (
        ("build-dataset", "schedule_s"),
        [],
        "deployment build-dataset: 'schedule_s' is not known; did you mean 'schedules'?",
    ),
    "a key of a pool": (("build-dataset", "work_pool", "nam"), "cpu", "'nam' is not known; did you mean 'name'?"),
    "a pool without a worker": (("build-dataset", "work_pool", "name"), "gpus", "work_pool 'gpus' has no worker"),
    "a key of a limit": (
        ("build-dataset", "concurrency_limit", "colision_strategy"),
        "CANCEL_NEW",
        "did you mean 'collision_strategy'?",
    ),
    "a strategy": (
        ("build-dataset", "concurrency_limit", "collision_strategy"),
        "CANCEL_OLD",
        "build-dataset: concurrency_limit: collision_strategy: Input should be",
    ),
    "a key of a schedule": (
        ("build-dataset", "schedules", 0, "timezon"),
        "UTC",
        "schedule nightly: 'timezon' is not known; did you mean 'timezone'?",
    ),
    "a time": (("build-dataset", "schedules", 0, "cron"), "0 25 * * *", "schedule nightly: cron:"),
    "a time zone": (("build-dataset", "schedules", 0, "timezone"), "Oz/Emerald", "schedule nightly: timezone:"),
    "a key of a trigger": (("train-model", "triggers", 0, "expects"), [], "did you mean 'expect'?"),
    "an event": (
        ("train-model", "triggers", 0, "expect"),
        ["brickroad.dataset.publishd"],
        "did you mean 'brickroad.dataset.published'?",
    ),
    "a field of an event": (
        ("train-model", "triggers", 0, "parameters"),
        {"request": {"dataset": "{{ event.payload.referense }}"}},
        "did you mean 'reference'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_prefect_takes_in_silence_is_one_line(wrong: tuple[Any, Any, str], tmp_path: Path) -> None:
    (deployment, *keys), value, line = wrong
    path = spoilt(tmp_path, deployment, *keys, value=value)
    with pytest.raises(ValueError, match=r"\.yaml") as caught:
        read_deployments(path)
    assert str(caught.value).startswith(str(path))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text("deployments: [")
    with pytest.raises(ValueError, match=r"prefect\.yaml: is not YAML") as caught:
        read_deployments(path)
    assert "\n" not in str(caught.value)


WRONG_FLOWS = {
    "a parameter": (("build-dataset", "parameters"), {"confg": {}}, "parameters: 'confg' is not known; did you mean 'config'?"),
    "a parameter's field": (("build-dataset", "parameters"), {"config": {"corpsu": "x"}}, "config.corpsu"),
    "a value": (("train-model", "parameters"), {"request": {"settings": {"training.stepz": "5"}}}, "training.stepz"),
    "a schedule's parameter": (("train-model", "schedules", 0, "parameters"), {"unless_traned": True}, "did you mean 'unless_trained'?"),
    "a trigger's parameter": (("register-candidate", "triggers", 0, "parameters"), {"modl": "x"}, "did you mean 'model'?"),
    "a flow": (("build-dataset", "entrypoint"), "flows.build_dataset.build_datset", "does not load"),
    "what is no flow": (("build-dataset", "entrypoint"), "flows.build_dataset.Workspace", "is not a flow"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_FLOWS.values(), ids=WRONG_FLOWS)
def test_what_a_flow_would_not_take_is_one_line(wrong: tuple[Any, Any, str], tmp_path: Path) -> None:
    (deployment, *keys), value, line = wrong
    path = spoilt(tmp_path, deployment, *keys, value=value)
    with pytest.raises(ValueError, match=r"\.yaml") as caught:
        refuse_wrong_flows(path, read_deployments(path))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entrypoints_are_importable_without_this_folder() -> None:
    for one in DEPLOYMENTS:
        module, _, name = one["entrypoint"].rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), Flow)
