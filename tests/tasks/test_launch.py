"""A training by several processes: the same as by one, and all of them end together, however one ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from tiny_trainings import TINY, TRAIN

from storage.checkpoints import latest_checkpoint, load_tensors
from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks.interruption import InterruptedByUser
from tasks.launch import ProcessesError
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

TOLERANCE = 4e-4  # of losses about 5, in float32: sums in another order
SETTINGS = TINY | {
    "training.batch_size": "8",
    "training.gradient_accumulation_steps": "2",
    "training.device": "cpu",
}
CADENCE = Cadence(report_every_steps=1, evaluate_every_steps=2, save_every_steps=4)


def request_of(dataset: Dataset, *, processes: int = 2, **settings: str) -> TrainingRequest:
    changed = SETTINGS | {f"training.{key}": value for key, value in settings.items()}
    return TrainingRequest(dataset=dataset.reference, settings=changed, cadence=CADENCE, processes=processes)


def losses(workspace: Workspace, run_id: str) -> list[tuple[int, float]]:
    history = Tracker(workspace).client.get_metric_history(run_id, "train_loss")
    return sorted((point.step, point.value) for point in history)


def assert_same(workspace: Workspace, run_id: str, other_id: str) -> None:
    ours, theirs = losses(workspace, run_id), losses(workspace, other_id)
    assert [step for step, _ in ours] == [step for step, _ in theirs] == list(range(1, 13))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], abs=TOLERANCE)
    tensors, others = (
        load_tensors(latest_checkpoint(workspace.checkpoints / one)) for one in (run_id, other_id)
    )
    assert tensors.keys() == others.keys()
    assert all((tensors[name] - others[name]).abs().max() < 100 * TOLERANCE for name in tensors)


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    return [one for one in process.children(recursive=True) if "tasks.rank" in " ".join(one.cmdline())]


def test_two_processes_come_to_what_one_does(dataset: Dataset, workspace: Workspace) -> None:
    by_one = train(request_of(dataset, processes=1), workspace)
    by_two = train(request_of(dataset, parallelism="sharded"), workspace)
    assert by_one is not None
    assert by_two is not None
    assert by_two.steps == 12
    assert_same(workspace, by_two.run_id, by_one.run_id)
    assert Tracker(workspace).client.get_run(by_two.run_id).info.status == "FINISHED"


def test_processes_that_are_asked_to_stop_save_where_all_agree(
    dataset: Dataset, workspace: Workspace
) -> None:
    thread = threading.Thread(target=_signal_when, args=(workspace, signal.SIGTERM))
    thread.start()
    request = request_of(dataset, steps="100000")
    with pytest.raises(InterruptedByUser, match=r"stopped at step [\d,]+ of 100,000.*--resume") as stopped:
        train(replace(request, cadence=replace(CADENCE, report_every_steps=2)), workspace)
    thread.join()
    assert stopped.value.signal_number == signal.SIGTERM
    assert not ranks_of(psutil.Process())
    run_id = str(stopped.value).rsplit(" ", 1)[-1]
    assert Tracker(workspace).client.get_run(run_id).info.status == "KILLED"
    assert latest_checkpoint(workspace.checkpoints / run_id).step % 2 == 0, "where all looked"


def _signal_when(workspace: Workspace, number: int) -> None:
    """Sends this process a signal when there is a checkpoint."""
    while not list(workspace.checkpoints.glob("*/step-*/checkpoint.json")):
        time.sleep(0.05)
    os.kill(os.getpid(), number)


def test_a_process_that_dies_takes_the_others_along_and_is_told(
    dataset: Dataset, workspace: Workspace
) -> None:
    def kill_one() -> None:
        while not list(workspace.checkpoints.glob("*/step-*/checkpoint.json")):
            time.sleep(0.05)
        ranks_of(psutil.Process())[-1].kill()

    thread = threading.Thread(target=kill_one)
    thread.start()
    with pytest.raises(ProcessesError, match=r"died without a word; .*--resume [0-9a-f]{32}") as died:
        train(request_of(dataset, steps="100000"), workspace)
    thread.join()
    assert not ranks_of(psutil.Process())
    run_id = str(died.value).rsplit(" ", 1)[-1]
    assert Tracker(workspace).client.get_run(run_id).info.status == "FAILED"


def test_when_the_one_who_asked_is_killed_no_process_is_left(dataset: Dataset, workspace: Workspace) -> None:
    request = json.dumps(request_of(dataset, steps="100000").to_json())
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, request, workspace.root],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        while not list(workspace.checkpoints.glob("*/step-*/checkpoint.json")):
            assert process.poll() is None
            time.sleep(0.05)
        ranks = ranks_of(psutil.Process(process.pid))
        assert len(ranks) == 2
        process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive


def test_what_cannot_be_is_one_clear_line(dataset: Dataset, workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="batch_size 9 cannot be dealt out to 2 processes in 2 equal parts"):
        train(request_of(dataset, batch_size="9", gradient_accumulation_steps="3"), workspace)
    for wrong in ({"processes": 0}, {"nodes": 2}, {"node": 1}, {"rendezvous": "localhost:1"}):
        with pytest.raises(ValueError, match="--n"):
            TrainingRequest(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^--rendezvous localhost:no: no way there .* of machine 0$"):
        train(replace(request_of(dataset), nodes=2, rendezvous="localhost:no"), workspace)


def test_two_machines_meet_and_train_as_one(dataset: Dataset, workspace: Workspace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rendezvous = f"127.0.0.1:{free.getsockname()[1]}"
    request = replace(request_of(dataset, processes=1), nodes=2, rendezvous=rendezvous)
    command = [
        sys.executable,
        "-c",
        "from flows.command_line import main; main()",
        "train",
        dataset.reference,
    ]
    with subprocess.Popen(
        [
            *command,
            "--nodes=2",
            "--node=1",
            f"--rendezvous={rendezvous}",
            f"--workspace={workspace.root}",
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    ) as other:
        trained = train(request, workspace)
        _, words = other.communicate(timeout=60)
        assert other.returncode == 0, words
        assert "Machine 1 of 2 has done its part" in words
    by_one = train(request_of(dataset, processes=1), workspace)
    assert trained is not None
    assert by_one is not None
    assert len(Tracker(workspace).client.search_runs([Tracker(workspace).experiment_id])) == 2
    assert losses(workspace, trained.run_id)[-1][1] == pytest.approx(
        losses(workspace, by_one.run_id)[-1][1], abs=TOLERANCE
    )
