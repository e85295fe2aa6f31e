"""Looks into a data set: token ids back to text."""

from model.tokenizer import tokenizer_from_json
from storage.datasets import Dataset
from storage.documents import Split

_LOOK_TOKENS = 600


def first_text(dataset: Dataset, split: Split = "train") -> str:
    """The beginning of a split as text, decoded from its tokens."""
    ids = dataset.token_file(split).open()[:_LOOK_TOKENS]
    return tokenizer_from_json(dataset.tokenizer_json()).decode(ids)
