"""A run is repeated from its record to the same bytes; where it is not, it is said where the two part, and why."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import build_plainly

from storage.checkpoints import latest_checkpoint
from storage.errors import CheckpointError
from storage.run_records import RECORD_NAME, RunRecord, read_record
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks import certificate
from tasks.evaluation import evaluate_checkpoint
from tasks.partings import Reproduction, compare_data, compare_surroundings, compare_training, own_facts
from tasks.registry import find_model
from tasks.report import log_evaluation
from tasks.reproduction import config_of, find_record, on_threads, refuse_unrepeatable, train_again
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, FineTuning, TrainingRequest

SETTINGS = {
    "training.steps": "24",
    "training.batch_size": "4",
    "training.warmup_steps": "2",
    "training.device": "cpu",
    "network.block_size": "16",
    "network.width": "16",
    "network.layers": "1",
    "network.heads": "2",
    "network.dropout": "0.1",
}
CADENCE = Cadence(report_every_steps=2, evaluate_every_steps=6, save_every_steps=6)


@pytest.fixture
def run_id(tiny_corpus: Path, workspace: Workspace) -> str:
    """A tiny training, evaluated."""
    dataset = build_plainly(tiny_corpus, workspace)
    request = TrainingRequest(dataset=dataset.reference, settings=SETTINGS, cadence=CADENCE)
    trained = train(request, workspace)
    assert trained is not None
    found = find_model(trained.run_id, workspace)
    log_evaluation(evaluate_checkpoint(found.path, None, workspace), found, workspace)
    return trained.run_id


def repeat(run: str, workspace: Workspace) -> Reproduction:
    """The steps of the flow, called as functions."""
    record = find_record(run, workspace)
    refuse_unrepeatable(record)
    config = config_of(record, workspace)
    elsewhere = Workspace.at(workspace.root / "elsewhere")
    shutil.rmtree(elsewhere.root, ignore_errors=True)
    dataset = build_plainly(config.corpus, elsewhere, name=config.name)
    findings, here = compare_data(record.dataset, dataset), record.sittings[-1]
    if dataset.manifest.digest == record.dataset.digest:
        again = train_again(record, dataset, elsewhere)
        findings += compare_training(record, again)
        here = again.sittings[-1]
    return Reproduction(
        run_id=record.run_id,
        step=record.step,
        dataset=record.dataset.reference,
        findings=findings,
        surroundings=compare_surroundings(record, here, own_facts(record, workspace)),
    )


def edit(run_id: str, workspace: Workspace, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a run's record by hand."""
    path = workspace.checkpoints / run_id / RECORD_NAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_run_is_repeated_to_the_same_bytes_from_its_record_alone(run_id: str, workspace: Workspace) -> None:
    again = repeat(run_id, workspace)
    assert again.ok, again.parts_at
    assert [one.what for one in again.findings] == [
        "sources", "data", "losses", "weights", "optimizer", "val loss",
    ]  # fmt: skip
    assert "12 of training and 4 of val" in again.findings[2].how
    assert again.surroundings == []
    shutil.rmtree(workspace.checkpoints)
    shutil.rmtree(workspace.datasets)
    told = repeat(run_id, workspace)
    assert told.ok, "MLflow has the record too"
    assert len(told.findings) == 6


def test_a_run_tells_what_it_was_made_by(run_id: str, workspace: Workspace) -> None:
    tags = Tracker(workspace).client.get_run(run_id).data.tags
    record, checkpoint = find_record(run_id, workspace), latest_checkpoint(workspace.checkpoints / run_id)
    facts = record.sittings[0].facts
    assert checkpoint.facts["sitting"] == facts
    assert tags.get("mlflow.source.git.commit", "unknown") == facts["commit"]
    assert tags["git.dirty"] in ("true", "false", "unknown")
    assert tags["lock.sha256"] == facts["requirements.lock"]
    assert record.exact is not None
    metrics = Tracker(workspace).client.get_run(run_id).data.metrics
    assert record.exact.val_loss == metrics["val_loss_exact"]


def test_a_killed_and_resumed_run_is_repeated(tiny_corpus: Path, workspace: Workspace) -> None:
    dataset = build_plainly(tiny_corpus, workspace)
    settings = SETTINGS | {"training.steps": "80"}
    cadence = Cadence(report_every_steps=1, evaluate_every_steps=40, save_every_steps=20)
    request = TrainingRequest(dataset=dataset.reference, settings=settings, cadence=cadence)
    run_id = certificate._killed(request, workspace, "between checkpoints")
    unfinished = repeat(run_id, workspace)
    assert unfinished.ok, unfinished.parts_at
    assert unfinished.step < 80
    with on_threads(torch.get_num_threads() % 2 + 1):
        train(TrainingRequest(dataset=dataset.reference, resume=run_id, cadence=cadence), workspace)
    again = repeat(run_id, workspace)
    assert again.ok, again.parts_at
    assert again.step == 80
    assert "80 of training" in again.findings[2].how, "those before the kill, too"


