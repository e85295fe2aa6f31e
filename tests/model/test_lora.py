"""Adapters alone learn, come to the same when merged, and resume to the bit like any training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_trainings import losses_of

from model.config import (
    LoraConfig,
    NetworkConfig,
    Recipe,
    TrainingConfig,
    preset,
    recipe_from_dict,
    recipe_to_dict,
)
from model.fine_tuning import fine_tuning_recipe
from model.lora import adapter_of, add_adapters, merged, trainable_count
from model.network import build_network, empty_network, network_from, parameter_count
from model.training import Training

LORA = LoraConfig(rank=4, alpha=8.0, targets=("attention",))
RECIPE = Recipe(
    network=NetworkConfig(vocabulary_size=40, block_size=16, layers=2, heads=2, width=32, dropout=0.1),
    training=TrainingConfig(
        steps=12, batch_size=6, gradient_accumulation_steps=3, warmup_steps=3, device="cpu", precision="float32",
    ),
    lora=LORA,
)  # fmt: skip
MUON = replace(RECIPE, training=replace(RECIPE.training, optimizer="muon"))
TOKENS = np.random.default_rng(0).integers(0, 40, 3_000).astype(np.uint16)
PARENT = {f"network.{name}": one for name, one in build_network(RECIPE.network, seed=5).state_dict().items()}


def new_training(recipe: Recipe = RECIPE) -> Training:
    return Training(recipe, TOKENS, dataset_digest="digest", first_weights=PARENT)


def logits_of(network: torch.nn.Module) -> torch.Tensor:
    ids = torch.from_numpy(TOKENS[:64].astype(np.int64)).view(4, 16)
    with torch.inference_mode():
        logits: torch.Tensor = network.eval()(ids)
    return logits


def test_the_first_step_begins_at_the_parent_and_adapters_alone_learn() -> None:
    training = new_training()
    assert torch.equal(logits_of(training.network), logits_of(network_from(RECIPE.network, PARENT)))
    losses = losses_of(training, until=12)
    assert losses[-1] < losses[0]
    after = training.state().tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in PARENT.items()), "not a bit of the base"
    adapters = adapter_of(after)
    assert len(adapters) == 2 * 4 * RECIPE.network.layers
    assert all(tensor.abs().sum() > 0 for tensor in adapters.values())
    kept = {name.split(".", 1)[1].rsplit(".", 1)[0] for name in after if name.startswith("optimizer.")}
    assert kept == {name.removeprefix("network.") for name in adapters}
    assert trainable_count(training.network) == sum(tensor.numel() for tensor in adapters.values())


@pytest.mark.parametrize("targets", [("attention",), ("attention.query", "feed_forward"), ("head",)])
def test_merged_equals_adapter(targets: tuple[str, ...]) -> None:
    network = replace(RECIPE.network, tied_head=False, bias=True, dropout=0.0)
    parent = {f"network.{name}": one for name, one in build_network(network, seed=5).state_dict().items()}
    lora = replace(LORA, targets=targets)
    fast = replace(RECIPE.training, learning_rate=0.1)
    training = Training(
        Recipe(network=network, training=fast, lora=lora), TOKENS, dataset_digest="d", first_weights=parent
    )
    losses_of(training, until=12)
    together = merged(training.state().tensors, lora)
    logits = logits_of(training.network)
    assert (logits - logits_of(network_from(network, together))).abs().max() < 1e-5
    assert (logits - logits_of(network_from(network, parent))).abs().max() > 1e-2, "something was learnt"


@pytest.mark.parametrize("recipe", [RECIPE, MUON], ids=["adamw", "muon"])
def test_a_resumed_fine_tuning_equals_an_uninterrupted_one_to_the_bit(recipe: Recipe) -> None:
    whole = new_training(recipe)
    losses = losses_of(whole, until=12)
    first = new_training(recipe)
    before = losses_of(first, until=5)
    saved = first.state()
    losses_of(first, until=7)
    second = Training(recipe, TOKENS, dataset_digest="digest")  # its state is all that it needs
    second.load(saved)
    assert before + losses_of(second, until=12) == losses
    ours, theirs = second.state().tensors, whole.state().tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_accumulation_gives_the_same_losses() -> None:
    still = replace(RECIPE, network=replace(RECIPE.network, dropout=0.0))
    parts = [
        losses_of(new_training(replace(still, training=replace(still.training, gradient_accumulation_steps=n))), until=6)
        for n in (1, 6)
    ]  # fmt: skip
    assert parts[0] == pytest.approx(parts[1], abs=1e-5)


@pytest.mark.parametrize(("name", "most"), [("baby", 0.02), ("gpt2", 0.01)])
def test_the_default_adapters_are_few(name: str, most: float) -> None:
    network = empty_network(preset(name, vocabulary_size=50_257 if name == "gpt2" else 320).network)
    add_adapters(network, LoraConfig(), seed=0)
    assert 0 < trainable_count(network) / parameter_count(network) <= most


def test_what_has_no_such_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no head to adapt \(there: attention, .*feed_forward"):
        add_adapters(build_network(RECIPE.network, seed=0), LoraConfig(targets=("attention", "head")), seed=0)
    bigram = build_network(NetworkConfig(kind="bigram", vocabulary_size=8), seed=0)
    with pytest.raises(ValueError, match=r"has no attention to adapt \(there: none\).*without --lora"):
        add_adapters(bigram, LORA, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "lora.rank is 0"),
        ({"alpha": 0.0}, "lora.alpha is 0.0"),
        ({"targets": ("query",)}, "lora.targets has 'query'; there are attention, attention.query"),
        ({"targets": ()}, "lora.targets is empty"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**changes)  # type: ignore[arg-type]


def test_an_adapter_that_does_not_fit_is_refused() -> None:
    tensors = new_training().state().tensors
    name = "network.blocks.0.attention.key.lora_up"
    with pytest.raises(ValueError, match=f"tensor {name} is missing"):
        merged({key: tensor for key, tensor in tensors.items() if key != name}, LORA)
    with pytest.raises(ValueError, match=r"attention\.key\.weight has the shapes"):
        merged(tensors | {name: torch.zeros(32, 5)}, LORA)


def test_a_recipe_with_adapters_is_read_back_and_one_without_says_nothing_of_them() -> None:
    assert recipe_from_dict(recipe_to_dict(RECIPE)) == RECIPE
    assert set(recipe_to_dict(replace(RECIPE, lora=None))) == {"network", "training"}
    broken = recipe_to_dict(RECIPE) | {"lora": {"rank": 4, "alpha": 8.0, "targets": "attention"}}
    with pytest.raises(ValueError, match=r"lora\.targets is 'attention'; it must be a list"):
        recipe_from_dict(broken)


def test_the_plan_of_a_fine_tuning_is_gentler_and_the_network_the_parents() -> None:
    parent = preset("gpt2", vocabulary_size=50)
    full = fine_tuning_recipe(parent, None, {"training.steps": "7", "network.dropout": "0.1"})
    assert full.network == replace(parent.network, dropout=0.1)
    assert full.training.steps == 7
    assert full.training.learning_rate == pytest.approx(parent.training.learning_rate / 10)
    assert (full.training.batch_size, full.training.gradient_accumulation_steps) == (24, 2)
    modern = preset("modern", vocabulary_size=50)
    assert fine_tuning_recipe(modern, None, {}).training.optimizer == "muon"
    assert fine_tuning_recipe(modern, LORA, {}).training.optimizer == "adamw"
    assert fine_tuning_recipe(modern, LORA, {}).lora == LORA
    with pytest.raises(ValueError, match=r"network\.width cannot be set: the network is the parent's"):
        fine_tuning_recipe(parent, None, {"network.width": "4"})
