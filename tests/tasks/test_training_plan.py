"""What a training would take, and what is said where it cannot be."""

import re
from dataclasses import replace

import pytest

from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks import training_plan
from tasks.training import train
from tasks.training_plan import plan_training
from tasks.training_request import Cadence, TrainingRequest

TINY = {
    "training.steps": "40",
    "training.batch_size": "8",
    "training.gradient_accumulation_steps": "2",
    "training.device": "cpu",
    "network.block_size": "16",
    "network.width": "16",
    "network.layers": "2",
    "network.heads": "2",
}


def request_of(dataset: Dataset, **settings: str) -> TrainingRequest:
    return TrainingRequest(
        dataset=dataset.reference,
        settings=TINY | {f"training.{key}": value for key, value in settings.items()},
        cadence=Cadence(save_every_steps=10),
    )


def test_a_plan_says_what_a_training_takes_and_begins_none(dataset: Dataset, workspace: Workspace) -> None:
    plan = plan_training(request_of(dataset), workspace, price_per_hour=3600.0)
    assert (plan.steps, plan.tokens, plan.windows_a_part) == (40, 40 * 8 * 16, 4)
    assert plan.epochs == pytest.approx(40 * 8 / ((dataset.manifest.train.tokens - 16) // 16))
    assert plan.flops == plan.tokens * plan.flops_per_token
    assert plan.seconds == pytest.approx(plan.tokens / plan.tokens_per_second)
    assert plan.cost == pytest.approx(plan.seconds)
    assert plan.memory_bytes < plan.device_bytes
    assert not workspace.checkpoints.exists()


def test_of_a_training_that_is_resumed_what_is_left_counts(dataset: Dataset, workspace: Workspace) -> None:
    request = request_of(dataset, steps="20", patience="1")
    trained = train(replace(request, cadence=Cadence(evaluate_every_steps=1, save_every_steps=5)), workspace)
    assert trained is not None
    resume = TrainingRequest(dataset=dataset.reference, resume=trained.run_id)
    assert plan_training(resume, workspace).steps == 20 - trained.steps


@pytest.mark.parametrize("processes", [1, 2])
def test_what_does_not_fit_is_refused_with_what_does(
    processes: int, dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = replace(request_of(dataset, gradient_accumulation_steps="1"), processes=processes)
    monkeypatch.setattr(training_plan, "CALIBRATION_STEPS", 2)
    plan = plan_training(request, workspace)
    assert plan.windows_a_part == 8 // processes
    monkeypatch.setattr(training_plan, "_device_bytes", lambda config: plan.memory_bytes - 1)
    with pytest.raises(ValueError, match="it fits, with the same losses, with --set") as refused:
        plan_training(request, workspace)
    found = re.search(r"training.gradient_accumulation_steps=(\d+)", str(refused.value))
    assert found
    mended = plan_training(
        replace(request, settings=dict(request.settings or {}) | {found[0].split("=")[0]: found[1]}),
        workspace,
    )
    assert mended.windows_a_part == plan.windows_a_part // 2
    one_window = 1.4 * plan.memory.bytes(1)
    monkeypatch.setattr(training_plan, "_device_bytes", lambda config: int(one_window) - 1)
    with pytest.raises(ValueError, match=r"it fits on (2|4) such devices with --nproc .*parallelism=sharded"):
        plan_training(request, workspace)
    monkeypatch.setattr(training_plan, "_device_bytes", lambda config: 1000)
    with pytest.raises(ValueError, match="choose a smaller network"):
        plan_training(request, workspace)


def test_what_cannot_be_trained_cannot_be_planned(dataset: Dataset, workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="windows of block_size 16, fewer than a batch of 100,000"):
        plan_training(request_of(dataset, batch_size="100000"), workspace)
