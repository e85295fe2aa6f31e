"""Pictures for MLflow: the loss curves of a run against the lines that counting alone reaches."""

from matplotlib.figure import Figure

from model.references import References

Curve = list[tuple[int, float]]


def loss_curves(title: str, train: Curve, val: Curve, references: References, val_loss: float) -> Figure:
    """Train and val loss by step, the exact final val loss, and the reference lines, in nats per token."""
    figure = Figure(figsize=(8, 4.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(*_columns(train), color="#9db4c0", linewidth=1, label="train, each step reported")
    axes.plot(
        *_columns(val), color="#c28f2c", linewidth=2, marker="o", markersize=3, label="val, sampled windows"
    )
    lines = (
        ("bigram", references.bigram, "-."),
        ("unigram", references.unigram, "--"),
        ("uniform", references.uniform, ":"),
    )
    for name, value, style in lines:
        axes.axhline(value, color="#5c6b73", linestyle=style, linewidth=1, label=f"{name} {value:.3f}")
    axes.axhline(val_loss, color="#2d6a4f", linewidth=1.2, label=f"val, exact, {val_loss:.3f}")
    axes.set(title=title, xlabel="step", ylabel="loss, nats per token")
    axes.set_ylim(bottom=0, top=references.uniform * 1.05)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="upper right")
    return figure


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
