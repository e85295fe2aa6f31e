"""A certificate is for trainings that are the same, killed or not, and says so if they are not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from storage.checkpoints import list_checkpoints
from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks import certificate
from tasks.certificate import Certificate, CertificationError, Outcome, Round, certify_resume
from tasks.left_runs import close_left_runs
from tasks.tracking import Tracker
from tasks.training_request import Cadence, TrainingRequest

# Dropout and accumulation are on, and Muon beside AdamW.
SETTINGS = {
    "training.steps": "120",
    "training.batch_size": "4",
    "training.gradient_accumulation_steps": "2",
    "training.warmup_steps": "2",
    "training.device": "cpu",
    "network.block_size": "16",
    "network.width": "16",
    "network.layers": "1",
    "network.heads": "2",
    "network.dropout": "0.1",
    "training.optimizer": "muon",
    "network.positions": "rotary",
    "network.norm_kind": "rms",
}
MUON = {"training.optimizer": "muon", "network.positions": "rotary", "network.norm_kind": "rms"}


@pytest.mark.parametrize("more", [{}, MUON], ids=["adamw", "muon"])
def test_killed_trainings_go_on_to_the_same_bytes(
    more: dict[str, str], dataset: Dataset, workspace: Workspace
) -> None:
    certified = certify_resume(
        TrainingRequest(dataset=dataset.reference, settings=SETTINGS | more), workspace
    )
    assert certified.ok
    assert [one.moment for one in certified.rounds] == [
        "between checkpoints",
        "while a checkpoint was written",
    ]
    assert len({certified.whole.run_id, *(one.outcome.run_id for one in certified.rounds)}) == 3
    tracker = Tracker(workspace)
    for one in certified.rounds:
        assert 30 <= one.resumed_from < 120
        run_id = one.outcome.run_id
        assert [step for step, _ in history(tracker, run_id)] == list(range(1, 121)), (
            "no loss is missing or twice"
        )
        assert tracker.client.get_run(run_id).data.tags["certificate"] == "the same"
        written = Path(tracker.client.download_artifacts(run_id, "certificate.json"))
        assert json.loads(written.read_text())["whole"]["weights_sha256"] == one.outcome.weights_sha256
        assert not list((workspace.checkpoints / run_id).glob("*.partial"))


def test_a_training_that_was_killed_before_is_no_part_of_it(dataset: Dataset, workspace: Workspace) -> None:
    request = TrainingRequest(dataset=dataset.reference, settings=SETTINGS)
    cadence = Cadence(report_every_steps=1, evaluate_every_steps=120, save_every_steps=30)
    killed = certificate._killed(replace(request, cadence=cadence), workspace, "between checkpoints")
    assert close_left_runs(workspace) == [killed], "anybody else who asks for the same goes on with it"
    certified = certify_resume(request, workspace)
    assert certified.ok
    assert killed not in {certified.whole.run_id, *(one.outcome.run_id for one in certified.rounds)}


def history(tracker: Tracker, run_id: str) -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(run_id, "train_loss")
    return sorted((point.step, point.value) for point in points)


def test_what_differs_is_not_certified() -> None:
    whole = Outcome(run_id="a", weights_sha256="1", optimizer_sha256="2", losses_sha256="3")
    same = Round(moment="between checkpoints", resumed_from=1, outcome=replace(whole, run_id="b"))
    good = Certificate(dataset="d", recipe="r", steps=4, whole=whole, rounds=[same])
    assert good.ok
    for name in ("weights_sha256", "optimizer_sha256", "losses_sha256"):
        other = replace(same, outcome=replace(same.outcome, **{name: "other"}))
        assert not replace(good, rounds=[same, other]).ok


def test_another_seed_has_another_outcome(dataset: Dataset, workspace: Workspace) -> None:
    requests = [
        TrainingRequest(
            dataset=dataset.reference, settings=SETTINGS | {"training.steps": "4", "training.seed": seed}
        )
        for seed in ("1", "2")
    ]
    first, second = (
        certificate._outcome(certificate._trained(one, workspace), Tracker(workspace)) for one in requests
    )
    assert first.weights_sha256 != second.weights_sha256
    assert first.optimizer_sha256 != second.optimizer_sha256
    assert first.losses_sha256 != second.losses_sha256


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (TrainingRequest(dataset="d", resume="r"), "leave out --resume"),
        (TrainingRequest(dataset="d", processes=2), "leave out --nproc"),
        (TrainingRequest(dataset="d", settings={"training.steps": "3"}), "needs at least 4"),
    ],
)
def test_what_cannot_be_certified_is_refused(
    request_: TrainingRequest, message: str, workspace: Workspace
) -> None:
    with pytest.raises(ValueError, match=message):
        certify_resume(request_, workspace)


def test_a_training_that_fails_is_no_certificate(
    workspace: Workspace, dataset: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    too_long = SETTINGS | {"network.block_size": "1000000"}
    with pytest.raises(CertificationError, match="ended with status 1"):
        certify_resume(TrainingRequest(dataset=dataset.reference, settings=too_long), workspace)
    assert "fewer than two windows" in capfd.readouterr().err
    assert not [one for folder in workspace.checkpoints.glob("*") for one in list_checkpoints(folder)]
