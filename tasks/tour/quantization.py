"""Quantization: rounding the trained weights to eight bits and to four, and what that costs."""

from collections.abc import Iterator
from typing import get_args

import torch
from matplotlib.figure import Figure

from model.network import Gpt
from model.quantization import Int4Matrix, Int8Matrix, QuantizationKind
from tasks.comparison import compare
from tasks.evaluation import measure
from tasks.quantization import quantize_checkpoint
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Picture, Printed, Sight, Table, Words


def walk(ground: Ground) -> Iterator[Sight]:
    """A row of weights, two files, and their losses."""
    model = ground.model
    yield Words(
        "A trained weight is stored in 32 bits, and hardly needs them. Rounded to whole steps of a common size it takes 8: a row of "
        "a matrix is divided by its largest number over 127."
    )
    yield Code.of(Int8Matrix.quantize)
    assert isinstance(model.network, Gpt), "the tour trains a GPT"
    weight = model.network.blocks[0].feed_forward.expand.weight.detach()
    numbers, scale = Int8Matrix.quantize(weight)
    back = numbers[0].float() * scale[0].float()
    yield Printed(
        f"weights  {_row(weight[0, :6])}\nin steps {'  '.join(f'{n:7d}' for n in numbers[0, :6].tolist())}\n"
        f"back     {_row(back[:6])}\na step is {float(scale[0]):.6f}"
    )
    yield Words(
        "With 4 bits there are 16 steps only, so each group of 32 numbers gets a step size of its own:"
    )
    yield Code.of(Int4Matrix.quantize)
    yield _picture(weight)
    yield Words(
        "Whether that hurts is measured, not believed: on every token of the val split, document by document."
    )
    yield Table(
        header=("weights in", "bytes", "of float32", "loss", "more than float32"),
        rows=list(_measured(ground)),
    )
    yield Words(
        "Do it with: brickroad quantize MODEL --to int8. The smaller file writes, is evaluated and served as any other."
    )


def _measured(ground: Ground) -> Iterator[tuple[float | int | str, ...]]:
    """A row for each kind of numbers: what the file takes, and what it loses."""
    whole = ground.model.checkpoint
    loss = measure(ground.model, ground.dataset, ground.workspace).loss
    yield "float32", whole.network_bytes, "1", loss, ""
    for kind in get_args(QuantizationKind):
        quantized = quantize_checkpoint(ground.gpt, kind, ground.workspace)
        found = compare(whole.path, quantized.path, ground.workspace)
        share = quantized.network_bytes / whole.network_bytes
        more = f"{found.difference.difference:+.4f} ± {found.difference.standard_error:.4f}"
        yield kind, quantized.network_bytes, f"{share:.3f}", found.second.loss, more


def _picture(weight: torch.Tensor) -> Picture:
    """The weights of a matrix, and those of one group with its sixteen steps."""
    group = weight[0, :32]
    scale = float(Int4Matrix.quantize(group[None])[1][0, 0])
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(weight.flatten().numpy(), bins=80, color="#c28f2c")
    left.set(title="All weights of a matrix", xlabel="weight", ylabel="how many")
    right.vlines([step * scale for step in range(-8, 8)], 0, 1, color="#9db4c0", linewidth=1)
    right.scatter(group.numpy(), [0.5] * len(group), color="#2d6a4f", s=16, zorder=2)
    right.set(title="A group of 32, and its sixteen steps", xlabel="weight", yticks=[])
    return Picture(title="Rounding to the nearest line", figure=figure)


def _row(numbers: torch.Tensor) -> str:
    return "  ".join(f"{number:7.4f}" for number in numbers.tolist())
