"""Quantized models as checkpoints: smaller, complete, loaded like any other, and not to be trained on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_trainings import TINY

from model.quantization import QuantizationKind
from model.sampling import Sampling
from storage.checkpoints import load_tensors, network_sha256, read_checkpoint, save_checkpoint
from storage.datasets import Dataset
from storage.errors import CheckpointError
from storage.workspace import Workspace
from tasks.evaluation import evaluate_checkpoint
from tasks.loading import load_model
from tasks.quantization import log_quantization, measure_quantized, quantize_checkpoint
from tasks.registry import FoundModel, find_model
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, TrainingRequest

KINDS: list[QuantizationKind] = ["int8", "int4"]


@pytest.fixture
def model(dataset: Dataset, workspace: Workspace) -> FoundModel:
    """A trained model, wide enough that scales do not weigh."""
    settings = TINY | {"network.width": "64"}
    request = TrainingRequest(
        dataset=dataset.reference, settings=settings, cadence=Cadence(evaluate_every_steps=12)
    )
    return find_model(train(request, workspace).run_id, workspace)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_is_a_checkpoint_like_any_other(
    kind: QuantizationKind, model: FoundModel, dataset: Dataset, workspace: Workspace
) -> None:
    saved = quantize_checkpoint(model, kind, workspace)
    parent = read_checkpoint(model.path)
    assert saved.path == workspace.checkpoints / f"{model.run_id}-{kind}" / parent.path.name
    assert saved.facts["quantization"] == kind
    assert saved.facts["parent"] == {
        "run_id": model.run_id, "path": str(model.path), "sha256": network_sha256(parent),
    }  # fmt: skip
    assert sorted(file.name for file in saved.path.iterdir()) == [
        "checkpoint.json",
        "network.safetensors",
        "tokenizer.json",
    ]
    assert saved.network_bytes < (0.33 if kind == "int8" else 0.22) * parent.network_bytes
    # The same bits after the way over the disk, and again when it is quantized again.
    tensors = load_file(saved.path / "network.safetensors")
    loaded = load_model(saved.path)
    for name, tensor in loaded.network.state_dict().items():
        assert torch.equal(tensor.cpu(), tensors[f"network.{name}"])
    before = (saved.path / "checkpoint.json").read_bytes()
    assert quantize_checkpoint(model, kind, workspace).path == saved.path
    assert (saved.path / "checkpoint.json").read_bytes() == before

    found = find_model(f"{model.run_id}-{kind}", workspace)
    assert found == FoundModel(path=saved.path, run_id=None), "its figures are not those of the parent's run"
    assert "".join(loaded.write("The ", tokens=20, sampling=Sampling(seed=3))) == "".join(
        loaded.write("The ", tokens=20, sampling=Sampling(seed=3))
    )
    exact, ours = (evaluate_checkpoint(path, None, workspace) for path in (model.path, saved.path))
    assert ours.dataset == dataset.reference
    assert ours.val_loss == pytest.approx(exact.val_loss, abs=0.005 if kind == "int8" else 0.1)
    assert ours.val_loss != exact.val_loss


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_measured_against_its_parent_and_the_figures_are_in_mlflow(
    kind: QuantizationKind, model: FoundModel, workspace: Workspace
) -> None:
    saved = quantize_checkpoint(model, kind, workspace)
    report = measure_quantized(model, saved, None, workspace)
    ours, whole, half = (report.variant(name) for name in (kind, "float32", "bfloat16"))
    exact = evaluate_checkpoint(saved.path, None, workspace)
    assert ours.val_loss == pytest.approx(exact.val_loss, rel=1e-6)
    assert ours.val_bits_per_byte == pytest.approx(exact.val_bits_per_byte, rel=1e-6)
    assert report.tokens == exact.tokens
    assert report.windows == math.ceil(exact.tokens / 16)
    assert ours.over_float32.difference == pytest.approx(ours.val_loss - whole.val_loss)
    assert ours.over_bfloat16.difference == pytest.approx(ours.val_loss - half.val_loss)
    assert 0 < ours.over_float32.standard_error < 0.05
    assert whole.over_float32.difference == whole.over_float32.standard_error == 0
    assert ours.bytes < half.bytes < whole.bytes == model.path.joinpath("network.safetensors").stat().st_size
    assert min(one.evaluation_tokens_per_second for one in report.variants) > 0
    assert min(one.generation_tokens_per_second for one in report.variants) > 0

    log_quantization(report, model, workspace)
    assert model.run_id is not None
    logged = Tracker(workspace).client.get_run(model.run_id).data.metrics
    assert logged[f"quantized_{kind}/val_loss"] == ours.val_loss
    assert logged[f"quantized_{kind}/bytes_over_float32"] == report.bytes_over_float32
    assert logged[f"quantized_{kind}/loss_over_bfloat16_standard_error"] > 0
    assert "val_loss_exact" not in logged, "that is the parent's own"
    log_quantization(replace(report, dataset_digest="0" * 32, dataset="other@1"), model, workspace)
    logged = Tracker(workspace).client.get_run(model.run_id).data.metrics
    assert logged[f"other-1/quantized_{kind}/val_loss"] == ours.val_loss


def test_a_bigram_is_quantized_too(dataset: Dataset, workspace: Workspace) -> None:
    settings = {"training.steps": "4", "training.batch_size": "4"}
    trained = train(TrainingRequest(dataset=dataset.reference, preset="bigram", settings=settings), workspace)
    saved = quantize_checkpoint(find_model(trained.run_id, workspace), "int8", workspace)
    assert "".join(load_model(saved.path).write("", tokens=5))


def test_it_cannot_be_trained_on_nor_quantized_again(
    model: FoundModel, dataset: Dataset, workspace: Workspace
) -> None:
    saved = quantize_checkpoint(model, "int8", workspace)
    name = f"{model.run_id}-int8"
    with pytest.raises(
        CheckpointError, match="has no optimizer; it is for use, and training cannot go on"
    ) as error:
        train(TrainingRequest(dataset=dataset.reference, resume=name), workspace)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"is quantized already, to int8; quantize the model .*{model.path}"):
        quantize_checkpoint(find_model(name, workspace), "int4", workspace)
    assert sorted(path.name for path in workspace.checkpoints.iterdir()) == sorted([model.run_id or "", name])
    with pytest.raises(CheckpointError, match="has no optimizer"):
        load_tensors(saved)


def test_bad_models_are_refused(model: FoundModel, workspace: Workspace, tmp_path: Path) -> None:
    parent = read_checkpoint(model.path)
    tensors = load_tensors(parent)
    tensors["network.embedding.position.weight"][0, 0] = math.nan
    bad = save_checkpoint(
        tmp_path / "bad",
        step=1,
        tensors=tensors,
        facts={key: fact for key, fact in parent.facts.items() if key != "run_id"},
        tokenizer_json=parent.tokenizer_json(),
    )
    with pytest.raises(ValueError, match=r"embedding\.position\.weight has a number that is not finite"):
        quantize_checkpoint(FoundModel(path=bad.path, run_id=None), "int8", workspace)
    assert not (workspace.checkpoints / "bad-int8").exists()
    with pytest.raises(ValueError, match="no quantization is called 'int2'"):
        quantize_checkpoint(model, "int2", workspace)  # type: ignore[arg-type]


def test_a_checkpoint_of_another_model_is_not_taken_for_this_ones(
    model: FoundModel, workspace: Workspace
) -> None:
    saved = quantize_checkpoint(model, "int8", workspace)
    record = json.loads((saved.path / "checkpoint.json").read_text())
    record["facts"]["parent"]["sha256"] = "0" * 64
    (saved.path / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is of another model; remove it, and quantize again"):
        quantize_checkpoint(model, "int8", workspace)
    record["facts"]["quantization"] = "int4"
    (saved.path / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="tensor network"):
        load_model(saved.path)
