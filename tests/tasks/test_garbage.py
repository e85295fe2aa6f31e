"""Garbage: what is referenced stays and works, the rest goes, and the disk has as much more as was said."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from tiny_data import build_plainly, tiny_documents
from tiny_trainings import TINY
from tracking_servers import tracking_server

from storage.checkpoints import list_checkpoints
from storage.datasets import Dataset, find_dataset, list_datasets, verify_dataset
from storage.leases import take_lease
from storage.removal import discard, freed_bytes, remains
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks import garbage
from tasks.evaluation import evaluate_checkpoint
from tasks.garbage import Keeping, look_for_garbage, remove_garbage
from tasks.loading import load_model
from tasks.registry import FoundModel, find_model, register
from tasks.tracking import Tracker, store
from tasks.training import train
from tasks.training_request import Cadence, TrainedModel, TrainingRequest


def trained_on(dataset: Dataset, workspace: Workspace, seed: int = 1) -> TrainedModel:
    request = TrainingRequest(
        dataset=dataset.reference,
        settings=TINY | {"training.device": "cpu", "training.seed": str(seed)},
        cadence=Cadence(evaluate_every_steps=4, save_every_steps=2, keep_last=5),
    )
    trained = train(request, workspace)
    assert trained is not None
    return trained


def other_dataset(folder: Path, workspace: Workspace, seed: int) -> Dataset:
    """A data set of the same name, made of another shard."""
    shutil.rmtree(folder, ignore_errors=True)
    documents = tiny_documents(20, seed=seed)
    write_shard(
        folder / "urlsf_subset00-1_data.xz", [(f"{n}.txt", text.encode()) for n, text in enumerate(documents)]
    )
    return build_plainly(folder, workspace, name="other")


def used_bytes(folder: Path) -> int:
    inodes = {
        (facts.st_dev, facts.st_ino): facts.st_blocks * 512
        for path in folder.rglob("*")
        if path.is_file()
        for facts in [path.stat()]
    }
    return sum(inodes.values())


def of_kind(found: garbage.Garbage, kind: str) -> garbage.Pile:
    (pile,) = [one for one in found.piles if one.kind == kind]
    return pile


@pytest.fixture
def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all had been made long ago."""
    monkeypatch.setattr(garbage, "_DAY_SECONDS", -3600.0)


def test_what_is_referenced_stays_and_works_and_the_rest_is_really_freed(
    dataset: Dataset, workspace: Workspace, tmp_path: Path, an_hour_later: None
) -> None:
    kept, gone = trained_on(dataset, workspace), trained_on(dataset, workspace, seed=2)
    evaluation = evaluate_checkpoint(kept.checkpoint, None, workspace)
    version = register(FoundModel(path=kept.checkpoint, run_id=kept.run_id), evaluation, workspace)
    plain = trained_on(dataset, workspace, seed=3)
    tracker = Tracker(workspace)
    tracker.client.delete_run(gone.run_id)
    old = other_dataset(tmp_path / "other", workspace, seed=5)
    new = other_dataset(tmp_path / "other", workspace, seed=6)
    (workspace.checkpoints / kept.run_id / ".step-1.abcd.partial").mkdir()

    all_of_gone = len(list_checkpoints(workspace.checkpoints / gone.run_id))
    all_of_plain = {one.path.name for one in list_checkpoints(workspace.checkpoints / plain.run_id)}

    found = look_for_garbage(workspace, Keeping())
    before = used_bytes(workspace.checkpoints.parent)
    removed = remove_garbage(workspace, Keeping())
    assert removed == found, "what was shown is what went"
    freed = before - used_bytes(workspace.checkpoints.parent)
    assert of_kind(found, "checkpoints").items == all_of_gone + len(
        all_of_plain - {plain.checkpoint.name, "step-00000012"}
    )
    assert freed == pytest.approx(found.freed_bytes, abs=64 << 10), "MLflow's database may grow or shrink"
    assert not (workspace.checkpoints / gone.run_id).exists()
    assert [one.path for one in list_datasets(workspace.datasets)[0] if one.manifest.name == "other"] == [
        new.path
    ]
    assert not old.path.exists()
    for one in (dataset, new):
        assert not [
            wrong
            for _, _, wrongs in verify_dataset(find_dataset(workspace.datasets, str(one.path)))
            for wrong in wrongs
        ]
    assert not list(workspace.root.rglob("*.partial"))
    assert remove_garbage(workspace, Keeping()).freed_bytes == 0, "twice is once"

    reference = f"{version.name}/{version.version}"
    assert list(load_model(find_model(reference, workspace).path).write("The ", tokens=4))
    mlflow.set_tracking_uri(tracker.uri)
    assert mlflow.pyfunc.load_model(f"models:/{reference}")
    assert {one.step for one in list_checkpoints(workspace.checkpoints / plain.run_id)} >= {12}
    models = tracker.client.search_logged_models([tracker.experiment_id])
    assert all(Path(one.artifact_location.removeprefix("file://")).is_dir() for one in models)
    assert build_plainly(tmp_path / "other", workspace, name="other").path == new.path


