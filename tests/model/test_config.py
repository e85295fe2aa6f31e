"""Every check of a config fires, and recipes survive JSON and the command line."""

import json
import math
from typing import Any

import pytest

from model.config import (
    PRESETS,
    NetworkConfig,
    TrainingConfig,
    preset,
    recipe_from_dict,
    recipe_to_dict,
    with_settings,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "rnn"},
        {"vocabulary_size": 0},
        {"block_size": 0},
        {"layers": 0},
        {"heads": 0},
        {"width": 0},
        {"width": 130},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"activation": "swish"},
        {"norm": "none"},
        {"attention": "flash"},
        {"norm_kind": "batch"},
        {"positions": "sinusoidal"},
        {"logit_soft_cap": -1.0},
        {"width": 12, "heads": 4, "positions": "rotary"},
    ],
)
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        NetworkConfig(**({"vocabulary_size": 300} | wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"gradient_accumulation_steps": 0},
        {"gradient_accumulation_steps": 3},
        {"learning_rate": 0.0, "minimum_learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"minimum_learning_rate": 1.0},
        {"minimum_learning_rate": -1.0},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"gradient_clip_norm": -1.0},
        {"optimizer": "sgd"},
        {"schedule": "linear"},
        {"matrix_learning_rate": 0.0},
        {"matrix_momentum": 1.0},
        {"decay_share": 1.0},
        {"gradient_clip_norm": math.nan},
        {"seed": -1},
        {"device": "tpu"},
        {"precision": "float16"},
    ],
)
def test_a_training_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        TrainingConfig(**wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name: str) -> None:
    recipe = preset(name, vocabulary_size=300)
    assert recipe.network.vocabulary_size == 300
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe), allow_nan=False))) == recipe


def test_a_recipe_of_the_first_version_means_what_it_meant() -> None:
    values = recipe_to_dict(preset("pocket", vocabulary_size=300))
    for part, name in (("network", "norm_kind"), ("network", "positions"), ("training", "optimizer")):
        del values[part][name]
    assert recipe_from_dict(values) == preset("pocket", vocabulary_size=300)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no preset is called 'huge'; there are bigram, course"):
        preset("huge", vocabulary_size=300)


def test_all_of_modern_follows_from_its_depth() -> None:
    shallow, deep = (preset("modern", vocabulary_size=300, depth=depth) for depth in (4, 24))
    assert [one.network.width for one in (shallow, deep)] == [256, 1536]
    assert [one.network.heads for one in (shallow, deep)] == [2, 12]
    assert deep.training.batch_size * deep.network.block_size == 1 << 20
    assert deep.training.learning_rate == pytest.approx(shallow.training.learning_rate / math.sqrt(6))
    assert deep.training.steps * (1 << 20) == pytest.approx(20 * 12 * 24 * 1536**2, rel=0.001)
    assert preset("modern", vocabulary_size=300) == preset("modern", vocabulary_size=300, depth=12)


@pytest.mark.parametrize("depth", range(1, 65))
def test_every_depth_is_a_recipe(depth: int) -> None:
    recipe = preset("modern", vocabulary_size=300, depth=depth)
    assert recipe.training.batch_size >= recipe.training.gradient_accumulation_steps


@pytest.mark.parametrize(("name", "depth"), [("modern", 0), ("modern", 65), ("gpt2", 12)])
def test_a_depth_that_cannot_be_is_refused(name: str, depth: int) -> None:
    with pytest.raises(ValueError, match="--depth is"):
        preset(name, vocabulary_size=300, depth=depth)


def test_settings_replace_values_by_their_type() -> None:
    changed = with_settings(
        preset("pocket", vocabulary_size=300),
        {
            "training.steps": "500",
            "training.learning_rate": "1e-3",
            "network.width": "256",
            "network.bias": "true",
            "network.activation": "relu",
        },
    )
    assert (changed.training.steps, changed.training.learning_rate) == (500, 1e-3)
    assert (changed.network.width, changed.network.bias, changed.network.activation) == (256, True, "relu")


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("training.step", "1", "did you mean training.steps?"),
        ("steps", "1", "did you mean training.steps?"),
        ("xyzzy", "1", "there are network.kind"),
        ("training.steps", "many", "must be a whole number"),
        ("training.steps", "1.5", "must be a whole number"),
        ("network.dropout", "some", "must be a number"),
        ("network.bias", "maybe", "must be true or false"),
        ("network.activation", "swish", "one of relu, gelu, sigmoid, tanh"),
        ("network.heads", "3", "not a multiple"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(key: str, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        with_settings(preset("pocket", vocabulary_size=300), {key: text})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("network", {"experts": 8}, "experts"),
        ("network", {"layers": "4"}, "network.layers is '4'"),
        ("network", {"layers": True}, "network.layers is True"),
        ("network", {"bias": 1}, "network.bias is 1"),
        ("network", {"activation": None}, "network.activation is None"),
        ("training", {"learning_rate": "fast"}, "training.learning_rate is 'fast'"),
    ],
)
def test_a_recipe_of_another_kind_is_refused(part: str, change: dict[str, Any], message: str) -> None:
    values = recipe_to_dict(preset("pocket", vocabulary_size=300))
    values[part] |= change
    with pytest.raises(ValueError) as caught:
        recipe_from_dict(values)
    assert message in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"network": {}, "training": {}}, {"network": 1, "training": 2}])
def test_half_a_recipe_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="recipe"):
        recipe_from_dict(values)
