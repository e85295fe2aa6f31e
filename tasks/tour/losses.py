"""Loss curves: what the learning rate does, what the bend does, and what learning by heart looks like."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from model.config import Recipe, preset
from model.evaluation import estimate_loss
from model.tokenizer import TokenArray
from model.training import Training
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Picture, Sight, Table, Words

_STEPS, _LOOK_EVERY = 150, 10
_RATES = (1e-5, 3e-3, 1.0)
_BENDS = ("relu", "sigmoid", "tanh", "gelu")
_HEART_TOKENS = 2_000

Curves = dict[str, list[tuple[int, float, float]]]


def curve(
    recipe: Recipe, train: TokenArray, val: TokenArray, digest: str
) -> Iterator[tuple[int, float, float]]:
    """(step, train loss, val loss) of a training, every few steps."""
    training = Training(recipe, train, dataset_digest=digest)
    for report in training.steps():
        if report.step % _LOOK_EVERY == 0:
            val_loss = estimate_loss(training.network, val, windows=16)
            yield report.step, report.train_loss, val_loss


def walk(ground: Ground) -> Iterator[Sight]:
    """Three families of curves."""
    train, val = (ground.dataset.token_file(split).open() for split in ("train", "val"))
    digest, base = ground.dataset.manifest.digest, _recipe(ground)
    yield Words(
        "A loss is looked at on both splits while a network learns: on train, what it is told; on val, whether it understood. The loop "
        "yields a report each step, and whoever runs it decides what to do with it:"
    )
    yield Code.of(curve)
    families: dict[str, Curves] = {}
    yield Words(
        f"Learning rates, {_STEPS} steps each: too small and nothing moves, too large and the weights are thrown about."
    )
    families["learning rate"] = {
        f"{rate:g}": list(curve(_at(base, rate), train, val, digest)) for rate in _RATES
    }
    yield _table("learning rate", families["learning rate"])
    yield Words(
        "The bend between the two linear layers of a feed-forward; so early and in one layer they differ little:"
    )
    families["activation"] = {
        bend: list(curve(replace(base, network=replace(base.network, activation=bend)), train, val, digest))
        for bend in _BENDS
    }
    yield _table("activation", families["activation"])
    yield Words(
        f"And a network that is given {_HEART_TOKENS:,} tokens alone, again and again, learns them by heart: train falls, val rises."
    )
    by_heart = replace(base, training=replace(base.training, steps=2 * _STEPS, batch_size=8))
    families["by heart"] = {"by heart": list(curve(by_heart, train[:_HEART_TOKENS], val, digest))}
    first, *_, last = families["by heart"]["by heart"]
    best = min(families["by heart"]["by heart"], key=lambda point: point[2])
    yield Table(
        header=("by heart, step", "train loss", "val loss"),
        rows=[(str(step), train_loss, val_loss) for step, train_loss, val_loss in (first, best, last)],
    )
    yield _picture(families)


def _recipe(ground: Ground) -> Recipe:
    recipe = preset("pocket", vocabulary_size=ground.tokenizer.vocabulary_size)
    network = replace(recipe.network, layers=1, heads=2, width=64, block_size=64, dropout=0.0)
    training = replace(recipe.training, steps=_STEPS, batch_size=16, learning_rate=3e-3, warmup_steps=10)
    return replace(recipe, network=network, training=training)


def _at(recipe: Recipe, rate: float) -> Recipe:
    return replace(recipe, training=replace(recipe.training, learning_rate=rate, minimum_learning_rate=0.0))


def _table(name: str, curves: Curves) -> Table:
    return Table(
        header=(name, "train loss", "val loss"),
        rows=[(label, points[-1][1], points[-1][2]) for label, points in curves.items()],
    )


def _picture(families: dict[str, Curves]) -> Picture:
    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    for axes, (name, curves) in zip(figure.subplots(1, 3), families.items(), strict=True):
        for number, (label, points) in enumerate(curves.items()):
            steps, train, val = np.array(points).T
            axes.plot(steps, val, color=f"C{number}", label=f"{label}, val")
            axes.plot(steps, train, color=f"C{number}", linestyle=":", linewidth=1, label=f"{label}, train")
        axes.set(title=name, xlabel="step", ylabel="loss, nats per token")
        axes.set_ylim(top=min(8, axes.get_ylim()[1]))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7)
    return Picture(title="Solid: val. Dotted: train.", figure=figure)
