"""Owns the recipe of a fine-tuning: a parent's network, and a plan of its own that is shorter and gentler."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from model.config import LoraConfig, Recipe, TrainingConfig, with_settings

STEPS: Final = 500
WARMUP_STEPS: Final = 20
BATCH_SIZE: Final = 32  # windows a step at most, unless one part of the parent's batch has more
LORA_LEARNING_RATE: Final = 2e-3
#: Settings of the network that change none of its weights' shapes, nor what they mean.
_OF_THE_NETWORK: Final = ("network.dropout",)


def fine_tuning_recipe(parent: Recipe, lora: LoraConfig | None, settings: Mapping[str, str]) -> Recipe:
    """The recipe of a fine-tuning of all weights, or of adapters if there is `lora`, with `settings` on top as in `with_settings`.

    All weights learn at a tenth of the parent's rates; adapters, which are far from any solution, at LORA_LEARNING_RATE and by
    AdamW. What belongs to the machine (device, precision, compilation, parallelism) is chosen anew. ValueError if a setting
    cannot be meant, as one of the network's shape.
    """
    if wrong := [key for key in settings if key.startswith("network.") and key not in _OF_THE_NETWORK]:
        raise ValueError(
            f"{wrong[0]} cannot be set: the network is the parent's; of it only {_OF_THE_NETWORK[0]} can"
        )
    config = parent.training
    steps = min(STEPS, config.steps)
    rate = LORA_LEARNING_RATE if lora else config.learning_rate / 10
    part = config.batch_size // config.gradient_accumulation_steps
    parts = min(config.gradient_accumulation_steps, max(1, BATCH_SIZE // part))
    of_the_machine = TrainingConfig()
    training = replace(
        config,
        steps=steps,
        batch_size=part * parts,
        gradient_accumulation_steps=parts,
        learning_rate=rate,
        minimum_learning_rate=rate / 10,
        warmup_steps=min(WARMUP_STEPS, math.ceil(steps / 10)),
        schedule="cosine",
        optimizer="adamw" if lora else config.optimizer,
        matrix_learning_rate=config.matrix_learning_rate / 10,
        weight_decay=0.0 if lora else config.weight_decay,  # of adapters it would pull towards the parent
        device=of_the_machine.device,
        precision=of_the_machine.precision,
        compilation=of_the_machine.compilation,
        parallelism=of_the_machine.parallelism,
        patience=0,
    )
    return with_settings(Recipe(network=parent.network, training=training, lora=lora), settings)
