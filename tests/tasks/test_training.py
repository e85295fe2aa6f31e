"""Training as a unit of work: resumed to the bit, logged once, stopped with everything saved."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tiny_data import build_plainly
from tiny_trainings import TINY

from model import batches, training
from model.optimizers import Optimizers
from model.order import DataOrder
from model.ranks import Ranks
from model.sampling import Sampling
from model.training import DivergedError
from storage import blocks, checkpoints, datasets
from storage.blocks import BLOCK_BYTES, FileFacts, FileRange
from storage.checkpoints import latest_checkpoint, list_checkpoints, verified_sha256
from storage.datasets import Dataset
from storage.errors import CheckpointError, DatasetError
from storage.workspace import Workspace
from tasks import session, tracking
from tasks.evaluation import evaluate_checkpoint
from tasks.interruption import InterruptedByUser
from tasks.loading import load_model
from tasks.look import trace_token
from tasks.registry import MODEL_NAME, FoundModel, find_model, register
from tasks.report import log_evaluation
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest


def tiny_request(dataset: Dataset, **settings: str) -> TrainingRequest:
    return TrainingRequest(
        dataset=dataset.reference,
        settings=TINY
        | {"network.dropout": "0.1"}
        | {f"training.{key}": value for key, value in settings.items()},
        cadence=Cadence(report_every_steps=1, evaluate_every_steps=2, save_every_steps=4),
    )


def test_a_run_leaves_checkpoints_curves_parameters_and_the_data_set(
    dataset: Dataset, workspace: Workspace
) -> None:
    trained = train(tiny_request(dataset), workspace)
    run = Tracker(workspace).client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["network.width"] == "16"
    assert [one.dataset.digest for one in run.inputs.dataset_inputs] == [dataset.manifest.digest]
    history = Tracker(workspace).client.get_metric_history(trained.run_id, "train_loss")
    assert [point.step for point in history] == list(range(1, 13))
    kept = list_checkpoints(workspace.checkpoints / trained.run_id)
    assert {c.step for c in kept} >= {8, 12}
    assert trained.checkpoint in {c.path for c in kept}
    models = Tracker(workspace).client.search_logged_models([run.info.experiment_id])
    assert {int(model.params["step"]) for model in models} == {c.step for c in kept}


def test_the_machine_is_watched_meanwhile(
    dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    trained = train(tiny_request(dataset, steps="100"), workspace)
    metrics = Tracker(workspace).client.get_run(trained.run_id).data.metrics
    assert metrics["system/cpu_utilization_percentage"] >= 0
    assert metrics["system/system_memory_usage_megabytes"] > 0


Moment = Literal[
    "logging", "second part of a step", "evaluation", "saving", "sampling", "talk of ranks", "update"
]


@pytest.mark.parametrize(
    ("moment", "step", "stopped_at", "number"),
    [
        ("logging", 6, 6, signal.SIGTERM),
        ("second part of a step", 1, 0, signal.SIGTERM),
        ("second part of a step", 7, 6, signal.SIGINT),
        ("update", 7, 7, signal.SIGTERM),
        ("evaluation", 6, 6, signal.SIGTERM),  # no checkpoint is due
        ("evaluation", 8, 8, signal.SIGINT),  # one is
        ("evaluation", 12, 12, signal.SIGTERM),  # the last one
        ("saving", 8, 8, signal.SIGTERM),
        ("sampling", 8, 8, signal.SIGINT),
        ("talk of ranks", 7, 7, signal.SIGTERM),  # after they said that nobody was asked
    ],
)
def test_a_run_that_is_stopped_at_any_moment_goes_on_to_the_same_bytes(
    moment: Moment,
    step: int,
    stopped_at: int,
    number: signal.Signals,
    dataset: Dataset,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = tiny_request(dataset, gradient_accumulation_steps="2")
    whole = train(request, workspace)
    with monkeypatch.context() as patch:
        signal_at(moment, step, number, patch)
        with pytest.raises(
            InterruptedByUser, match=rf"stopped at step {stopped_at} of 12.*--resume"
        ) as stopped:
            train(request, workspace)
    assert stopped.value.signal_number == number
    run_id = str(stopped.value).rsplit(" ", 1)[-1]
    client = Tracker(workspace).client
    assert client.get_run(run_id).info.status == "KILLED"
    assert latest_checkpoint(workspace.checkpoints / run_id).step == stopped_at
    resumed = train(
        TrainingRequest(dataset=dataset.reference, resume=run_id, cadence=request.cadence), workspace
    )
    assert resumed.run_id == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    ours, theirs = (latest_checkpoint(workspace.checkpoints / one.run_id) for one in (resumed, whole))
    assert verified_sha256(ours) == verified_sha256(theirs)
    assert ours.facts["so_far"] == theirs.facts["so_far"]
    assert ours.facts["val_loss"] == theirs.facts["val_loss"]
    for key, points in (("train_loss", range(1, 13)), ("val_loss", range(2, 13, 2))):
        history, expected = (client.get_metric_history(one.run_id, key) for one in (resumed, whole))
        assert sorted({(point.step, point.value) for point in history}) == sorted(
            {(point.step, point.value) for point in expected}
        )
        assert {point.step for point in history} == set(points)
    history = client.get_metric_history(run_id, "train_loss")
    assert len(history) == 12, "every point once"


def signal_at(moment: Moment, step: int, number: signal.Signals, patch: pytest.MonkeyPatch) -> None:
    """Has this process send itself a signal when a training comes to this moment of this step (from 1)."""
    owner: Any
    owner, name = {
        "logging": (tracking.TrainingLog, "metrics"),
        "second part of a step": (batches, "gather"),
        "update": (Optimizers, "step"),
        "evaluation": (session, "estimate_loss"),
        "saving": (checkpoints, "save_tensors"),
        "sampling": (session.Session, "sample"),
        "talk of ranks": (Ranks, "all_of"),
    }[moment]
    original = getattr(owner, name)
    sessions: list[training.Training] = []
    patch.setattr(training.Training, "__init__", _noting(training.Training.__init__, sessions))
    calls = list[int]()

    def signalling(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        done = sessions[0].step if sessions else 0
        at = done + (1 if moment in ("second part of a step", "update") else 0)
        if at == step:
            calls.append(at)
            if len(calls) == (2 if moment == "second part of a step" else 1):
                os.kill(os.getpid(), number)
        return result

    patch.setattr(owner, name, signalling)


def _noting(function: Callable[..., None], made: list[Any]) -> Callable[..., None]:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        function(self, *args, **kwargs)
        made.append(self)

    return init


def test_a_resumed_run_refuses_another_data_set(
    dataset: Dataset, workspace: Workspace, tmp_path: Path, tiny_corpus: Path
) -> None:
    trained = train(tiny_request(dataset, steps="4"), workspace)
    checkpoint = latest_checkpoint(workspace.checkpoints / trained.run_id)
    record = json.loads((checkpoint.path / "checkpoint.json").read_text())
    record["facts"]["dataset_digest"] = "0" * 32
    (checkpoint.path / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="was trained on data set 0000"):
        train(TrainingRequest(dataset=dataset.reference, resume=trained.run_id), workspace)


@pytest.mark.parametrize("check_all", [True, False])
@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_data_set_with_a_flipped_bit_is_not_trained_on(
    name: str, check_all: bool, dataset: Dataset, workspace: Workspace
) -> None:
    path = dataset.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{name}: bytes differ in block 0 of 64 MiB; "):
        train(replace(tiny_request(dataset), check_all_data=check_all), workspace)
    path.write_bytes(content[:-2])
    with pytest.raises(DatasetError, match=rf"{name}: has not the .* bytes that are recorded"):
        train(replace(tiny_request(dataset), check_all_data=check_all), workspace)
    assert not workspace.checkpoints.exists()


def test_some_blocks_are_looked_at_and_in_time_all(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [FileRange(path=dataset.path / "train.bin", start=n * BLOCK_BYTES, bytes=1) for n in range(9)]
    monkeypatch.setattr(datasets, "block_ranges", lambda path, size: pieces)
    for name in ("train.bin", "val.bin"):
        size = (dataset.path / name).stat().st_size
        facts = FileFacts(bytes=size, sha256="", block_sha256=["good"] * 9)
        monkeypatch.setitem(dataset.manifest.files, name, facts)
    monkeypatch.setattr(datasets, "_wrong_manifest", lambda dataset: [])
    seen = set[int]()

    def looked_at(piece: FileRange) -> str:
        seen.add(piece.start // BLOCK_BYTES)
        return "good"

    monkeypatch.setattr(blocks, "range_sha256", looked_at)
    datasets.refuse_damaged(dataset, blocks=2)
    assert 2 <= len(seen) <= 4, "two of each of two files"
    for _ in range(100):
        datasets.refuse_damaged(dataset, blocks=2)
    assert seen == set(range(9))
    seen.clear()
    datasets.refuse_damaged(dataset, blocks=None)
    assert seen == set(range(9))


def test_resume_takes_no_preset() -> None:
    with pytest.raises(ValueError, match="keeps its recipe"):
        TrainingRequest(dataset="d", resume="r", preset="baby")


def test_a_depth_means_the_preset_modern() -> None:
    request = TrainingRequest(depth=2)
    assert request.chosen_preset == "modern"
    assert request.recipe(vocabulary_size=300).network.layers == 2
    with pytest.raises(ValueError, match="--depth is the dial of the preset modern; baby"):
        TrainingRequest(preset="baby", depth=2)
    with pytest.raises(ValueError, match="keeps its recipe"):
        TrainingRequest(resume="r", depth=2)


def test_a_misspelt_setting_is_found_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"training\.stepz.*did you mean training\.steps"):
        TrainingRequest(settings={"training.stepz": "5"})
    with pytest.raises(ValueError, match="no preset is called 'giant'"):
        TrainingRequest(preset="giant")


def test_a_diverged_run_ends_as_failed_and_names_the_last_good_checkpoint(
    dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = tiny_request(dataset, learning_rate="1e30", minimum_learning_rate="1e30", gradient_clip_norm="0")
    with pytest.raises(
        DivergedError, match=r"val loss at step 2 is nan; .*; there is no checkpoint from before"
    ):
        train(wild, workspace)
    break_steps(monkeypatch, set(range(7, 30)))
    with pytest.raises(
        DivergedError, match=r"10 steps in a row, up to step 16.*good checkpoint is .*step-00000012"
    ):
        train(tiny_request(dataset, steps="20"), workspace)
    runs = Tracker(workspace).client.search_runs([Tracker(workspace).experiment_id])
    assert [run.info.status for run in runs] == ["FAILED", "FAILED"]


def break_steps(patch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """The losses of these steps (from 1) are no numbers."""
    original = training.Training._accumulate_gradients

    def accumulate_gradients(self: training.Training) -> Any:
        loss = original(self)
        return loss * math.nan if self.step + 1 in steps else loss

    patch.setattr(training.Training, "_accumulate_gradients", accumulate_gradients)


def test_what_was_not_learnt_from_is_named_with_its_documents(
    dataset: Dataset,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    break_steps(monkeypatch, {5, 7})
    request = replace(
        tiny_request(dataset),
        cadence=Cadence(report_every_steps=6, evaluate_every_steps=12, save_every_steps=12),
    )
    trained = train(request, workspace)
    assert trained.skipped_updates == 2
    assert "step 5 was not learnt from: loss nan" in capsys.readouterr().err
    client = Tracker(workspace).client
    points = client.get_metric_history(trained.run_id, "skipped_updates")
    assert [(point.step, point.value) for point in points] == [(6, 1), (12, 2)]
    paths = {one.path for one in client.list_artifacts(trained.run_id, "skipped")}
    assert paths == {"skipped/step-00000005.json", "skipped/step-00000007.json"}
    told = json.loads(
        Path(client.download_artifacts(trained.run_id, "skipped/step-00000005.json")).read_text()
    )
    assert told["train_loss"] == "nan"
    order = DataOrder(
        dataset_digest=dataset.manifest.digest,
        seed=1337,
        tokens=dataset.manifest.train.tokens,
        block_size=16,
        batch_size=4,
    )
    assert told["windows"] == order.window_starts(4).tolist()
    places = {offset for start in told["windows"] for offset in range(start, start + 17)}
    expected = {trace_token(dataset, "train", offset).sha256 for offset in places}
    assert {document["sha256"] for document in told["documents"]} == expected


def test_a_training_stops_when_its_patience_is_out_and_stays_so(
    dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 4.0, 4.5, 4.2, 4.0, 3.0])
    monkeypatch.setattr(session, "estimate_loss", lambda *args, **kwargs: next(losses))
    request = tiny_request(dataset, patience="3")
    trained = train(request, workspace)
    assert (trained.steps, trained.ran_out_of_patience) == (10, True)
    assert latest_checkpoint(workspace.checkpoints / trained.run_id).step == 10
    assert find_model(trained.run_id, workspace).path.name == "step-00000004", "the best"
    assert Tracker(workspace).client.get_run(trained.run_id).info.status == "FINISHED"
    resume = TrainingRequest(dataset=dataset.reference, resume=trained.run_id, cadence=request.cadence)
    assert train(resume, workspace).steps == 10


def test_throughput_goes_on_where_it_was(
    dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        signal_at("logging", 6, signal.SIGTERM, patch)
        with pytest.raises(InterruptedByUser) as stopped:
            train(tiny_request(dataset), workspace)
    run_id = str(stopped.value).rsplit(" ", 1)[-1]
    before = latest_checkpoint(workspace.checkpoints / run_id).facts["throughput"]
    assert before["tokens"] == 5 * 4 * 16, "the first look of a sitting is warm-up"
    cadence = tiny_request(dataset).cadence
    trained = train(TrainingRequest(dataset=dataset.reference, resume=run_id, cadence=cadence), workspace)
    after = latest_checkpoint(workspace.checkpoints / run_id).facts["throughput"]
    assert after["tokens"] == before["tokens"] + 5 * 4 * 16
    assert trained.tokens_per_second == after["tokens"] / after["seconds"]


def test_a_trained_model_is_evaluated_registered_found_and_writes(
    dataset: Dataset, workspace: Workspace
) -> None:
    trained = train(tiny_request(dataset), workspace)
    found = find_model(trained.run_id, workspace)
    assert found == FoundModel(path=trained.checkpoint, run_id=trained.run_id)
    evaluation = evaluate_checkpoint(found.path, None, workspace)
    assert evaluation.dataset_digest == dataset.manifest.digest
    assert evaluation.tokens == dataset.manifest.val.tokens
    assert 0 < evaluation.val_loss < evaluation.references.uniform
    log_evaluation(evaluation, found, workspace)
    client = Tracker(workspace).client
    metrics = client.get_run(trained.run_id).data.metrics
    assert metrics["val_loss_exact"] == pytest.approx(evaluation.val_loss)
    assert {"loss-curves.png", "samples"} <= {one.path for one in client.list_artifacts(trained.run_id)}

    log_evaluation(
        replace(evaluation, dataset="other@123", dataset_digest="0" * 32, val_loss=9.0), found, workspace
    )
    metrics = client.get_run(trained.run_id).data.metrics
    assert metrics["val_loss_exact"] == pytest.approx(evaluation.val_loss), "another data set is not mixed in"
    assert metrics["other-123/val_loss_exact"] == 9.0

    version = register(found, evaluation, workspace)
    assert (version.name, version.version, version.alias) == (MODEL_NAME, "1", "champion")
    assert register(found, evaluation, workspace).alias == "challenger", "an equal one is not better"
    texts = []
    for reference in (trained.run_id, f"{MODEL_NAME}/1", f"{MODEL_NAME}@champion", str(trained.checkpoint)):
        loaded = load_model(find_model(reference, workspace).path)
        texts.append("".join(loaded.write("the road", tokens=30, sampling=Sampling(seed=3))))
    assert len(set(texts)) == 1
    assert texts[0]


def test_the_registered_model_is_served_by_mlflow_itself(dataset: Dataset, workspace: Workspace) -> None:
    import mlflow

    trained = train(tiny_request(dataset, steps="4"), workspace)
    found = find_model(trained.run_id, workspace)
    register(found, evaluate_checkpoint(found.path, None, workspace), workspace)
    tracker = Tracker(workspace)
    source = tracker.client.get_model_version(MODEL_NAME, "1").source
    served = mlflow.pyfunc.load_model(source)
    request = {"prompt": "the ", "tokens": 12, "temperature": 0.8, "top_k": None, "seed": 5}
    loaded = load_model(found.path)
    expected = "".join(loaded.write("the ", tokens=12, sampling=Sampling(seed=5)))
    assert served.predict([request]) == [expected]
    others = [request | {"prompt": f"{number}", "stop": ["e"]} for number in range(20)]
    assert served.predict([request, *others])[0] == expected


def test_an_unknown_model_is_one_line_with_the_way_out(workspace: Workspace) -> None:
    for reference in ("nobody", "brickroad-gpt@champion", "brickroad-gpt/7", "/no/such/folder"):
        with pytest.raises(CheckpointError, match=r"no such model .* give a run id"):
            find_model(reference, workspace)


def test_a_file_for_a_model_is_not_opened(workspace: Workspace, tmp_path: Path) -> None:
    pickle = tmp_path / "model.pt"
    pickle.write_bytes(b"\x80\x04cposix\nsystem\n")
    pickle.chmod(0)
    with pytest.raises(
        CheckpointError, match=r"model\.pt: is a file, which was not opened: a pickle can run any"
    ):
        find_model(str(pickle), workspace)


def test_a_model_refuses_tokens_of_another_tokenizer(
    dataset: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    from storage.shards import write_shard

    trained = train(tiny_request(dataset, steps="4"), workspace)
    write_shard(tmp_path / "o" / "a.xz", [(f"{i}.txt", f"xyz {i} äöü".encode() * 9) for i in range(40)])
    other = build_plainly(tmp_path / "o", workspace)
    with pytest.raises(ValueError, match="encoded with another tokenizer"):
        evaluate_checkpoint(trained.checkpoint, other.reference, workspace)


def test_documents_are_kept_apart_where_that_is_asked_for(dataset: Dataset, workspace: Workspace) -> None:
    request = tiny_request(dataset)
    settings = {**(request.settings or {}), "network.documents": "apart"}
    trained = train(replace(request, settings=settings), workspace)
    loaded = load_model(trained.checkpoint)
    assert loaded.network.config.end_of_text == dataset.manifest.end_of_text
    assert np.isfinite(evaluate_checkpoint(trained.checkpoint, None, workspace).val_loss)
    assert "".join(loaded.write("the road", tokens=5))