def test_a_tampered_source_is_named_with_the_file_and_block_it_changes(
    run_id: str, tiny_corpus: Path, workspace: Workspace
) -> None:
    write_shard(tiny_corpus / "urlsf_subset00-3_data.xz", [("a.txt", b"another text"), ("b.txt", b"and one")])
    again = repeat(run_id, workspace)
    assert not again.ok
    assert again.parts_at is not None
    assert again.parts_at.startswith("sources: urlsf_subset00-3_data.xz is ")
    assert "train.bin: sha256" in again.findings[1].how
    assert "from block 0 of 64 MiB" in again.findings[1].how
    assert len(again.findings) == 2, "there is no use in training on other data"
    (tiny_corpus / "urlsf_subset00-3_data.xz").unlink()
    assert "urlsf_subset00-3_data.xz is gone" in str(repeat(run_id, workspace).parts_at)


def test_another_seed_in_the_record_parts_at_the_first_loss_and_is_found_out(
    run_id: str, workspace: Workspace
) -> None:
    edit(run_id, workspace, lambda value: value["recipe"]["training"].update(seed=7))
    again = repeat(run_id, workspace)
    assert again.parts_at is not None
    assert again.parts_at.startswith("losses: train loss at step 2, ")
    assert again.surroundings == ["run.json was changed: training.seed is 7, and its checkpoint has 1337"]


def test_another_torch_is_told_whether_it_matters_or_not(run_id: str, workspace: Workspace) -> None:
    edit(run_id, workspace, lambda value: value["sittings"][0]["facts"].update(torch="2.0.0"))
    again = repeat(run_id, workspace)
    assert again.ok
    assert again.surroundings == [f"torch: 2.0.0 there, {torch.__version__} here"]

    def nudge(value: dict[str, Any]) -> None:
        value["losses"]["train_loss"][4][1] += 1e-9

    edit(run_id, workspace, nudge)
    other = repeat(run_id, workspace)
    assert not other.ok
    assert "train loss at step 10, " in str(other.parts_at)
    assert [one.is_same for one in other.findings] == [True, True, False, True, True, True]


def test_other_kernels_of_the_cpu_are_named(
    tiny_corpus: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this CPU has no other kernels")
    dataset = build_plainly(tiny_corpus, workspace)
    request = TrainingRequest(dataset=dataset.reference, settings=SETTINGS, cadence=CADENCE)
    with monkeypatch.context() as patch:
        patch.setenv("ATEN_CPU_CAPABILITY", "default")
        run_id = certificate._trained(request, workspace)
    again = repeat(run_id, workspace)
    assert not again.ok
    assert str(again.parts_at).startswith("losses: ")
    assert "ATEN_CPU_CAPABILITY: default there, not set here" in again.surroundings
    assert any(line.startswith("cpu kernels: DEFAULT there") for line in again.surroundings)


def test_what_cannot_be_repeated_is_refused_in_one_line(run_id: str, workspace: Workspace) -> None:
    with pytest.raises(CheckpointError, match="no such model"):
        find_record("nobody", workspace)
    tuned = train(
        TrainingRequest(
            dataset=find_record(run_id, workspace).dataset.reference,
            settings={"training.steps": "2"},
            fine_tuning=FineTuning(model=run_id),
        ),
        workspace,
    )
    assert tuned is not None
    with pytest.raises(ValueError, match=r"was fine-tuned from .*repeat the run of that model"):
        refuse_unrepeatable(find_record(tuned.run_id, workspace))
    record = find_record(run_id, workspace)
    facts = record.sittings[0].facts
    for changed, message in (
        ({"processes": "2"}, "trained by 2 processes"),
        ({"device": "cuda"}, "has no GPU"),
    ):
        if message == "has no GPU" and torch.cuda.is_available():
            continue
        sitting = replace(record.sittings[0], facts=facts | changed)
        with pytest.raises(ValueError, match=message):
            refuse_unrepeatable(replace(record, sittings=[sitting]))
    (workspace.checkpoints / run_id / RECORD_NAME).unlink()
    Tracker(workspace).client.delete_run(run_id)
    shutil.rmtree(workspace.mlflow / "artifacts")
    with pytest.raises(CheckpointError, match=r"has no run\.json"):
        find_record(run_id, workspace)


def test_a_record_comes_back_as_it_was_and_damage_is_one_line(run_id: str, workspace: Workspace) -> None:
    folder = workspace.checkpoints / run_id
    record = read_record(folder)
    assert record is not None
    record.losses["train_loss"][2] = float("nan")
    text = record.to_json()
    assert RunRecord.from_json(text, "here").to_json() == text
    for bad in ("", "[]", "{}", text.replace('"format_version": 1', '"format_version": 9'), text[:-9]):
        with pytest.raises(CheckpointError, match=r"^here: "):
            RunRecord.from_json(bad, "here")
