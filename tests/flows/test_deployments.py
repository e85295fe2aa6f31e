"""prefect.yaml, strictly: Prefect itself accepts misspelt keys in silence, so we do not."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
TOP_KEYS = {"name", "prefect-version", "build", "push", "pull", "definitions", "deployments"}


def load(entrypoint: str) -> Any:
    """The flow of a module entrypoint."""
    module, _, name = entrypoint.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_the_file_has_only_known_keys() -> None:
    from prefect.cli.deploy._models import DeploymentConfig

    assert set(yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))) <= TOP_KEYS
    known = set(DeploymentConfig.model_fields)
    for deployment in DEPLOYMENTS:
        assert set(deployment) <= known, f"{deployment['name']}: {set(deployment) - known} would be ignored"


def test_the_flows_are_deployed() -> None:
    assert {one["name"] for one in DEPLOYMENTS} == {
        "build-dataset",
        "train-model",
        "evaluate-model",
        "finetune-model",
        "run-pipeline",
    }


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_entrypoints_load_and_parameters_validate(deployment: dict[str, Any]) -> None:
    flow = load(deployment["entrypoint"])
    parameters = deployment["parameters"]
    assert set(parameters) <= set(inspect.signature(flow.fn).parameters)
    flow.validate_parameters(parameters)
    with pytest.raises(Exception, match="surprise"):
        flow.validate_parameters(parameters | {"surprise": 1})


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_every_parameter_is_described_in_the_form(deployment: dict[str, Any]) -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(load(deployment["entrypoint"]))
    for name, field in schema.properties.items():
        assert field.get("description"), f"{deployment['name']}: {name} has no description in the UI's form"
