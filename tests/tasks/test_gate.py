"""The gate: who becomes champion, on real checkpoints, and why not."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.config import preset, recipe_to_dict, with_settings
from model.evaluation import evaluate
from model.training import Training
from storage.checkpoints import Checkpoint, load_tensors, save_checkpoint
from storage.datasets import Dataset
from storage.errors import CheckpointError
from storage.workspace import Workspace
from tasks.evaluation import Evaluation, evaluate_checkpoint
from tasks.gate import Champion, judge
from tasks.registry import MODEL_NAME, FoundModel, promote, register, roll_back
from tasks.samples import Samples
from tasks.tracking import ModelRegistry, Tracker


def trained(dataset: Dataset, workspace: Workspace, steps: int, skipped_updates: int = 0) -> Checkpoint:
    """A small model after so many steps, as a training would save it."""
    recipe = with_settings(
        preset("course", vocabulary_size=dataset.manifest.vocabulary_size),
        {
            "training.steps": str(steps),
            "training.learning_rate": "0.003",
            "network.width": "32",
            "network.heads": "2",
        },
    )
    training = Training(recipe, dataset.token_file("train").open(), dataset_digest=dataset.manifest.digest)
    for _ in training.steps():
        pass
    run = Tracker(workspace).start_run("r", dataset, {}, {})
    return save_checkpoint(
        workspace.checkpoints / run.run_id,
        step=steps,
        tensors=training.state().tensors,
        facts={
            "recipe": recipe_to_dict(recipe),
            "dataset": dataset.reference,
            "dataset_digest": dataset.manifest.digest,
            "val_loss": None,
            "run_id": run.run_id,
            "so_far": {"skipped_updates": skipped_updates},
        },
        tokenizer_json=dataset.tokenizer_json(),
    )


def evaluated(checkpoint: Checkpoint, workspace: Workspace) -> Evaluation:
    found = evaluate_checkpoint(checkpoint.path, None, workspace)
    return replace(
        found, samples=replace(found.samples, repetition=0.0)
    )  # of models as small as these, chance decides


def found(checkpoint: Checkpoint) -> FoundModel:
    return FoundModel(path=checkpoint.path, run_id=checkpoint.facts["run_id"])


def test_the_better_model_is_champion_and_the_worse_one_is_not(
    dataset: Dataset, workspace: Workspace
) -> None:
    short, long = (trained(dataset, workspace, steps) for steps in (5, 120))
    first = register(found(short), evaluated(short, workspace), workspace)
    assert (first.alias, first.version) == ("champion", "1")
    assert "it is the first" in first.reason
    better = register(found(long), evaluated(long, workspace), workspace)
    assert (better.alias, better.version) == ("champion", "2")
    assert "better than" in better.reason
    worse = register(found(short), evaluated(short, workspace), workspace)
    assert worse.alias == "challenger"
    assert "not better beyond chance" in worse.reason
    registry = ModelRegistry(workspace)
    assert registry.champion(MODEL_NAME).version == "2"  # type: ignore[union-attr]
    artifacts = registry.client.list_artifacts(short.facts["run_id"], "evaluation")
    assert [each.path for each in artifacts] == ["evaluation/against-champion.png"]


def test_promotion_by_hand_and_back(dataset: Dataset, workspace: Workspace) -> None:
    short, long = (trained(dataset, workspace, steps) for steps in (5, 120))
    for each in (long, short):
        register(found(each), evaluated(each, workspace), workspace)
    with pytest.raises(CheckpointError, match="no champion before this one"):
        roll_back(workspace)
    assert promote(f"{MODEL_NAME}/2", workspace).reason == "promoted by hand in place of version 1"
    registry = ModelRegistry(workspace)
    assert registry.champion(MODEL_NAME).version == "2"  # type: ignore[union-attr]
    described = registry.client.get_model_version(MODEL_NAME, "2").description
    assert described.startswith("champion: promoted by hand") and "challenger:" in described
    assert roll_back(workspace).version == "1"
    assert registry.champion(MODEL_NAME).version == "1"  # type: ignore[union-attr]
    for missing in (f"{MODEL_NAME}/9", "nothing/1", "a-run-id"):
        with pytest.raises(CheckpointError, match="no such version"):
            promote(missing, workspace)


def test_a_run_that_is_not_registered_is_promoted_with_what_the_gate_says_of_it(
    dataset: Dataset, workspace: Workspace
) -> None:
    short, long = (trained(dataset, workspace, steps) for steps in (5, 120))
    register(found(long), evaluated(long, workspace), workspace)
    promoted = promote(short.facts["run_id"], workspace)
    assert (promoted.version, promoted.alias) == ("2", "champion")
    assert promoted.reason == "promoted by hand in place of version 1"
    registry = ModelRegistry(workspace)
    assert "not better beyond chance" in registry.client.get_model_version(MODEL_NAME, "2").description
    assert registry.champion(MODEL_NAME).run_id == short.facts["run_id"]  # type: ignore[union-attr]
    assert roll_back(workspace).version == "1"
    other = workspace.checkpoints / "imported"
    facts = short.facts | {"run_id": None}
    save_checkpoint(
        other, step=0, tensors=load_tensors(short), facts=facts, tokenizer_json=short.tokenizer_json()
    )
    with pytest.raises(CheckpointError, match="has no run in MLflow"):
        promote("imported", workspace)


def test_what_speaks_against_a_model_outweighs_its_loss(dataset: Dataset, workspace: Workspace) -> None:
    short, long = trained(dataset, workspace, 5), trained(dataset, workspace, 120, skipped_updates=3)
    champion = Champion(version="1", path=short.path)
    alarmed = judge(evaluated(long, workspace), champion, workspace)
    assert alarmed.alias == "challenger"
    assert alarmed.comparison is not None and alarmed.comparison.difference.deviations < -2
    assert "the guard left 3 updates out" in "; ".join(alarmed.reasons)
    repeating = replace(
        evaluated(long, workspace),
        updates_left_out=0,
        samples=Samples(texts=["oz oz oz"], repetition=0.9, val_repetition=0.05, seen=0.0),
    )
    assert judge(repeating, champion, workspace).alias == "challenger"
    assert judge(repeating, None, workspace).alias == "challenger", "nor is it the first champion"
    silent = replace(repeating, samples=Samples(texts=[" ", ""], repetition=0, val_repetition=0, seen=0))
    assert "degenerate" in judge(silent, champion, workspace).reasons[-1]
    sound = replace(repeating, samples=replace(repeating.samples, repetition=0.1))
    assert judge(sound, champion, workspace).alias == "champion"


def test_a_champion_that_cannot_be_compared_stays(
    dataset: Dataset, workspace: Workspace, tmp_path: Path
) -> None:
    evaluation = evaluated(trained(dataset, workspace, 40), workspace)
    for path, why in ((None, "cannot be had"), (tmp_path / "gone", "cannot be measured")):
        verdict = judge(evaluation, Champion(version="7", path=path), workspace)
        assert verdict.alias == "challenger"
        assert why in verdict.reasons[0]


def test_measuring_is_done_once_for_the_same_bytes_and_is_exact(
    dataset: Dataset, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = trained(dataset, workspace, 5)
    first = evaluate_checkpoint(checkpoint.path, None, workspace)
    monkeypatch.setattr("tasks.evaluation.evaluate", lambda *_, **__: pytest.fail("measured again"))
    assert evaluate_checkpoint(checkpoint.path, None, workspace) == first
    (kept,) = workspace.evaluations.iterdir()
    kept.write_bytes(kept.read_bytes()[:-10])
    monkeypatch.setattr("tasks.evaluation.evaluate", evaluate)
    assert evaluate_checkpoint(checkpoint.path, None, workspace) == first, "a broken file is made anew"
    assert sum(group.tokens for group in first.by_source) == first.tokens == dataset.manifest.val.tokens
    assert sum(group.documents for group in first.by_length) == dataset.manifest.val.documents
    assert sum(each.tokens for each in first.calibration) == first.tokens
