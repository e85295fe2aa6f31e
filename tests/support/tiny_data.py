"""Tiny texts in the real layout, and the steps of a build called as plain functions: what tests make their data of."""

import random
from pathlib import Path

from model.config import NetworkConfig, Recipe, TrainingConfig, recipe_to_dict
from model.network import build_network
from model.tokenizer import CharTokenizer
from storage.checkpoints import save_checkpoint
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


def save_endless_model(folder: Path, *, letters: str = "abcdefgh \n", writes_bytes: bool = True) -> Path:
    """A checkpoint folder of an untrained network, which never ends a document; it writes bytes beside the letters, or not."""
    tokenizer = CharTokenizer([*letters])
    network = NetworkConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        block_size=16,
        layers=1,
        heads=2,
        width=16,
        tied_head=False,
        bias=True,
    )
    tensors = {f"network.{name}": part for name, part in build_network(network, seed=1).state_dict().items()}
    tensors["network.head.bias"][tokenizer.end_of_text] = -1e4
    if not writes_bytes:
        tensors["network.head.bias"][len(letters) :] = -1e4
    return save_checkpoint(
        folder,
        step=1,
        tensors=tensors,
        facts={"recipe": recipe_to_dict(Recipe(network=network, training=TrainingConfig()))},
        tokenizer_json=tokenizer.to_json(),
    ).path
