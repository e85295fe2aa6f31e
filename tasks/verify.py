"""Verification: every byte of a data set against its manifest, and against another build."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from storage.blocks import FileFacts
from storage.datasets import Dataset, verify_dataset
from tasks.corpora import CorpusConfig
from tasks.quality import QualityConfig
from tasks.watch import Watch


def verify(dataset: Dataset) -> tuple[int, list[str]]:
    """Bytes checked, and what is wrong with them: one line each, none if all is as recorded."""
    checked, mismatches = 0, []
    total = sum(facts.bytes for facts in dataset.manifest.files.values())
    with Watch("verify", total=total, unit="bytes") as watch:
        for _, size, wrong in verify_dataset(dataset):
            checked += size
            mismatches += wrong
            watch.advance(size)
    return checked, mismatches


def recorded_config(dataset: Dataset) -> CorpusConfig:
    """The configuration a data set was built with. Raises ValueError if it was written by another version."""
    recorded: dict[str, Any] = dataset.manifest.build["config"]
    if dataset.prompts():
        raise ValueError(
            f"{dataset.reference}: was made of prompts for a model; make it again with: brickroad finetune --prompts {recorded['corpus']}"
        )
    return config_from(recorded, dataset.reference, dataset.path / "tokenizer.json")


def config_from(recorded: dict[str, Any], reference: str, tokenizer: Path) -> CorpusConfig:
    """A configuration as it was recorded, with a copy of the `tokenizer` for one that was a file, which may be gone.

    Raises ValueError if another version recorded it.
    """
    if set(recorded) != {field.name for field in fields(CorpusConfig)}:
        raise ValueError(
            f"{reference}: was built by another version of brickroad; its settings are not known"
        )
    if recorded["tokenizer"] not in ("char", "gpt2") and not recorded["tokenizer"].startswith("bpe:"):
        recorded = recorded | {"tokenizer": str(tokenizer)}
    quality = {
        name: tuple(each) if isinstance(each, list) else each for name, each in recorded["quality"].items()
    }
    return CorpusConfig(**recorded | {"quality": QualityConfig(**quality)})


def compare(dataset: Dataset, other: Dataset) -> list[str]:
    """The files of which two builds have different bytes, one line each."""
    return different_files(dataset.manifest.files, other.manifest.files)


def different_files(recorded: Mapping[str, FileFacts], again: Mapping[str, FileFacts]) -> list[str]:
    """The files that have different bytes when built again, one line each, with the first block that differs."""
    pairs = [(name, facts, again.get(name)) for name, facts in recorded.items()]
    return [
        f"{name}: sha256 {facts.sha256[:16]}… here, {found.sha256[:16] if found else 'nothing'}… when built again"
        + (f", from block {_first_different(facts, found)} of 64 MiB" if found else "")
        for name, facts, found in pairs
        if found is None or found.sha256 != facts.sha256
    ]


def _first_different(facts: FileFacts, found: FileFacts) -> int:
    """The number of the first block that differs; where one file is the beginning of the other, of the first that is not in both."""
    pairs = enumerate(zip(facts.block_sha256, found.block_sha256, strict=False))
    both = min(len(facts.block_sha256), len(found.block_sha256))
    return next((number for number, (here, there) in pairs if here != there), both)
