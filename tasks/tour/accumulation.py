"""Gradient accumulation: the gradient of a large batch from small parts, and the memory that this spares."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from model.config import Recipe, preset
from model.training import Training
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Sight, Table, Words

_STEPS = 5
_PARTS = (1, 2, 4, 8)


def bytes_kept(training: Training) -> tuple[int, list[float]]:
    """Most bytes that were kept for the way back at one time, and the
    losses of the steps."""
    kept, most, losses = 0, 0, []

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept, most
        kept += tensor.nbytes
        most = max(most, kept)
        return tensor

    def give_back(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept -= tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        for report in training.steps():
            losses.append(report.train_loss)
    return most, losses


def walk(ground: Ground) -> Iterator[Sight]:
    """The same steps in one part, and in several."""
    yield Words(
        "A large batch gives a steadier gradient, and takes memory: whatever was computed forwards is kept until the way back. But "
        "the gradient of a mean is the mean of gradients. So a batch can go through in parts, each of which adds to the gradient, and "
        "only then the weights move. This is how the loop does it:"
    )
    yield Code.of(Training._accumulate_gradients)
    yield Words("PyTorch tells what it keeps:")
    yield Code.of(bytes_kept)
    tokens, digest = ground.dataset.token_file("train").open(), ground.dataset.manifest.digest
    rows = []
    for parts in _PARTS:
        training = Training(_recipe(ground, parts), tokens, dataset_digest=digest)
        most, losses = bytes_kept(training)
        rows.append((f"{parts}", round(most / 1e6, 1), *losses[:3]))
    yield Table(header=("parts", "MB kept", "loss, step 1", "step 2", "step 3"), rows=rows)
    yield Words(
        "The losses are the same but for the last digits, where sums of floating point numbers depend on their order. In a training: "
        "--set training.gradient_accumulation_steps=8. Several GPUs share a batch by the same rule."
    )


def _recipe(ground: Ground, parts: int) -> Recipe:
    recipe = preset("pocket", vocabulary_size=ground.tokenizer.vocabulary_size)
    training = replace(recipe.training, steps=_STEPS, batch_size=64, gradient_accumulation_steps=parts)
    return replace(recipe, training=replace(training, precision="float32"))
