"""Data sets for other programs: the text of a document, or what an id stands for, is what only the tokenizer knows."""

from collections.abc import Iterator
from pathlib import Path

from model.tokenizer import CharTokenizer, Tokenizer
from storage.datasets import Dataset
from storage.documents.rows import Split
from storage.exports import (
    ExportFormat,
    documents_of,
    export_jsonl,
    export_megatron,
    export_nanogpt,
    export_parquet,
)
from storage.tokens import SPLITS
from tasks.tokenizers import gpt2_json, load_tokenizer
from tasks.watch import pulse


def export(dataset: Dataset, layout: ExportFormat, folder: Path) -> list[Path]:
    """Writes a data set below `folder` in a layout that another program reads; returns the files."""
    with pulse("export"):
        if layout == "nanogpt":
            return export_nanogpt(dataset, folder, _characters(dataset))
        if layout == "megatron":
            return export_megatron(dataset, folder)
        if layout == "parquet":
            return export_parquet(dataset, folder)
        tokenizer = load_tokenizer(dataset.tokenizer_json())
        return export_jsonl(dataset, folder, {split: _texts(dataset, split, tokenizer) for split in SPLITS})


def _characters(dataset: Dataset) -> dict[int, str] | None:
    """What each id stands for, where nanoGPT is to know it; GPT-2's tokenizer it has itself."""
    text = dataset.tokenizer_json()
    if text == gpt2_json():
        return None
    tokenizer = load_tokenizer(text)
    if isinstance(tokenizer, CharTokenizer):
        return dict(enumerate(tokenizer.characters))
    return {number: tokenizer.decode([number]) for number in range(tokenizer.vocabulary_size)}


def _texts(dataset: Dataset, split: Split, tokenizer: Tokenizer) -> Iterator[str]:
    return (tokenizer.decode(ids) for ids in documents_of(dataset, split))
