"""A fine-tuning is a training that begins elsewhere: resumed to the bit, its parent recorded, its adapters usable by themselves."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_data import build_plainly
from tiny_trainings import TINY

from model.config import LoraConfig
from storage.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    load_tensors,
    network_sha256,
    read_checkpoint,
)
from storage.datasets import Dataset
from storage.errors import CheckpointError
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.adapters import save_adapter
from tasks.evaluation import measure
from tasks.fine_tuning import ADAPTER_NAME, exact_losses, keep_adapter, plan_fine_tuning
from tasks.loading import load_model
from tasks.registry import find_model
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, FineTuning, TrainedModel, TrainingRequest

LORA = LoraConfig(rank=2, alpha=4.0)
CADENCE = Cadence(report_every_steps=1, evaluate_every_steps=2, save_every_steps=4)


@pytest.fixture
def parent(dataset: Dataset, workspace: Workspace) -> TrainedModel:
    """A trained model."""
    return trained(TrainingRequest(dataset=dataset.reference, settings=TINY, cadence=CADENCE), workspace)


@pytest.fixture
def own(parent: TrainedModel, workspace: Workspace, tmp_path: Path) -> Dataset:
    """Other text, encoded with the parent's tokenizer, as its folder names it."""
    texts = [(f"{n}.txt", f"{n} The crows talk of the road home, {n * n}.".encode() * 9) for n in range(40)]
    write_shard(tmp_path / "crows" / "one.xz", texts)
    return build_plainly(tmp_path / "crows", workspace, name="crows", tokenizer=str(parent.checkpoint))


def trained(request: TrainingRequest, workspace: Workspace) -> TrainedModel:
    model = train(request, workspace)
    assert model is not None
    return model


def request_for(
    own: Dataset, parent: TrainedModel, lora: LoraConfig | None = LORA, **settings: str
) -> TrainingRequest:
    return TrainingRequest(
        dataset=own.reference,
        settings={f"training.{key}": value for key, value in ({"learning_rate": "0.01"} | settings).items()},
        cadence=CADENCE,
        fine_tuning=FineTuning(model=parent.run_id, lora=lora),
    )


def test_the_parent_is_recorded_and_the_base_unchanged(
    parent: TrainedModel, own: Dataset, workspace: Workspace
) -> None:
    tuned = trained(request_for(own, parent), workspace)
    checkpoint, base = read_checkpoint(tuned.checkpoint), read_checkpoint(parent.checkpoint)
    assert checkpoint.facts["parent"]["network_sha256"] == network_sha256(base)
    assert checkpoint.facts["parent"]["run_id"] == parent.run_id
    tensors, before = (load_tensors(one, network_only=True) for one in (checkpoint, base))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
    run = Tracker(workspace).client.get_run(tuned.run_id)
    assert run.data.tags["parent.run_id"] == parent.run_id
    assert run.data.tags["parent.checkpoint_sha256"] == network_sha256(base)
    assert run.data.params["lora.rank"] == "2"
    plan = plan_fine_tuning(request_for(own, parent), workspace)
    assert run.data.params["trainable_parameters"] == str(plan.trainable_parameters) == str(2 * 2 * 2 * 16)
    assert plan.parent_dataset == base.facts["dataset"]
    losses = [exact_losses(path, [own.reference], workspace)[own.reference].loss for path in (parent.checkpoint, tuned.checkpoint)]  # fmt: skip
    assert losses[1] < losses[0]


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "adapters"])
def test_a_fine_tuning_that_was_cut_goes_on_to_the_same_bytes(
    lora: LoraConfig | None, parent: TrainedModel, own: Dataset, workspace: Workspace
) -> None:
    request = request_for(own, parent, lora)
    whole = trained(request, workspace)
    cut = trained(request, workspace)
    for checkpoint in list_checkpoints(workspace.checkpoints / cut.run_id)[1:]:
        shutil.rmtree(checkpoint.path)
    resume = replace(request, resume=cut.run_id, settings=None, fine_tuning=FineTuning(model=parent.run_id))
    assert trained(resume, workspace).run_id == cut.run_id
    ours, theirs = (latest_checkpoint(workspace.checkpoints / one.run_id) for one in (cut, whole))
    assert ours.step == 12
    tensors = load_tensors(theirs)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in load_tensors(ours).items())
    assert ours.facts["parent"] == theirs.facts["parent"]


