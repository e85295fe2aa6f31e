"""The flow that measures a model: its exact loss on the whole val split, logged to its run in MLflow."""

from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.limits import gpu_slot
from storage.workspace import Workspace
from tasks.artifacts import show_evaluation
from tasks.at_work import leased
from tasks.evaluation import Evaluation, evaluate_task
from tasks.registry import find_model
from tasks.report import log_evaluation_task


@flow(name="evaluate-model", flow_run_name="evaluate {model}", persist_result=False)
@leased
def evaluate_model(
    model: str, dataset: str | None = None, questions: Sequence[Path] = (), workspace: Path | None = None
) -> Evaluation:
    """Model to exact losses.

    Args:
        model: a run id, name/version, name@alias, or a checkpoint folder.
        dataset: name, name@digest or path; by default the data set the model was trained on.
        questions: files of questions with known answers, as HellaSwag and LAMBADA have them.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    found = find_model(model, place)
    with gpu_slot():
        evaluation = evaluate_task(found.path, dataset, place, questions)
    if found.run_id:
        log_evaluation_task(evaluation, found, place)
    show_evaluation(evaluation)
    return evaluation
