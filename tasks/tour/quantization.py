"""Quantization: rounding the trained weights to eight bits and to four, and what that costs."""

from collections.abc import Iterator

import torch
from matplotlib.figure import Figure

from model.network import Gpt
from model.quantization import Int4Matrix, Int8Matrix
from tasks.quantization import QuantizationReport, measure_quantized, quantize_checkpoint
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
        "Whether that hurts is measured, not believed: on the whole val split, the same predictions by each:"
    )
    reports = [
        measure_quantized(
            ground.gpt, quantize_checkpoint(ground.gpt, kind, ground.workspace), None, ground.workspace
        )
        for kind in ("int8", "int4")
    ]
    yield Table(
        header=("weights in", "bytes", "of float32", "loss", "more than float32"), rows=list(_rows(reports))
    )
    yield Words(
        "Do it with: brickroad quantize MODEL --to int8. The smaller file writes, is evaluated and served as any other."
    )


def _rows(reports: list[QuantizationReport]) -> Iterator[tuple[float | int | str, ...]]:
    whole = reports[0].variant("float32")
    yield "float32", whole.bytes, "1", whole.val_loss, ""
    for report in reports:
        ours = report.variant(report.kind)
        over = ours.over_float32
        difference = f"{over.difference:+.4f} ± {over.standard_error:.4f}"
        yield report.kind, ours.bytes, f"{report.bytes_over_float32:.3f}", ours.val_loss, difference


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
