"""The flow that puts a trained model to the gate and registers it, as champion or as challenger."""

from pathlib import Path

from prefect import flow

from flows.evaluate_model import evaluate_model
from flows.limits import gpu_slot
from storage.workspace import Workspace
from tasks.artifacts import show_version
from tasks.at_work import leased
from tasks.evaluation import Evaluation
from tasks.registry import FoundModel, ModelVersion, find_model, register_task
from tasks.tracking import Tracker


@flow(name="register-candidate", flow_run_name="register {model}", persist_result=False)
@leased
def register_candidate(model: str, workspace: Path | None = None) -> ModelVersion:
    """Trained model to a registered version, and why it is champion or not.

    Args:
        model: a run id, or a checkpoint folder of a run.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    found = find_model(model, place)
    if found.run_id is None:
        raise ValueError(f"{model}: has no run in MLflow, and only a run's model is registered")
    with gpu_slot():
        evaluation = evaluate_model(model, workspace=place.root)
        return put_to_the_gate(found, evaluation, place)


def put_to_the_gate(found: FoundModel, evaluation: Evaluation, place: Workspace) -> ModelVersion:
    """Registers an evaluated model as what the gate lets it be, and shows why."""
    assert found.run_id is not None, "only a model with a run is registered"
    version = register_task(found, evaluation, place)
    show_version(version, evaluation, Tracker(place).run_url(found.run_id))
    return version
