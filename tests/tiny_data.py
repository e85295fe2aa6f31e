"""Tiny texts in the real layout, and the steps of a build called as plain functions: what tests make their data of."""

import random
from pathlib import Path

from storage.datasets import Dataset
from storage.shards import find_shards
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig
from tasks.dataset import encode, ingest, learn_tokenizer, publish, refuse_bad_shards, token_folder

WORDS = [
    "the",
    "road",
    "of",
    "yellow",
    "brick",
    "leads",
    "home",
    "through",
    "fields",
    "where",
    "poppies",
    "sleep",
    "and",
    "crows",
    "talk",
    "—",
    "Über",
    "naïve",
    "東京",
]


def tiny_documents(count: int = 120, seed: int = 1) -> list[str]:
    """Different short texts with characters of one to three bytes."""
    rng = random.Random(seed)
    return [
        f"Document {number}.\n\n" + " ".join(rng.choices(WORDS, k=rng.randrange(40, 120)))
        for number in range(count)
    ]


def build_plainly(corpus: Path, workspace: Workspace, **settings: object) -> Dataset:
    """The steps of the flow, called as functions."""
    config = CorpusConfig(corpus=str(corpus), **({"val_fraction": 0.1} | settings))  # type: ignore[arg-type]
    results = ingest(find_shards(config.corpus), workspace.documents, config.invalid_utf8)
    parts = [item.part for item in refuse_bad_shards(results, config.tolerate_bad_shards)]
    fraction = config.chosen_val_fraction
    tokenizer = learn_tokenizer(
        parts, workspace.tokens, val_fraction=fraction, coverage=config.character_coverage, workers=2
    )
    encoded = encode(parts, tokenizer, token_folder(workspace, tokenizer, fraction), fraction)
    return publish(config, workspace, results, tokenizer, encoded)
