"""Blocks and batches: how a row of tokens becomes questions with answers, which ones a step gets, and who is examined."""

from collections.abc import Iterator

import numpy as np
import torch

from model.batches import gather, split
from model.order import DataOrder
from storage.tokens import split_of
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Table, Words

_BLOCK, _BATCH = 8, 4


def walk(ground: Ground) -> Iterator[Sight]:
    """Splits, windows, and the order of the steps."""
    dataset, tokenizer = ground.dataset, ground.tokenizer
    yield Words(
        "A model is examined on text that it has not seen. Whether a document is for learning (train) or for the examination "
        "(val) is decided by a hash of its text: the same document always falls to the same side, wherever it stands."
    )
    yield Code.of(split_of)
    manifest = dataset.manifest
    yield Table(
        header=("split", "documents", "tokens"),
        rows=[
            (name, facts.documents, facts.tokens)
            for name, facts in (("train", manifest.train), ("val", manifest.val))
        ],
    )
    tokens = dataset.token_file("train").open()
    order = DataOrder(
        dataset_digest=manifest.digest, seed=0, tokens=len(tokens), block_size=_BLOCK, batch_size=_BATCH
    )
    starts = order.window_starts(0)
    inputs, targets = gather(
        tokens,
        starts,
        block_size=_BLOCK,
        vocabulary_size=manifest.vocabulary_size,
        device=torch.device("cpu"),
    )
    yield Words(
        f"A block is {_BLOCK} tokens here: the question. The answer to each of them is the token after it, so the targets are the "
        f"same row, one further. {_BATCH} blocks that are computed together are a batch."
    )
    yield Code.of(split)
    rows = [
        (repr(tokenizer.decode(inputs[0, : t + 1])), repr(tokenizer.decode(targets[0, t])))
        for t in range(_BLOCK)
    ]
    yield Table(header=("when it has read", "the answer is"), rows=rows)
    yield Printed(f"inputs, shape {list(inputs.shape)}:\n{_rows(inputs)}\ntargets:\n{_rows(targets)}")
    yield from _order(order)


def _order(order: DataOrder) -> Iterator[Sight]:
    yield Words(
        "The course draws blocks by chance, so it meets some twice and some never. Ours takes every block once an epoch, in an order "
        "that follows from data set, seed and step alone: nothing has to be saved for a training to go on."
    )
    epoch = order.windows_per_epoch
    seen = np.concatenate([order.window_starts(step) for step in range(-(-epoch // _BATCH))])[:epoch]
    drawn = np.random.default_rng(0).integers(epoch, size=epoch)
    yield Table(
        header=("after an epoch", "blocks met", "never met"),
        rows=[
            ("by chance", len(np.unique(drawn)), epoch - len(np.unique(drawn))),
            ("in our order", len(np.unique(seen)), epoch - len(np.unique(seen))),
        ],
    )
    again = all(np.array_equal(order.window_starts(step), order.window_starts(step)) for step in range(3))
    yield Facts(
        values={
            "blocks an epoch": epoch,
            "step 0 begins at tokens": ", ".join(f"{start:,}" for start in order.window_starts(0).tolist()),
            "asked again, the same": "yes" if again else "no",
        }
    )


def _rows(ids: torch.Tensor) -> str:
    return "\n".join(" ".join(f"{token:4d}" for token in row) for row in ids.tolist())
