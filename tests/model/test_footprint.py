"""What a training is said to take in memory is what is there."""

from dataclasses import replace

import pytest

from model.config import NetworkConfig, Recipe, TrainingConfig, preset
from model.footprint import _saved_bytes, footprint
from model.network import build_network
from model.optimizers import Optimizers

RECIPE = Recipe(
    network=NetworkConfig(vocabulary_size=50, block_size=32, layers=5, heads=2, width=32, dropout=0.1),
    training=TrainingConfig(device="cpu", precision="float32"),
)


@pytest.mark.parametrize("kind", ["gpt", "bigram", "modern", "course", "bfloat16"])
@pytest.mark.parametrize("windows", [1, 4, 7])
def test_activations_of_any_number_of_windows_and_layers_follow_from_four(kind: str, windows: int) -> None:
    recipe = RECIPE
    if kind == "bigram":
        recipe = replace(recipe, network=replace(recipe.network, kind="bigram", layers=1))
    elif kind == "bfloat16":
        recipe = replace(recipe, training=replace(recipe.training, precision="bfloat16"))
    elif kind != "gpt":
        found = preset(kind, vocabulary_size=50, depth=3 if kind == "modern" else None)
        recipe = replace(found, training=replace(found.training, device="cpu", precision="float32"))
    taken = footprint(recipe)
    expected = _saved_bytes(recipe, windows, recipe.network.layers)
    assert taken.constant_activations + windows * taken.window_activations == pytest.approx(
        expected, rel=0.01
    )


def test_what_is_held_is_counted() -> None:
    muon = replace(RECIPE, training=replace(RECIPE.training, optimizer="muon"))
    for recipe in (RECIPE, muon):
        network = build_network(recipe.network, seed=0)
        parameters = sum(weight.numel() for weight in network.parameters())
        taken = footprint(recipe)
        assert taken.weights == taken.gradients == 4 * parameters
        tensors = Optimizers(network, recipe.training).expected().values()
        assert taken.optimizer == sum(4 * tensor.numel() for tensor in tensors)
    assert footprint(muon).optimizer < footprint(RECIPE).optimizer == pytest.approx(8 * parameters, rel=0.01)


def test_shared_is_what_is_held_and_not_what_is_computed() -> None:
    taken = footprint(RECIPE)
    held = taken.weights + taken.gradients + taken.optimizer
    assert taken.bytes(3) - taken.bytes(3, shared_by=4) == held - held // 4
    assert taken.bytes(4) - taken.bytes(3) == taken.window_activations + 2 * 4 * 32 * 50