def test_a_run_goes_on_after_it(dataset: Dataset, workspace: Workspace, an_hour_later: None) -> None:
    trained = trained_on(dataset, workspace)
    remove_garbage(workspace, Keeping())
    resumed = train(TrainingRequest(dataset=dataset.reference, resume=trained.run_id), workspace)
    assert resumed is not None
    assert resumed.steps == 12


def test_what_somebody_may_be_at_stays(
    dataset: Dataset,
    workspace: Workspace,
    tmp_path: Path,
    an_hour_later: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = other_dataset(tmp_path / "other", workspace, seed=5)
    other_dataset(tmp_path / "other", workspace, seed=6)
    held = take_lease(workspace.leases, "build-dataset", {})
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)  # as another process sees it
    found = remove_garbage(workspace, Keeping())
    assert of_kind(found, "data sets").items == 0
    assert any("build-dataset by process" in reason for reason in found.left)
    assert old.path.exists()
    held.release()
    assert of_kind(remove_garbage(workspace, Keeping()), "data sets").items == 1
    assert not old.path.exists()


def test_a_removal_that_was_killed_is_made_to_its_end(
    dataset: Dataset, workspace: Workspace, an_hour_later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on(dataset, workspace)
    whole = look_for_garbage(workspace, Keeping())
    calls = []

    def killed(path: Path) -> None:
        calls.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_garbage(workspace, Keeping())
    assert calls
    remove_garbage(workspace, Keeping())
    again = look_for_garbage(workspace, Keeping())
    assert whole.freed_bytes > 0
    assert again.freed_bytes == 0
    assert not [pile for pile in again.piles if pile.items]


def test_bytes_with_another_name_are_not_freed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(8192))
    (tmp_path / "b").hardlink_to(tmp_path / "a" / "x")
    assert freed_bytes([[tmp_path / "a"]]) == [0]
    assert freed_bytes([[tmp_path / "a"], [tmp_path / "b"]]) == [0, 8192]
    discard(tmp_path / "a")
    assert freed_bytes([[tmp_path / "b"]]) == [8192]
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / "y.partial").touch()
    assert remains(tmp_path, before=0) == []
    assert remains(tmp_path, before=float("inf")) == [tmp_path / ".x.partial"]


def test_fewer_than_one_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        replace(Keeping(), best=0)


def test_files_on_a_server_go_too(
    dataset: Dataset,
    workspace: Workspace,
    tmp_path: Path,
    tracking_template: Path,
    an_hour_later: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tracking_server(tmp_path / "server", tracking_template) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        gone, plain = trained_on(dataset, workspace), trained_on(dataset, workspace, seed=2)
        kept_at_training = {
            (one.path.parent.name, one.step)
            for run in (gone, plain)
            for one in list_checkpoints(workspace.checkpoints / run.run_id)
        }
        assert len(kept_at_training) < 12, "each has dropped some of its six"
        files = tmp_path / "server" / "artifacts"
        assert len(list(files.glob("*/models/*/artifacts/network.safetensors"))) == len(kept_at_training)

        tracker = Tracker(workspace)
        tracker.client.delete_run(gone.run_id)
        found = look_for_garbage(workspace, Keeping())
        before = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
        assert remove_garbage(workspace, Keeping()) == found
        after = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
        assert before - after == of_kind(found, "logged models on the server").freed_bytes > 0
        staying = len(list_checkpoints(workspace.checkpoints / plain.run_id))
        assert len(list(files.glob("*/models/*/artifacts/network.safetensors"))) == staying
        assert len(tracker.client.search_logged_models([tracker.experiment_id])) == staying
