"""The bigram: a table of which character follows which, by counting and by gradient descent."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure

from model.config import preset
from model.evaluation import evaluate, final_report
from model.network import BigramTable, LanguageModel, build_network, parameter_count
from model.references import reference_lines
from model.sampling import Sampling
from model.training import Training
from model.writing import WritingRequest, write
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Picture, Printed, Sight, Words

_STEPS = 400
_SHOWN = 28  # characters of the picture
_SHADES = " ░▒▓█"


def walk(ground: Ground) -> Iterator[Sight]:
    """Counting, a table that learns, and what it writes."""
    dataset, tokenizer = ground.dataset, ground.tokenizer
    train, val = dataset.token_file("train").open(), dataset.token_file("val").open()
    facts = {"vocabulary_size": tokenizer.vocabulary_size, "end_of_text": tokenizer.end_of_text}
    yield Words(
        "The smallest language model is blind to all but the last character: a table whose row says what follows it."
    )
    yield Code.of(BigramTable)
    recipe = preset("bigram", vocabulary_size=tokenizer.vocabulary_size)
    recipe = replace(recipe, training=replace(recipe.training, steps=_STEPS))
    yield Words(f"Before it has learnt it writes nonsense. Then {_STEPS} steps of gradient descent:")
    yield Printed(_written(build_network(recipe.network, seed=0), ground))
    training = Training(recipe, train, dataset_digest=dataset.manifest.digest)
    for report in training.steps():
        if report.step % (_STEPS // 4) == 0:
            yield Printed(f"step {report.step:4d}  train loss {report.train_loss:.3f}")
    yield Words("Now it has letters, blanks and line ends where they may be, and no words:")
    yield Printed(_written(training.network, ground))
    lines = reference_lines(train, val, **facts)
    learnt = final_report(
        evaluate(
            training.network,
            val,
            end_of_text=tokenizer.end_of_text,
            text_bytes=dataset.manifest.val.text_bytes,
        )
    )
    yield Words(
        "Nobody needs gradients for a table of two: one can count. What counting comes to is the floor that descent goes down to, "
        "and the line that every better model must get below."
    )
    yield Facts(
        title="Loss on the val split, in nats per character",
        values={
            "every id equally likely": lines.uniform,
            "by how frequent each is": lines.unigram,
            "by the character before, counted": lines.bigram,
            "by the character before, learnt": learnt.loss,
            "numbers learnt": parameter_count(training.network),
        },
    )
    yield _picture(training.network, ground)


def _written(network: LanguageModel, ground: Ground) -> str:
    request = WritingRequest(tokens=200, sampling=Sampling(temperature=1.0, seed=7))
    return "".join(write(network, ground.tokenizer, request))


def _picture(network: LanguageModel, ground: Ground) -> Picture:
    """The rows and columns of the most frequent characters, which have the first ids."""
    assert isinstance(network, BigramTable)
    with torch.inference_mode():
        shares = network(torch.arange(_SHOWN)[None])[0].softmax(-1)[:, :_SHOWN].numpy()
    names = [
        c if c.isprintable() and c != " " else "␣↵"[c == "\n"] for c in ground.tokenizer.decode(range(_SHOWN))
    ]
    figure = Figure(figsize=(7, 6.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="YlOrBr", vmin=0)
    axes.set(xlabel="what follows", ylabel="the character before", title="How likely each follows")
    axes.set_xticks(range(_SHOWN), names)
    axes.set_yticks(range(_SHOWN), names)
    figure.colorbar(image, ax=axes, shrink=0.8)
    levels = np.minimum((shares * 10).astype(int), len(_SHADES) - 1)
    lines = [f"  {''.join(names)}"]
    lines += [
        f"{name} {''.join(_SHADES[level] for level in row)}" for name, row in zip(names, levels, strict=True)
    ]
    return Picture(
        title="Row: the character before. Column: what follows.",
        figure=figure,
        in_characters="\n".join(lines),
    )
