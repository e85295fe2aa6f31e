"""Attention: from the average of the past to queries, keys and values, and what trained heads look at."""

import math
import re
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor

from model.attention import explicit_attention, fused_attention
from model.attention_maps import attention_maps
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Picture, Printed, Sight, Table, Words

_SENTENCE_CHARACTERS = 40
_SHOWN_IN_CHARACTERS = 24
_SHADES = " ░▒▓█"


def average_of_the_past(values: Tensor) -> Tensor:
    """[T, width] -> [T, width]: row t is the mean of rows 0 to t."""
    length = len(values)
    scores = torch.zeros(length, length)  # all are alike to each
    future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return weights @ values


def walk(ground: Ground) -> Iterator[Sight]:
    """An average, a weighted average, and maps of the weights."""
    yield Words(
        "The bigram is blind to all but the last character. The simplest way to see more is the average of all before; the "
        "future is masked: what is to be guessed must not be seen. As a product with a table of weights:"
    )
    yield Code.of(average_of_the_past)
    yield Printed(_table(average_of_the_past(torch.eye(4))))
    yield Words(
        "Attention lets each place decide whom it listens to. It asks a question (its query), every place has a sign (its key), "
        "and where the two agree the weight is large; what is gathered is what the places have to say (their values). All "
        "three are linear layers that learn. Equation 1 of the paper, as this repository has it:"
    )
    yield Code.of(explicit_attention)
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, 4, 64, 32, generator=generator) for _ in range(3))
    by_formula, by_kernel = (
        way(query, key, value, causal=True) for way in (explicit_attention, fused_attention)
    )
    yield Facts(
        values={
            "shape": "4 heads x 64 places x 32 numbers",
            "largest difference to PyTorch's fused kernel": float((by_formula - by_kernel).abs().max()),
        }
    )
    yield from _trained(ground)


def _trained(ground: Ground) -> Iterator[Sight]:
    yield Words(
        "What do trained heads look at? A small GPT, which trains now if no tour has trained it before, reads some words of the val split; "
        "each head keeps a map of its weights:"
    )
    yield Code.of(attention_maps)
    network = ground.model.network
    ids = torch.from_numpy(ground.tokenizer.encode(_sentence(ground)).astype("int64"))
    maps = attention_maps(network, ids)
    yield _picture(maps, ground.tokenizer.decode(ids))
    yield Words(
        "How far back each head looks, and how much of its attention goes to the character just before:"
    )
    back = (torch.arange(len(ids))[:, None] - torch.arange(len(ids))).clamp(min=0)
    yield Table(
        header=("head", "mean distance", "to the one before"),
        rows=[
            (
                f"layer {layer}, head {head}",
                float((one * back).sum(-1).mean()),
                float(one.diagonal(-1).mean()),
            )
            for layer, heads in enumerate(maps)
            for head, one in enumerate(heads)
        ],
    )


def _sentence(ground: Ground) -> str:
    """Some words of the val split, where it has so many in a row."""
    text = ground.tokenizer.decode(ground.dataset.token_file("val").open()[:20_000])
    words = re.search(rf"[A-Z][a-z]+ [a-z ,]{{{_SENTENCE_CHARACTERS}}}", text)
    return (words[0] if words else text)[:_SENTENCE_CHARACTERS]


def _picture(maps: Tensor, text: str) -> Picture:
    """All heads, a row a layer; in characters the head that is surest."""
    layers, heads, length, _ = maps.shape
    figure = Figure(figsize=(2.9 * heads, 3.1 * layers), dpi=110, layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    names = [_visible(character) for character in text.ljust(length)]
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer][head]
            axes.imshow(maps[layer, head].sqrt().numpy(), cmap="YlOrBr", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}", fontsize=9)
            axes.set_xticks(range(length), names, fontsize=6)
            axes.set_yticks(range(length), names, fontsize=6)
    surest = int(maps.amax(-1).mean(-1).argmax())
    one = maps[surest // heads, surest % heads, :_SHOWN_IN_CHARACTERS, :_SHOWN_IN_CHARACTERS]
    levels = (one.sqrt() * (len(_SHADES) - 0.01)).int().tolist()
    lines = [f"  {''.join(names[:_SHOWN_IN_CHARACTERS])}"]
    lines += [
        f"{name} {''.join(_SHADES[level] for level in row)}" for name, row in zip(names, levels, strict=False)
    ]
    title = f"Row: who asks. Column: who is listened to. Layer {surest // heads}, head {surest % heads}:"
    return Picture(title=title, figure=figure, in_characters="\n".join(lines))


def _visible(character: str) -> str:
    return {" ": "␣", "\n": "↵"}.get(character, character if character.isprintable() else "·")


def _table(tensor: Tensor) -> str:
    return "\n".join("  ".join(f"{value:.2f}" for value in row) for row in tensor.tolist())
