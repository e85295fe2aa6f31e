"""Pictures for MLflow and for pages: loss curves, losses by place, calibration, two models side by side."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from model.evaluation import EvaluationReport
from model.paired import PairedDifference
from model.references import References

Curve = list[tuple[int, float]]
_OCHRE, _GREEN, _GREY, _PALE = "#c28f2c", "#2d6a4f", "#5c6b73", "#9db4c0"


def loss_curves(title: str, train: Curve, val: Curve, references: References, val_loss: float) -> Figure:
    """Train and val loss by step, the exact final val loss, and the reference lines, in nats per token."""
    figure = Figure(figsize=(8, 4.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(*_columns(train), color=_PALE, linewidth=1, label="train, each step reported")
    axes.plot(
        *_columns(val), color=_OCHRE, linewidth=2, marker="o", markersize=3, label="val, sampled windows"
    )
    lines = (
        ("bigram", references.bigram, "-."),
        ("unigram", references.unigram, "--"),
        ("uniform", references.uniform, ":"),
    )
    for name, value, style in lines:
        axes.axhline(value, color=_GREY, linestyle=style, linewidth=1, label=f"{name} {value:.3f}")
    axes.axhline(val_loss, color=_GREEN, linewidth=1.2, label=f"val, exact, {val_loss:.3f}")
    axes.set(title=title, xlabel="step", ylabel="loss, nats per token")
    axes.set_ylim(bottom=0, top=references.uniform * 1.05)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="upper right")
    return figure


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def loss_by_position(losses: Sequence[float]) -> Figure:
    """Nats per token by how many tokens of the window stand before it."""
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, color=_OCHRE, linewidth=1.5)
    axes.set(xlabel="place in the window", ylabel="loss, nats per token", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.25)
    return figure


def calibration(certainty: Sequence[float], right: Sequence[float], tokens: Sequence[int]) -> Figure:
    """How often predictions were right against how sure the model was of them, by bins of certainty."""
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    areas = 300 * np.array(tokens) / max(tokens) + 4
    axes.plot(certainty, right, color=_PALE, linewidth=1)
    axes.scatter(certainty, right, s=areas, color=_GREEN, alpha=0.7)
    axes.set(
        xlabel="probability of the likeliest token", ylabel="share that were right", xlim=(0, 1), ylim=(0, 1)
    )
    axes.grid(alpha=0.25)
    return figure


def two_models(
    names: tuple[str, str], reports: tuple[EvaluationReport, EvaluationReport], found: PairedDifference
) -> Figure:
    """Two models on the same split: losses by place in the window, and by document, one against the other."""
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    figure.suptitle(
        f"{names[1]} less {names[0]}: {found.difference:+.4f} ± {found.standard_error:.4f} nats per token"
    )
    left, right = figure.subplots(1, 2)
    for name, report, colour in zip(names, reports, (_GREY, _OCHRE), strict=True):
        there = report.position_tokens > 0
        losses = report.position_nats[there] / report.position_tokens[there]
        left.plot(
            range(1, len(losses) + 1), losses, color=colour, linewidth=1.5, label=f"{name}: {report.loss:.4f}"
        )
    left.set(xlabel="place in the window", ylabel="loss, nats per token", xscale="log")
    left.xaxis.set_major_formatter("{x:g}")
    left.legend(fontsize=8)
    first, second = (report.document_nats / report.document_tokens for report in reports)
    ends = [float(min(first.min(), second.min())), float(max(first.max(), second.max()))]
    right.plot(ends, ends, color=_GREY, linewidth=1, linestyle="--")
    right.scatter(first, second, s=9, color=_GREEN, alpha=0.5)
    right.set(
        title=f"{len(first):,} documents; below the line {names[1]} is better",
        xlabel=f"{names[0]}, nats per token",
        ylabel=f"{names[1]}, nats per token",
    )
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


def as_svg(figure: Figure) -> str:
    """A picture as text to put into a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
