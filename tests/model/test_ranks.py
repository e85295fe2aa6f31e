"""Several processes make the step of one: replicated or sharded, whatever the parts, and from one another's states."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.config import LoraConfig, NetworkConfig, Parallelism, Recipe, TrainingConfig, recipe_to_dict
from model.evaluation import estimate_loss
from model.ranks import ALONE, Ranks
from model.training import Training

#: Of losses about 3.7 in float32, since sums are made in another order. Muon rounds to bfloat16 on its way.
TOLERANCES = {"adamw": 4e-4, "muon": 2e-3}

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(
    network=NetworkConfig(vocabulary_size=40, block_size=16, layers=2, heads=2, width=32),
    training=TrainingConfig(
        steps=12,
        batch_size=8,
        gradient_accumulation_steps=4,
        warmup_steps=3,
        device="cpu",
        precision="float32",
    ),
)
MODERN = Recipe(
    network=replace(
        RECIPE.network, norm_kind="rms", positions="rotary", query_key_norm=True, activation="relu_squared",
        tied_head=False, logit_soft_cap=15.0,
    ),
    training=replace(RECIPE.training, optimizer="muon", schedule="stable", gradient_accumulation_steps=1),
)  # fmt: skip
ADAPTED = replace(RECIPE, lora=LoraConfig(rank=4))
TOKENS = np.random.default_rng(0).integers(0, 40, 3_000).astype(np.uint16)


def trained_by(
    ranks: int,
    recipe: Recipe,
    folder: Path,
    *,
    until: int = 12,
    state: dict[str, Any] | None = None,
    learnt: np.ndarray | None = None,
) -> dict[str, Any]:
    """What a training by so many processes came to, from a state if there is one."""
    asked, told, saved = folder / "asked", folder / "told", folder / "state"
    if state:
        torch.save({"step": state["step"]} | state["tensors"], saved)
    asked.write_text(
        json.dumps(
            {
                "recipe": recipe_to_dict(recipe),
                "tokens": TOKENS.tolist(),
                "learnt": None if learnt is None else learnt.tolist(),
                "until": until,
                "state": str(saved) if state else None,
            }
        )
    )
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                ROOT / "tests" / "support" / "rank_losses.py",
                asked,
                told,
                f"file://{folder}/meeting-{until}",
            ],
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in range(ranks)
    ]
    assert [process.wait() for process in processes] == [0] * ranks
    found: dict[str, Any] = torch.load(told, weights_only=True)
    return found


def trained_alone(recipe: Recipe, learnt: np.ndarray | None = None) -> dict[str, Any]:
    training = Training(recipe, TOKENS, dataset_digest="digest", learnt=learnt)
    reports = [(report.train_loss, report.gradient_norm) for report in training.steps()]
    val_loss = estimate_loss(training.network, TOKENS, windows=8)
    return {"reports": reports, "val_loss": val_loss, "step": 12, "tensors": training.state().tensors}


def assert_same(
    found: dict[str, Any], expected: dict[str, Any], recipe: Recipe, *, first_step: int = 0
) -> None:
    tolerance = TOLERANCES[recipe.training.optimizer]
    assert found["step"] == expected["step"]
    for our_report, their_report in zip(found["reports"], expected["reports"][first_step:], strict=True):
        assert our_report == pytest.approx(their_report, abs=tolerance)
    assert found["val_loss"] == pytest.approx(expected["val_loss"], abs=tolerance)
    assert found["tensors"].keys() == expected["tensors"].keys()
    for name, tensor in expected["tensors"].items():
        assert (found["tensors"][name] - tensor).abs().max() < 100 * tolerance, name


@pytest.mark.parametrize(
    "recipe", [RECIPE, MODERN, ADAPTED], ids=["adamw, parts", "muon", "adapters alone learn"]
)
@pytest.mark.parametrize("parallelism", ["replicated", "sharded"])
def test_two_processes_make_the_steps_of_one_and_go_on_from_a_state(
    recipe: Recipe, parallelism: Parallelism, tmp_path: Path
) -> None:
    recipe = replace(recipe, training=replace(recipe.training, parallelism=parallelism))
    half = trained_by(2, recipe, tmp_path, until=6)
    assert half["step"] == 6
    assert_same(trained_by(2, recipe, tmp_path, state=half), trained_alone(recipe), recipe, first_step=6)


def test_four_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    assert_same(trained_by(4, RECIPE, tmp_path), trained_alone(RECIPE), RECIPE)


def test_two_processes_average_over_what_is_learnt_of_the_whole_batch(tmp_path: Path) -> None:
    learnt = (np.random.default_rng(1).random(len(TOKENS)) < np.linspace(0.1, 0.9, len(TOKENS))).astype(
        np.uint8
    )
    recipe = replace(RECIPE, training=replace(RECIPE.training, gradient_accumulation_steps=2))
    learnt[1 :: RECIPE.network.block_size + 1] = 1  # at least one of each row
    assert_same(trained_by(2, recipe, tmp_path, learnt=learnt), trained_alone(recipe, learnt), recipe)


def test_the_windows_of_all_ranks_are_the_batch_whatever_their_number_and_the_parts() -> None:
    windows = np.arange(24)
    for size in (1, 2, 3, 4):
        for parts in (1, 2):
            shares = [Ranks(rank=rank, size=size).share(windows, parts) for rank in range(size)]
            assert all(share.shape == (parts, 24 // parts // size) for share in shares)
            for part, whole in enumerate(windows.reshape(parts, -1)):
                assert np.concatenate([share[part] for share in shares]).tolist() == whole.tolist()


def test_a_batch_that_cannot_be_dealt_out_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 8 cannot be dealt out to 3 processes in 2 equal parts"):
        Training(RECIPE, TOKENS, dataset_digest="digest", ranks=Ranks(rank=0, size=3))


def test_parts_are_shared_and_never_larger_than_alone() -> None:
    assert [Ranks(size=size).parts(40) for size in (1, 2, 8, 16, 64)] == [40, 20, 5, 3, 1]
    assert Ranks(size=8).share(np.arange(480), Ranks(size=8).parts(40)).shape == (5, 12), "nanoGPT's GPT-2"


def test_alone_nobody_is_asked() -> None:
    assert ALONE.is_first
    assert ALONE.all_of("a") == ["a"]
    assert ALONE.from_first("a") == "a"
    assert ALONE.mean(torch.tensor(2.0)) == 2.0
