"""A training and MLflow's own server, each killed when it likes: every point is there once, and no training waits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bad_disks import small_disk
from mlflow import MlflowClient
from tiny_trainings import TINY, TRAIN
from tracking_servers import hanging_server, tracking_server

from storage.checkpoints import list_checkpoints
from storage.datasets import Dataset
from storage.errors import JournalHeldError
from storage.journal import Journal
from storage.workspace import Workspace
from tasks.session import Session
from tasks.tracking import Tracker, TrackingError, TrainingLog, outbox
from tasks.training_request import Cadence, TrainingRequest

STEPS = 3000
REQUEST = TrainingRequest(
    settings=TINY | {"training.steps": str(STEPS), "training.device": "cpu"},
    cadence=Cadence(report_every_steps=1, evaluate_every_steps=250, save_every_steps=250, keep_last=2),
)
CURVES = {"learning_rate", "gradient_norm", "tokens", "epoch", "tokens_per_second", "skipped_updates"}


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(outbox, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "_PATIENCE_SECONDS", 3.0)


def trainer(request: TrainingRequest, workspace: Workspace) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, json.dumps(request.to_json()), str(workspace.root)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def wait_for_checkpoint(process: "subprocess.Popen[bytes]", workspace: Workspace, after: int) -> int:
    """The step of the newest checkpoint, as soon as there is one after this step."""
    while True:
        found = [one.step for folder in workspace.checkpoints.glob("*") for one in list_checkpoints(folder)]
        if found and max(found) > after:
            return max(found)
        assert process.poll() is None
        time.sleep(0.02)


def points_of(client: MlflowClient, run_id: str) -> dict[str, Counter[int]]:
    """How often each step of each curve is there, of those that come step by step."""
    keys = client.get_run(run_id).data.metrics
    return {
        key: Counter(point.step for point in client.get_metric_history(run_id, key))
        for key in keys
        if not key.startswith("system/")
    }


def test_trainer_and_server_are_killed_and_every_point_is_there_once(
    dataset: Dataset,
    workspace: Workspace,
    tmp_path: Path,
    tracking_template: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed, asked, newest = random.Random(3), replace(REQUEST, dataset=dataset.reference), 0
    with tracking_server(tmp_path / "server", tracking_template) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        for number in range(3):
            process = trainer(asked, workspace)
            newest = wait_for_checkpoint(process, workspace, newest)
            if number == 1:
                server.kill()  # what comes from here until the kill is in the journal alone
                newest = wait_for_checkpoint(process, workspace, newest)
            time.sleep(seed.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if number == 1:
                server.start()
            run_id = next(workspace.checkpoints.iterdir()).name
            asked = TrainingRequest(dataset=dataset.reference, resume=run_id, cadence=REQUEST.cadence)
            assert Tracker(workspace).client.get_run(run_id).info.status == "RUNNING", "nobody could say more"
        process = trainer(asked, workspace)
        wait_for_checkpoint(process, workspace, newest)
        server.kill()  # and back while the training is on its way, or waits at its end
        time.sleep(1)
        server.start()
        assert process.wait() == 0
        tracker = Tracker(workspace)
        run = tracker.client.get_run(run_id)
        if run.info.status != "FINISHED":  # the server took longer than the training waits
            assert [left.failure for left in tracker.ship_left()] == [None]
            run = tracker.client.get_run(run_id)
        assert run.info.status == "FINISHED"
        told = points_of(tracker.client, run_id)
        assert told == {key: Counter(range(1, STEPS + 1)) for key in CURVES | {"train_loss"}} | {
            "val_loss": Counter(range(250, STEPS + 1, 250))
        }
        models = tracker.client.search_logged_models([tracker.experiment_id])
        kept = {one.path.name for one in list_checkpoints(workspace.checkpoints / run_id)}
        assert sorted(model.name for model in models) == sorted(kept), "each kept checkpoint once"
        assert all(len(model.metrics) == 1 for model in models)
        assert len(run.outputs.model_outputs) == len({one.model_id for one in run.outputs.model_outputs})
    assert not list(workspace.journals.iterdir()), "all was told: nothing is left to keep"


def test_a_server_that_is_down_for_a_while_hears_all_of_it_in_order(
    dataset: Dataset,
    workspace: Workspace,
    tmp_path: Path,
    tracking_template: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_retries: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tracking_server(tmp_path / "server", tracking_template) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        tracker = Tracker(workspace)
        run = tracker.start_run("r", dataset, {"a": 1}, {})
        run.metrics(1, {"train_loss": float("nan"), "val_loss": 0.1 + 0.2})
        server.kill()
        for step in range(2, 2000):
            run.metrics(step, {"train_loss": step / 3})
        run.text("written meanwhile", "samples/one.txt")
        while "does not take what is told" not in (words := capsys.readouterr().err):
            time.sleep(0.1)
        assert words.count("does not take") == 1
        run.end("FINISHED")
        words = capsys.readouterr().err
        assert f"has not heard all of run {run.run_id}" in words
        assert f"the rest is in {workspace.journals / run.run_id}.jsonl" in words
        with pytest.raises(
            TrackingError, match=r"MLflow at http://127\.0\.0\.1:\d+ does not answer \(.*unset"
        ):
            Tracker(workspace)
        server.start()
        tracker = Tracker(workspace)
        wait_until_given_back(workspace, run.run_id)
        assert [left.failure for left in tracker.ship_left()] == [None]
        assert tracker.client.get_run(run.run_id).info.status == "FINISHED"
        told = points_of(tracker.client, run.run_id)
        assert told == {"train_loss": Counter(range(1, 2000)), "val_loss": Counter([1])}
        values = {p.step: p.value for p in tracker.client.get_metric_history(run.run_id, "train_loss")}
        assert values[1] != values[1], "no number stays no number"
        assert values[7] == 7 / 3
        text = Path(tracker.client.download_artifacts(run.run_id, "samples/one.txt"))
        assert text.read_text() == "written meanwhile"
        assert not list(workspace.journals.iterdir())


def wait_until_given_back(workspace: Workspace, run_id: str) -> None:
    """The thread that has given up lets go when its last request is over."""
    Journal(workspace.journals / f"{run_id}.jsonl", wait_seconds=60).close()


def test_a_server_that_hangs_stalls_neither_steps_nor_the_end(
    dataset: Dataset, workspace: Workspace, no_retries: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(workspace)
    run = tracker.start_run("r", dataset, {}, {})
    with hanging_server() as url:
        run._outbox._teller._client = MlflowClient(tracking_uri=url)
        for step in range(1, 100):
            run.metrics(step, {"train_loss": float(step)})
        run.end("FINISHED")
    assert "has not heard all" in capsys.readouterr().err
    wait_until_given_back(workspace, run.run_id)
    tracker.end_dead_run(run.run_id, "KILLED")
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED", "it had said its end itself"
    assert points_of(tracker.client, run.run_id) == {"train_loss": Counter(range(1, 100))}


def test_a_run_that_was_killed_is_closed_at_its_last_sign(dataset: Dataset, workspace: Workspace) -> None:
    tracker = Tracker(workspace)
    run = tracker.start_run("r", dataset, {}, {})
    run.metrics(1, {"train_loss": 1.0})
    with pytest.raises(JournalHeldError):
        tracker.end_dead_run(run.run_id)
    assert tracker.ship_left() == [], "it is being told"
    abandon(run)
    assert [left.run_id for left in tracker.ship_left()] == [run.run_id]
    assert tracker.client.get_run(run.run_id).info.status == "RUNNING", "shipping alone ends nothing"
    for _ in range(2):
        tracker.end_dead_run(run.run_id)
        info = tracker.client.get_run(run.run_id).info
        assert info.status == "KILLED"
        (point,) = tracker.client.get_metric_history(run.run_id, "train_loss")
        assert info.end_time == point.timestamp
    assert not list(workspace.journals.iterdir())


def abandon(run: TrainingLog) -> None:
    """As kill -9 does: nobody tells its end, and the kernel drops its lock."""
    run._outbox._given_up.set()
    run._outbox._wake.set()
    if run._outbox._thread.ident is None:
        run._outbox._journal.close()
    else:
        run._outbox._thread.join()


def test_a_run_of_another_store_keeps_its_journal(dataset: Dataset, workspace: Workspace) -> None:
    journal = Journal(workspace.journals / f"{'0' * 32}.jsonl")
    journal.append({"kind": "ended", "status": "FINISHED", "at_ms": 1})
    journal.close()
    (left,) = Tracker(workspace).ship_left()
    assert left.failure is not None
    assert "not found" in left.failure
    assert journal.path.exists()


def test_what_another_machine_has_told_meanwhile_is_not_told_again(
    dataset: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    tracker = Tracker(workspace)
    here = tracker.start_run("r", dataset, {}, {})
    for step in range(1, 10):
        here.metrics(step, {"train_loss": float(step)})
    abandon(here)  # its thread has not shipped: the pause is longer than this took
    elsewhere = Tracker(workspace)
    elsewhere.workspace = Workspace.at(tmp_path / "elsewhere")
    there = elsewhere.resume_run(here.run_id, {"where": "elsewhere"})
    for step in range(5, 20):
        there.metrics(step, {"train_loss": float(step)})
    there.end("KILLED")
    again = tracker.resume_run(here.run_id, {})
    for step in range(15, 25):
        again.metrics(step, {"train_loss": float(step)})
    again.end("FINISHED")
    steps = points_of(tracker.client, here.run_id)["train_loss"]
    assert set(steps.values()) == {1}
    assert set(steps) >= set(range(5, 25))


def test_what_the_store_refuses_holds_up_no_other(
    dataset: Dataset, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Tracker(workspace)
    run = tracker.start_run("r", dataset, {}, {})
    for step in range(1, 4):
        run.metrics(step, {"train_loss": 1.0} if step != 2 else {"no : such ? name": 1.0})
    run.end("FINISHED")
    assert points_of(tracker.client, run.run_id) == {"train_loss": Counter([1, 3])}
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"
    words = capsys.readouterr().err
    assert "refuses a points entry" in words
    assert "1 entries were refused" in words


def test_on_a_full_disk_the_training_goes_on_and_is_told_from_memory(
    dataset: Dataset, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "small", "size=16k") as disk:
        workspace.journals.symlink_to(disk)
        tracker = Tracker(workspace)
        run = tracker.start_run("r", dataset, {}, {})
        for step in range(1, 1000):
            run.metrics(step, {"train_loss": float(step)})
            run.flush()
        run.end("FINISHED")
        assert tracker.client.get_run(run.run_id).info.status == "FINISHED"
        assert points_of(tracker.client, run.run_id) == {"train_loss": Counter(range(1, 1000))}
    words = capsys.readouterr().err
    assert words.count("No space left on device; the training goes on, and MLflow is told from memory") == 1


def test_a_session_that_cannot_begin_leaves_no_run_that_seems_to_go_on(
    dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("tasks.session.KeptCheckpoints.drop_partials", fail)
    with pytest.raises(OSError, match="no"):
        Session(replace(REQUEST, dataset=dataset.reference), workspace)
    (run,) = Tracker(workspace).client.search_runs([Tracker(workspace).experiment_id])
    assert run.info.status == "FAILED"
