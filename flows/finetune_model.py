"""The flow that turns a model into one that is better at another data set, and says what it forgot."""

from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow

from flows.evaluate_model import evaluate_model
from flows.limits import gpu_slot
from storage.workspace import Workspace
from tasks.artifacts import show_changes, show_training
from tasks.at_work import leased
from tasks.evaluation import Evaluation
from tasks.fine_tuning import (
    Change,
    FineTuningPlan,
    StoredAdapter,
    exact_losses_task,
    keep_adapter_task,
    log_changes_task,
    plan_task,
)
from tasks.prompt_dataset import make_prompt_dataset_task
from tasks.prompts import PromptsConfig
from tasks.tracking import Tracker, refuse_unwritable_artifacts
from tasks.training import train_task
from tasks.training_request import TrainedModel, TrainingRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTunedModel:
    """What a fine-tuning came to. `own` is its change on its own data set, `forgetting` that on its parent's, if that is here."""

    plan: FineTuningPlan
    trained: TrainedModel
    evaluation: Evaluation
    own: Change
    forgetting: Change | None
    adapter: StoredAdapter | None


@flow(
    name="finetune-model", flow_run_name="finetune {request.fine_tuning.model}", persist_result=False
)  # fmt: skip
@leased
def finetune_model(
    request: TrainingRequest, prompts: PromptsConfig | None = None, workspace: Path | None = None
) -> FineTunedModel:
    """Model and data set to fine-tuned model.

    Args:
        request: the data set, and under fine_tuning the model to begin from; settings, or a run to go on with.
        prompts: a file of prompts with responses, to make the data set of.
        workspace: the folder that holds everything; by default $BRICKROAD_WORKSPACE, else ./workspace.
    """
    place = Workspace.at(workspace)
    if request.fine_tuning is None:
        raise ValueError("give the model to begin from, under request.fine_tuning")
    refuse_unwritable_artifacts(place)
    if prompts:
        made = make_prompt_dataset_task(prompts, request.fine_tuning.model, place)
        request = replace(request, dataset=made.reference)
    plan = plan_task(request, place)
    parents = [plan.parent_dataset] if plan.parent_dataset else []
    with gpu_slot():
        before = exact_losses_task(plan.parent.checkpoint.path, [plan.dataset, *parents], place)
        trained = train_task(request, place)
        assert trained is not None, "one machine fine-tunes"
        evaluation = evaluate_model(trained.run_id, workspace=place.root)
        show_training(trained, evaluation, place, Tracker(place).run_url(trained.run_id))
        after = exact_losses_task(trained.checkpoint, parents, place)
    own = Change(dataset=plan.dataset, before=before[plan.dataset].loss, after=evaluation.val_loss)
    forgetting = Change.of(parents, before, after)
    log_changes_task(trained.run_id, own, forgetting, place)
    adapter = keep_adapter_task(trained, place)
    show_changes(plan.trainable_share, own, forgetting)
    return FineTunedModel(
        plan=plan, trained=trained, evaluation=evaluation, own=own, forgetting=forgetting, adapter=adapter
    )