def test_an_adapter_by_itself_is_small_and_does_what_its_checkpoint_does(
    parent: TrainedModel, own: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    tuned = trained(request_for(own, parent), workspace)
    stored = keep_adapter(tuned, workspace)
    assert stored is not None
    names = {file.name for file in stored.path.iterdir()}
    assert names == {"network.safetensors", "tokenizer.json", "checkpoint.json"}
    assert len(load_tensors(read_checkpoint(stored.path), network_only=True)) == 4
    whole, alone = load_model(tuned.checkpoint), load_model(stored.path)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, alone.network.state_dict()[name])
    assert measure(alone, own, workspace).loss == measure(whole, own, workspace).loss
    registered = find_model(f"{ADAPTER_NAME}/{stored.version}", workspace)
    assert registered.run_id == tuned.run_id
    assert torch.equal(load_model(registered.path).network.norm.weight, whole.network.norm.weight)
    moved = shutil.copytree(parent.checkpoint, tmp_path / "moved")
    assert load_model(stored.path, base=moved).network.config == whole.network.config


def test_an_adapter_refuses_another_base_by_name(
    parent: TrainedModel, own: Dataset, workspace: Workspace
) -> None:
    tuned = trained(request_for(own, parent), workspace)
    adapter = save_adapter(read_checkpoint(tuned.checkpoint))
    other = next(
        one.path
        for one in list_checkpoints(workspace.checkpoints / parent.run_id)
        if one.path != parent.checkpoint
    )
    with pytest.raises(
        CheckpointError, match=rf"is an adapter of run {parent.run_id}, step .*; {other} is another"
    ):
        load_model(adapter.path, base=other)
    shutil.rmtree(parent.checkpoint)
    with pytest.raises(
        CheckpointError, match=rf"its base is not at {parent.checkpoint}; put the base .* back there"
    ):
        load_model(adapter.path)


def test_a_fine_tuned_model_can_be_fine_tuned(
    parent: TrainedModel, own: Dataset, workspace: Workspace
) -> None:
    first = trained(request_for(own, parent, steps="4"), workspace)
    second = trained(request_for(own, first, steps="4"), workspace)
    assert read_checkpoint(second.checkpoint).facts["parent"]["run_id"] == first.run_id
    merged = load_model(first.checkpoint).network.state_dict()
    tensors = load_tensors(read_checkpoint(second.checkpoint), network_only=True)
    assert all(torch.equal(tensors[f"network.{name}"], tensor) for name, tensor in merged.items())


def test_what_cannot_be_is_refused_before_any_work(
    parent: TrainedModel, own: Dataset, workspace: Workspace, tiny_corpus: Path, dataset: Dataset
) -> None:
    bytes_alone = build_plainly(tiny_corpus, workspace, name="other", tokenizer="bpe:300")
    folder = parent.checkpoint / "tokenizer.json"
    with pytest.raises(
        ValueError,
        match=rf"another tokenizer than .*; build it with: .* {tiny_corpus} .*--tokenizer {folder}",
    ):
        train(request_for(bytes_alone, parent), workspace)
    with pytest.raises(ValueError, match=r"training\.stepz.*did you mean training\.steps"):
        plan_fine_tuning(request_for(own, parent, stepz="4"), workspace)
    with pytest.raises(ValueError, match="a fine-tuning has its parent's network: leave out --preset"):
        replace(request_for(own, parent), preset="baby")
    with pytest.raises(ValueError, match="a resumed run keeps its recipe"):
        replace(request_for(own, parent), settings=None, resume="run")
    other = trained(
        TrainingRequest(dataset=dataset.reference, settings=TINY | {"training.seed": "5"}), workspace
    )
    tuned = trained(request_for(own, parent, steps="4"), workspace)
    resume = replace(request_for(own, other, None), settings=None)
    with pytest.raises(
        ValueError, match=f"{tuned.run_id} did not begin from {other.run_id}, but from {parent.checkpoint}"
    ):
        train(replace(resume, resume=tuned.run_id), workspace)
    with pytest.raises(ValueError, match="but from a seed's weights: go on with brickroad train"):
        train(replace(resume, dataset=dataset.reference, resume=parent.run_id), workspace)


def test_a_request_is_read_back_by_another_process() -> None:
    request = TrainingRequest(fine_tuning=FineTuning(model="m", lora=LORA), settings={"training.steps": "4"})
    assert TrainingRequest.from_json(request.to_json()) == request
    assert request.going_on("d@1", "run") == "brickroad finetune m --dataset d@1 --resume run"
    assert TrainingRequest.from_json(TrainingRequest().to_json()) == TrainingRequest()
