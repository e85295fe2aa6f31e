"""Owns what there is to choose: the shape of a network, the plan of its training, and the presets of the ladder."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

NetworkKind = Literal["bigram", "gpt"]
Activation = Literal["relu", "gelu", "sigmoid", "tanh", "relu_squared"]
Norm = Literal["pre", "post"]
NormKind = Literal["layer", "rms"]
Positions = Literal["learned", "rotary"]
Documents = Literal["joined", "apart"]
AttentionKernel = Literal["sdpa", "explicit"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "stable"]
Parallelism = Literal["replicated", "sharded"]
Compilation = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The shape of a network. The defaults are those of the preset `pocket`.

    `block_size` is the longest context, in tokens. A `bigram` has a table of vocabulary_size x vocabulary_size
    and ignores what follows `block_size`. ValueError if the parts do not fit together.
    """

    kind: NetworkKind = "gpt"
    vocabulary_size: int
    block_size: int = 128
    layers: int = 4
    heads: int = 4
    width: int = 128
    dropout: float = 0.0
    activation: Activation = "relu"
    norm: Norm = "pre"
    bias: bool = False  # of the projections, the feed-forward, the norms, and of a head of its own
    query_key_value_bias: bool = False  # apart, since the course has the other biases but not these
    tied_head: bool = True  # the head reads the token embedding's own weights
    attention: AttentionKernel = "sdpa"
    norm_kind: NormKind = "layer"
    positions: Positions = "learned"
    query_key_norm: bool = False
    logit_soft_cap: float = 0.0  # 0: none
    documents: Documents = (
        "joined"  # or apart: attention sees nothing of the documents before, in the same window
    )
    end_of_text: int = -1  # the id that begins and ends documents; only those that are apart need it

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_at_least(self, 1, "vocabulary_size", "block_size", "layers", "heads", "width")
        _check_at_least(self, 0, "logit_soft_cap")
        if self.width % self.heads:
            raise ValueError(f"network.width {self.width} is not a multiple of network.heads {self.heads}")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"network.width {self.width} over network.heads {self.heads} is {self.width // self.heads}; "
                "rotary positions turn pairs of numbers, so it must be even"
            )
        if not -1 <= self.end_of_text < self.vocabulary_size:
            raise ValueError(
                f"network.end_of_text {self.end_of_text} is no id of network.vocabulary_size {self.vocabulary_size}"
            )
        _check_share(self, "dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The plan of a training. The defaults are those of the preset `pocket`.

    `batch_size` is the number of windows a step, over all its accumulation steps, which several processes share. ValueError if a value
    cannot be meant.
    """

    steps: int = 2500
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 4e-3
    minimum_learning_rate: float = 4e-4
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    gradient_clip_norm: float = 1.0  # 0: no clipping
    seed: int = 1337
    device: DeviceName = "auto"
    precision: Precision = "auto"
    schedule: Schedule = "cosine"
    decay_share: float = 0.4  # of the steps, at the end of a stable schedule
    optimizer: OptimizerName = "adamw"
    matrix_learning_rate: float = 0.02  # Muon's, for the matrices of the blocks
    matrix_momentum: float = 0.95
    compilation: Compilation = "auto"  # of the network by torch.compile
    parallelism: Parallelism = "replicated"  # of several processes; of one there is none
    spike_deviations: float = 6.0  # above those before, from which on a step is not learnt from; 0: all are
    patience: int = 0  # val losses in a row without a better one, after which to stop; 0: none

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_at_least(self, 1, "steps", "batch_size", "gradient_accumulation_steps")
        _check_at_least(
            self, 0,
            "minimum_learning_rate", "warmup_steps", "weight_decay", "seed", "gradient_clip_norm",
            "spike_deviations", "patience",
        )  # fmt: skip
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"training.batch_size {self.batch_size} is not a multiple of "
                f"training.gradient_accumulation_steps {self.gradient_accumulation_steps}"
            )
        if not self.minimum_learning_rate <= self.learning_rate < math.inf or self.learning_rate == 0:
            raise ValueError(
                f"training.learning_rate is {self.learning_rate}; it must be above 0, finite, and at least "
                f"training.minimum_learning_rate, {self.minimum_learning_rate}"
            )
        if not 0 < self.matrix_learning_rate < math.inf:
            raise ValueError(
                f"training.matrix_learning_rate is {self.matrix_learning_rate}; it must be above 0 and finite"
            )
        _check_share(self, "beta1", "beta2", "matrix_momentum", "decay_share")


#: The matrices that may have adapters: those of a part of each block, one of them, or the head if it is not tied.
LORA_TARGETS: Final = (
    "attention", "attention.query", "attention.key", "attention.value", "attention.projection",
    "feed_forward", "feed_forward.expand", "feed_forward.projection", "head",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The adapters of a fine-tuning (`model.lora`). The targets are by default those of Hu et al. 2021, arXiv:2106.09685,
    section 7.1; they are 0.7 % of `baby`, 1.9 % of `pocket`. ValueError if a value cannot be meant."""

    rank: int = 8
    alpha: float = 16.0  # over rank: how much of the adapters is added
    targets: tuple[str, ...] = ("attention.query", "attention.value")

    def __post_init__(self) -> None:
        _check_at_least(self, 1, "rank")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha is {self.alpha}; it must be above 0 and finite")
        for target in self.targets:
            if target not in LORA_TARGETS:
                raise ValueError(f"lora.targets has {target!r}; there are {', '.join(LORA_TARGETS)}")
        if not self.targets:
            raise ValueError(f"lora.targets is empty; choose from {', '.join(LORA_TARGETS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what a training makes of a dataset. With `lora` adapters learn, and nothing else."""

    network: NetworkConfig
    training: TrainingConfig
    lora: LoraConfig | None = None


def preset(name: str, *, vocabulary_size: int, depth: int | None = None) -> Recipe:
    """The recipe of one rung of the ladder, for a vocabulary. `depth` is the number of layers of `modern`, from which all else
    follows.

    ValueError for a name that is not in PRESETS, or a depth that cannot be.
    """
    if name not in _RECIPES:
        raise ValueError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    if depth is None:
        return _RECIPES[name](vocabulary_size)
    if name != "modern":
        raise ValueError(f"--depth is the dial of the preset modern; {name} has the shape that it has")
    if not 1 <= depth <= MAXIMUM_DEPTH:
        raise ValueError(f"--depth is {depth}; it must be from 1 to {MAXIMUM_DEPTH}")
    return _modern(vocabulary_size, depth)


def _bigram(vocabulary_size: int) -> Recipe:
    """The course's table (bigram.ipynb of github.com/Infatoshi/fcc-intro-to-llms), trained to its floor.

    The course's learning rate of 3e-4 and batch of 4 windows leave it at 4.638 after 1,000 steps; these reach
    within 0.01 of what counting gives.
    """
    return Recipe(
        network=NetworkConfig(kind="bigram", vocabulary_size=vocabulary_size, block_size=8),
        training=TrainingConfig(
            steps=1000,
            batch_size=256,
            learning_rate=0.1,
            minimum_learning_rate=0.001,
            warmup_steps=0,
            weight_decay=0.0,
        ),
    )


def _course(vocabulary_size: int) -> Recipe:
    """The GPT of the same course (gpt-v1.ipynb): its shape, its 8 windows of 32, its constant 1e-4."""
    return Recipe(
        network=NetworkConfig(
            vocabulary_size=vocabulary_size,
            block_size=32,
            layers=1,
            heads=8,
            width=128,
            dropout=0.2,
            norm="post",
            bias=True,
            tied_head=False,
        ),
        training=TrainingConfig(
            steps=1000,
            batch_size=8,
            learning_rate=1e-4,
            minimum_learning_rate=1e-4,
            warmup_steps=0,
            weight_decay=0.01,  # this and beta2: what torch.optim.AdamW takes if not told
            beta2=0.999,
            gradient_clip_norm=0.0,
        ),
    )


def _pocket(vocabulary_size: int) -> Recipe:
    """nanoGPT's CPU config, tuned for 2 cores and 2.5 minutes: 1.61 on Python's documentation, bigram 2.64."""
    return Recipe(network=NetworkConfig(vocabulary_size=vocabulary_size), training=TrainingConfig())


def _baby(vocabulary_size: int) -> Recipe:
    """github.com/karpathy/nanoGPT, config/train_shakespeare_char.py: 10.7M parameters, 1.47 on its characters."""
    return Recipe(
        network=NetworkConfig(
            vocabulary_size=vocabulary_size,
            block_size=256,
            layers=6,
            heads=6,
            width=384,
            dropout=0.2,
            activation="gelu",
        ),
        training=TrainingConfig(
            steps=5000, batch_size=64, learning_rate=1e-3, minimum_learning_rate=1e-4, warmup_steps=100
        ),
    )


def _gpt2(vocabulary_size: int) -> Recipe:
    """github.com/karpathy/nanoGPT, config/train_gpt2.py over train.py: 124M parameters, 2.85 on OpenWebText."""
    return Recipe(
        network=NetworkConfig(
            vocabulary_size=vocabulary_size,
            block_size=1024,
            layers=12,
            heads=12,
            width=768,
            activation="gelu",
        ),
        training=TrainingConfig(
            steps=600_000,
            batch_size=480,  # 12 windows x 40 accumulations x 1,024 tokens: half a million tokens a step
            gradient_accumulation_steps=40,
            learning_rate=6e-4,
            minimum_learning_rate=6e-5,
            warmup_steps=2000,
            beta2=0.95,
        ),
    )


def _modern(vocabulary_size: int, depth: int = 12) -> Recipe:
    """What is known today, by one dial. At depth 12 a Transformer of GPT-2's size, its shape from github.com/karpathy/nanochat.

    Width is 64 a layer, as in GPT-2's family and nanochat's, in heads of 128. Twenty tokens a weight of the blocks (Hoffmann et
    al. 2022, arXiv:2203.15556, section 3.4, who count all weights: what an embedding holds is looked up, not computed with), in
    batches that grow with the depth (McCandlish et al. 2018, arXiv:1812.06162). AdamW's rate falls with the root of the width;
    Muon's does not, since its steps are of one size whatever the shape.
    """
    heads = (depth + 1) // 2
    width = 128 * heads
    block_size = 128 if depth <= 2 else 256 if depth <= 4 else 1024
    tokens_a_step = 1 << round(18 + 1.5 * math.log2(depth / 12))
    weights = 12 * depth * width * width  # of the blocks
    learning_rate = 6e-3 * math.sqrt(768 / width)
    return Recipe(
        network=NetworkConfig(
            vocabulary_size=vocabulary_size,
            block_size=block_size,
            layers=depth,
            heads=heads,
            width=width,
            activation="relu_squared",
            tied_head=False,
            norm_kind="rms",
            positions="rotary",
            query_key_norm=True,
            logit_soft_cap=15.0,
        ),
        training=TrainingConfig(
            steps=max(500, 20 * weights // tokens_a_step),
            batch_size=tokens_a_step // block_size,
            gradient_accumulation_steps=max(1, tokens_a_step // (1 << 15)),
            learning_rate=learning_rate,
            minimum_learning_rate=0.0,
            warmup_steps=40,
            weight_decay=0.0,
            beta1=0.8,
            beta2=0.95,
            schedule="stable",
            optimizer="muon",
        ),
    )


_RECIPES: Final[Mapping[str, Callable[[int], Recipe]]] = {
    "bigram": _bigram,
    "course": _course,
    "pocket": _pocket,
    "baby": _baby,
    "gpt2": _gpt2,
    "modern": _modern,
}
MAXIMUM_DEPTH: Final = 64
PRESETS: Final = tuple(_RECIPES)


def with_settings(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with values replaced by name, as the command line's `--set training.steps=500` gives them.

    ValueError names the nearest valid key, or the type that the value should have had.
    """
    as_dict = recipe_to_dict(recipe)
    valid = {
        f"{part}.{name}": kind
        for part, config in _PARTS.items()
        for name, kind in _field_types(config).items()
    }
    for key, text in settings.items():
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(valid)}"
            raise ValueError(f"no setting is called {key!r}; {hint}")
        part, name = key.split(".")
        as_dict[part][name] = _parsed(key, text, valid[key])
    return recipe_from_dict(as_dict)


def recipe_to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe as plain values, ready for JSON."""
    values = dataclasses.asdict(recipe)
    if recipe.lora is None:
        del values["lora"]
    else:
        values["lora"]["targets"] = list(recipe.lora.targets)
    return values


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """The inverse of `recipe_to_dict`. ValueError for keys that are unknown or missing, and for wrong types."""
    if set(values) - {"lora"} != set(_PARTS):
        raise ValueError(f"a recipe has the parts {', '.join(_PARTS)}; found {', '.join(map(str, values))}")
    configs = {part: _config_from_dict(part, config, values[part]) for part, config in _PARTS.items()}
    lora = _lora_from_dict(values["lora"]) if "lora" in values else None
    return Recipe(**configs, lora=lora)


def _lora_from_dict(values: Any) -> LoraConfig:
    targets = values.get("targets") if isinstance(values, Mapping) else None
    if not isinstance(targets, list | tuple) or not all(isinstance(one, str) for one in targets):
        raise ValueError(f"recipe: lora.targets is {targets!r}; it must be a list of names")
    config: LoraConfig = _config_from_dict("lora", LoraConfig, {**values, "targets": tuple(targets)})
    return config


#: What recipes of version 0.1.0 do not say: for them it is as the default has it.
_SINCE_0_1_0: Final = {
    "norm_kind", "positions", "query_key_norm", "logit_soft_cap", "documents", "end_of_text",
    "schedule", "decay_share", "optimizer", "matrix_learning_rate", "matrix_momentum", "spike_deviations", "patience",
    "parallelism", "compilation",
}  # fmt: skip
_PARTS: Final[Mapping[str, type]] = {"network": NetworkConfig, "training": TrainingConfig}


def _config_from_dict(part: str, config: type, values: Any) -> Any:
    kinds = _field_types(config)
    found = set(values) if isinstance(values, Mapping) else set()
    if found - kinds.keys() or kinds.keys() - found - _SINCE_0_1_0:
        wrong = ", ".join(sorted(map(str, (found ^ kinds.keys()) - _SINCE_0_1_0)))
        raise ValueError(f"recipe: unknown or missing in {part}: {wrong}; was it written by another version?")
    for name, value in values.items():
        _check_type(f"{part}.{name}", value, kinds[name])
    return config(**values)


def _field_types(config: type) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(config)}


def _parsed(key: str, text: str, kind: Any) -> Any:
    """A command line's text as a value of the field's type."""
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (ValueError, KeyError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{key} is {text!r}; it must be {expected}") from None


def _check_type(key: str, value: Any, kind: Any) -> None:
    """JSON has one kind of number and Python's True is an int: say what was meant."""
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind in (int, bool):
        fits = type(value) is kind
    elif typing.get_origin(kind) is tuple:
        fits = isinstance(value, tuple)
    else:
        fits = isinstance(value, str)
    if not fits:
        raise ValueError(f"{key} is {value!r}; it must be of type {getattr(kind, '__name__', 'str')}")


def _check_choices(config: Any) -> None:
    for field in dataclasses.fields(config):
        choices = typing.get_args(field.type)
        value = getattr(config, field.name)
        if choices and value not in choices:
            name = f"{_part_of(config)}.{field.name}"
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def _check_at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise ValueError(f"{_part_of(config)}.{name} is {value}; it must be at least {least}")


def _check_share(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            value = getattr(config, name)
            raise ValueError(f"{_part_of(config)}.{name} is {value}; it must be at least 0 and below 1")


def _part_of(config: Any) -> str:
    return {NetworkConfig: "network", TrainingConfig: "training", LoraConfig: "lora"}[type(config)]
