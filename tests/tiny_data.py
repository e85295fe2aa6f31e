"""Tiny texts in the real layout, and the steps of a build called as plain functions: what tests make their data of."""

import random
from pathlib import Path

from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.workers import Workers

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


def build_plainly(corpus: Path | str, workspace: Workspace, **settings: object) -> Dataset:
    """The steps of the flow, called as functions."""
    config = CorpusConfig(corpus=str(corpus), **({"val_fraction": 0.1, "workers": 2} | settings))  # type: ignore[arg-type]
    with Workers(2) as workers:
        return build(config, workspace, workers)
