"""A run, repeated from its record: data built again, trained again to the same step, and where the two part."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.config import Recipe, recipe_from_dict
from model.device import choose_device
from model.evaluation import estimate_loss
from model.training import StepReport, Training
from storage.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    recorded_sha256,
    save_checkpoint,
    verified_sha256,
)
from storage.datasets import Dataset
from storage.errors import CheckpointError
from storage.run_records import RECORD_NAME, ExactLoss, RecordedDataset, RunRecord, Sitting, read_record
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig
from tasks.engine import road_task
from tasks.evaluation import measure
from tasks.kept_record import sitting_on
from tasks.loading import load_model
from tasks.registry import find_model
from tasks.tracking import RunLog, Tracker
from tasks.verify import config_from
from tasks.watch import Watch


def find_record(reference: str, workspace: Workspace) -> RunRecord:
    """The record of a run: by its id, from the workspace or else from MLflow, by a model as `find_model` takes it, or the path of
    a run.json. Raises CheckpointError if there is none."""
    if Path(reference).is_file():
        return RunRecord.from_json(Path(reference).read_text(encoding="utf-8"), reference)
    if record := _record_of(reference, workspace):
        return record
    run_id = find_model(reference, workspace).run_id
    record = run_id and _record_of(run_id, workspace)
    if not record:
        raise CheckpointError(
            f"{reference}: has no {RECORD_NAME}, so that what it was trained by is not known; only runs that were trained here, "
            "by this version or a later one, can be repeated"
        )
    return record


def _record_of(run_id: str, workspace: Workspace) -> RunRecord | None:
    """The record beside the run's checkpoints; of a run that was killed while it saved, as its last checkpoint has it."""
    folder = workspace.checkpoints / run_id
    if record := read_record(folder):
        last = latest_checkpoint(folder)
        record.up_to(last.step, recorded_sha256(last))
        return record
    return _told_record(run_id, workspace)


def _told_record(run_id: str, workspace: Workspace) -> RunRecord | None:
    if not (workspace.mlflow.is_dir() or Tracker.is_elsewhere()):
        return None
    text = RunLog(Tracker(workspace), run_id).read_text(RECORD_NAME)
    return None if text is None else RunRecord.from_json(text, f"{RECORD_NAME} of run {run_id} in MLflow")


def refuse_unrepeatable(record: RunRecord) -> None:
    """Raises ValueError, with the way out, for a run that cannot be repeated from its record alone, or not here."""
    run, facts = f"run {record.run_id}", record.sittings[-1].facts
    if record.parent or record.dataset.has_prompts:
        begun = (record.parent or {}).get("path", "another model")
        raise ValueError(
            f"{run} was fine-tuned from {begun}, and its record holds no weights: repeat the run of that model"
        )
    if facts["processes"] != "1":
        raise ValueError(
            f"{run} was trained by {facts['processes']} processes, which add up in no fixed order; only runs of one are repeated"
        )
    if facts["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{run} was trained on {facts['device name']}, and this machine has no GPU; repeat it on one that has"
        )


def config_of(record: RunRecord, workspace: Workspace) -> CorpusConfig:
    """The configuration by which the data set of a run is built again, from the sources it names."""
    checkpoints = list_checkpoints(workspace.checkpoints / record.run_id)
    recorded = record.dataset.config
    tokenizer = checkpoints[-1].path / "tokenizer.json" if checkpoints else Path(recorded["tokenizer"])
    return replace(config_from(recorded, record.dataset.reference, tokenizer), name=record.dataset.name)


def train_again(record: RunRecord, dataset: Dataset, workspace: Workspace) -> RunRecord:
    """Trains by a record's recipe, each sitting on as many threads as it had, to the step of its last checkpoint.

    Returns what that came to; its checkpoints are in the `workspace`. MLflow hears nothing of it.
    """
    folder = workspace.checkpoints / record.run_id
    threads = {sitting.from_step: int(sitting.facts["threads"]) for sitting in record.sittings}
    with (
        on_threads(int(record.sittings[0].facts["threads"])),
        Watch("train", total=record.step, unit="steps", artifact_key="train") as watch,
    ):
        training = Training(
            _recipe_here(record), dataset.token_file("train").open(), dataset_digest=dataset.manifest.digest
        )
        again = replace(
            record,
            dataset=RecordedDataset.of(dataset),
            sittings=[sitting_on(training.device, training.precision)],
            sha256={},
            losses={"train_loss": {}, "val_loss": {}},
            exact=None,
        )
        for report in training.steps():
            _read_losses(record, again, training, report, dataset)
            if report.step in (record.step, record.exact and record.exact.step):
                _save(record, again, training, dataset, workspace)
            watch.advance(1)
            if report.step == record.step:
                break
            torch.set_num_threads(threads.get(report.step, torch.get_num_threads()))
    again.write(folder)
    return again


def surroundings_here(record: RunRecord) -> Sitting:
    """Where a run would be trained again, as it was."""
    facts = record.sittings[-1].facts
    with on_threads(int(facts["threads"])):
        return sitting_on(choose_device(_recipe_here(record).training.device), facts["precision"])


def _recipe_here(record: RunRecord) -> Recipe:
    """What "auto" was there it is here."""
    facts, recipe = record.sittings[-1].facts, recipe_from_dict(record.recipe)
    chosen: dict[str, Any] = {"device": facts["device"], "precision": facts["precision"]}
    return replace(recipe, training=replace(recipe.training, **chosen))


def _read_losses(
    record: RunRecord, again: RunRecord, training: Training, report: StepReport, dataset: Dataset
) -> None:
    """Those of a step that were read before."""
    if report.step in record.losses["train_loss"]:
        again.losses["train_loss"][report.step] = report.train_loss
    if report.step in record.losses["val_loss"]:
        tokens = dataset.token_file("val").open()
        again.losses["val_loss"][report.step] = estimate_loss(
            training.network, tokens, precision=training.precision
        )


def _save(
    record: RunRecord, again: RunRecord, training: Training, dataset: Dataset, workspace: Workspace
) -> None:
    """A checkpoint of the step, and the exact loss if that was measured there."""
    state = training.state()
    checkpoint = save_checkpoint(
        workspace.checkpoints / record.run_id,
        step=state.step,
        tensors=state.tensors,
        facts={
            "run_id": record.run_id,
            "recipe": record.recipe,
            "val_loss": None,
            "dataset": dataset.reference,
        },
        tokenizer_json=dataset.tokenizer_json(),
    )
    if state.step == record.step:
        again.sha256 = verified_sha256(checkpoint)
    if record.exact and state.step == record.exact.step:
        loss = measure(load_model(checkpoint.path), dataset, workspace).loss
        again.exact = ExactLoss(step=state.step, val_loss=loss)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Inside, PyTorch computes on so many threads: sums depend on how they are dealt out."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


train_again_task = road_task("train again", tags=["gpu"])(train_again)
