"""The flows on a real Prefect server: states, reuse, artifacts, and links both ways."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_data import build_plainly

from model.config import LoraConfig
from storage.errors import ShardError
from storage.shards import find_shards, write_shard
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.engine import dataset_key
from tasks.evaluation import evaluate_checkpoint
from tasks.ingest import IngestedShard, ingest_shard
from tasks.prompts import PromptsConfig
from tasks.quality import QualityConfig
from tasks.tracking import Tracker
from tasks.training import train
from tasks.training_request import Cadence, FineTuning, TrainingRequest
from tasks.workers import Workers

pytestmark = pytest.mark.usefixtures("prefect_server")

TINY = {
    "training.steps": "6",
    "training.batch_size": "4",
    "network.block_size": "16",
    "network.width": "16",
    "network.layers": "1",
    "network.heads": "2",
}


def test_the_whole_road_and_the_same_road_again(tiny_corpus: Path, workspace: Workspace) -> None:
    from prefect.client.orchestration import get_client

    from flows.run_pipeline import run_pipeline

    config = CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1, workers=2)
    request = TrainingRequest(settings=TINY, cadence=Cadence(report_every_steps=1))
    first = run_pipeline(config, request, workspace=workspace.root)
    assert (first.built.built_parts, first.built.reused_parts) == (12, 0)
    assert first.version.alias == "champion"
    second = run_pipeline(config, request, workspace=workspace.root)
    assert (second.built.built_parts, second.built.reused_parts) == (0, 12)
    assert second.built.dataset == first.built.dataset
    assert second.model.evaluation.val_loss == first.model.evaluation.val_loss, (
        "the same seed, the same model"
    )
    assert second.version.alias == "challenger", "an equal model does not replace the champion"

    tags = Tracker(workspace).client.get_run(first.model.trained.run_id).data.tags
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(tags["prefect.flow_run_id"])
        cards = client.read_artifacts()
    keys = {artifact.key for artifact in cards}
    markdown = [a.data for a in cards if a.key == "training"]
    assert flow_run.name == tags["prefect.flow_run_name"] == f"train {first.built.dataset.reference}"
    dataset_card = dataset_key(first.built.dataset.manifest.name, first.built.dataset.manifest.digest)
    assert {dataset_card, "training", "evaluation", "gate", "ingest", "encode", "train"} <= keys
    assert f"/artifacts/key/{dataset_card}" in tags["mlflow.note.content"], (
        "MLflow leads to the data set's card"
    )
    assert tags["prefect.flow_run_url"] in tags["mlflow.note.content"], "and to the run"
    assert first.built.dataset.reference in flow_run.tags
    assert any("data:image/svg+xml;base64," in str(card) for card in markdown), "a training shows its curve"
    gates = [str(a.data) for a in cards if a.key == "gate"]
    assert any("champion before, version 1" in card for card in gates), "the second is beside the first"
    assert any(first.model.trained.run_id in str(card) for card in markdown), "Prefect leads to MLflow"


@pytest.mark.parametrize("workers", [1, 3])
def test_the_digest_does_not_depend_on_workers(tiny_corpus: Path, tmp_path: Path, workers: int) -> None:
    from flows.build_dataset import build_dataset

    one = build_dataset(
        CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1, workers=workers), workspace=tmp_path / "a"
    )
    two = build_dataset(
        CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1, workers=2), workspace=tmp_path / "b"
    )
    facts = [
        {name: (file.bytes, file.sha256) for name, file in built.dataset.manifest.files.items()}
        for built in (one, two)
    ]
    assert facts[0] == facts[1]
    assert one.dataset.manifest.digest == two.dataset.manifest.digest


def test_a_cut_shard_fails_the_flow_by_name_and_a_mended_one_heals_it(
    tiny_corpus: Path, workspace: Workspace
) -> None:
    from flows.build_dataset import build_dataset

    shard = tiny_corpus / "urlsf_subset00-7_data.xz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    config = CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1)
    with pytest.raises(ShardError, match=r"urlsf_subset00-7_data\.xz: is cut off"):
        build_dataset(config, workspace=workspace.root)
    assert not list(workspace.datasets.glob("*/*/manifest.json"))
    shard.write_bytes(whole)
    built = build_dataset(config, workspace=workspace.root)
    assert (built.built_parts, built.reused_parts) == (1, 11), "only the mended shard is read"


def test_a_build_sweeps_its_own_leftovers_and_no_checkpoint_that_is_being_written(
    tiny_corpus: Path, workspace: Workspace
) -> None:
    from flows.build_dataset import build_dataset

    being_written = workspace.checkpoints / "run" / ".stage.1234.partial"
    left_behind = workspace.documents / ".part.parquet.1234.partial"
    for path in (being_written, left_behind):
        path.mkdir(parents=True)
    build_dataset(CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1), workspace=workspace.root)
    assert being_written.is_dir()
    assert not left_behind.exists()


def test_a_data_set_is_rebuilt_to_the_same_bytes_elsewhere_by_more_workers(
    tiny_corpus: Path, workspace: Workspace, tmp_path: Path
) -> None:
    from flows.rebuild_dataset import rebuild_dataset

    quality = QualityConfig(drop_exact_duplicates=True, drop_near_duplicates=0.8)
    config = CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1, workers=3, quality=quality)
    with Workers(1) as workers:
        dataset = build(config, workspace, workers)
    elsewhere = tmp_path / "another" / "place"
    elsewhere.mkdir(parents=True)
    assert rebuild_dataset(str(dataset.path), workspace=elsewhere) == []
    assert [path.name for path in elsewhere.iterdir()] == ["leases"], "what says who was at work here"


def test_a_build_that_fails_leaves_nothing_of_what_its_other_workers_were_writing(
    tiny_corpus: Path, workspace: Workspace
) -> None:
    from flows.build_dataset import build_dataset

    large = ("large.txt", b"The road goes on and on, through the poppies.\n" * 1_500_000)
    write_shard(tiny_corpus / "urlsf_subset00-1b_data.xz", [large])
    config = CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1, workers=2)
    stored = ingest_shard(find_shards(str(tiny_corpus))[0], workspace.root / "apart", config.reading, 0.1)
    assert isinstance(stored, IngestedShard)
    in_the_way = workspace.documents / stored.part.path.name
    (in_the_way / "a folder that is not empty").mkdir(parents=True)
    with pytest.raises(OSError, match=in_the_way.name):
        build_dataset(config, workspace=workspace.root)
    assert not list(workspace.root.rglob("*.partial"))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "the disk had a bad moment"), RuntimeError("the GPU fell off the bus")],
    ids=["the task is tried again", "the flow is tried again"],
)
def test_a_retry_goes_on_with_the_same_run(
    error: Exception, tiny_corpus: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    from flows import train_model as module
    from tasks import kept_checkpoints

    dataset = build_plainly(tiny_corpus, workspace)
    monkeypatch.setattr(module.train_task, "retry_delay_seconds", 0)
    original, steps = kept_checkpoints.save_checkpoint, []

    def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
        steps.append(kwargs["step"])
        if steps == [2, 4]:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(kept_checkpoints, "save_checkpoint", save_checkpoint)
    request = TrainingRequest(
        dataset=dataset.reference, settings=TINY, cadence=Cadence(report_every_steps=1, save_every_steps=2)
    )

    @flow(retries=1, persist_result=False)
    def scheduled() -> str:
        return module.train_model(request, workspace=workspace.root).trained.run_id

    run_id = scheduled()
    assert steps == [2, 4, 4, 6], "the second try went on from the checkpoint of the first"
    tracker = Tracker(workspace)
    assert [run.info.run_id for run in tracker.client.search_runs([tracker.experiment_id])] == [run_id]
    points = tracker.client.get_metric_history(run_id, "train_loss")
    assert sorted(point.step for point in points) == [1, 2, 3, 4, 5, 6]
    root = tracker.client.get_run(run_id).data.tags["prefect.root_flow_run_id"]
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(root).name != f"train {dataset.reference}", "the flow that was started"
    scheduled()
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 2, "another flow run, another training"


def test_a_fine_tuning_measures_what_it_learns_and_forgets_and_keeps_its_adapters(
    tiny_corpus: Path, workspace: Workspace, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    from flows.finetune_model import finetune_model

    dataset = build_plainly(tiny_corpus, workspace)
    parent = train(TrainingRequest(dataset=dataset.reference, settings=TINY), workspace)
    assert parent is not None
    prompts = tmp_path / "crows.jsonl"
    lines = [json.dumps({"prompt": f"{n}", "response": "caw " * (n % 3 + 1)}) for n in range(80)]
    prompts.write_text("\n".join(lines))
    request = TrainingRequest(
        settings={"training.steps": "20", "training.learning_rate": "0.05"},
        fine_tuning=FineTuning(model=parent.run_id, lora=LoraConfig(rank=2)),
    )
    config = PromptsConfig(file=str(prompts), prompt_format="{prompt}:", val_fraction=0.2)
    tuned = finetune_model(request, config, workspace=workspace.root)
    assert tuned.own.dataset.startswith("crows@")
    assert tuned.own.after < tuned.own.before
    assert tuned.forgetting is not None
    assert tuned.forgetting.dataset == dataset.reference
    assert (
        tuned.forgetting.before
        == evaluate_checkpoint(parent.checkpoint, dataset.reference, workspace).val_loss
    )
    assert tuned.plan.trainable_parameters == 2 * 2 * 2 * 16
    assert tuned.adapter is not None
    run = Tracker(workspace).client.get_run(tuned.trained.run_id)
    assert run.data.metrics["forgetting/before"] == tuned.forgetting.before
    assert run.data.metrics["forgetting/after"] == tuned.forgetting.after
    assert run.data.tags["parent.run_id"] == parent.run_id
    with get_client(sync_client=True) as client:
        cards = [str(artifact.data) for artifact in client.read_artifacts() if artifact.key == "fine-tuning"]
    assert any(tuned.own.dataset in card and dataset.reference in card for card in cards)

    shutil.rmtree(dataset.path)
    again = finetune_model(
        TrainingRequest(
            dataset=tuned.own.dataset,
            resume=tuned.trained.run_id,
            fine_tuning=FineTuning(model=parent.run_id),
        ),
        workspace=workspace.root,
    )
    assert again.forgetting is None, "its parent's data set is not here any more"
    assert again.trained.run_id == tuned.trained.run_id
    assert again.adapter is not None
    assert again.adapter.path == tuned.adapter.path
