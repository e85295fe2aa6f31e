"""Verification: every byte of a data set against its manifest, and against another build."""

from dataclasses import fields
from typing import Any

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
    if set(recorded) != {field.name for field in fields(CorpusConfig)}:
        raise ValueError(
            f"{dataset.reference}: was built by another version of brickroad; its settings are not known"
        )
    if recorded["tokenizer"] not in ("char", "gpt2") and not recorded["tokenizer"].startswith("bpe:"):
        recorded = recorded | {
            "tokenizer": str(dataset.path / "tokenizer.json")
        }  # the file may be gone; this is a copy
    quality = {
        name: tuple(each) if isinstance(each, list) else each for name, each in recorded["quality"].items()
    }
    return CorpusConfig(**recorded | {"quality": QualityConfig(**quality)})


def compare(dataset: Dataset, other: Dataset) -> list[str]:
    """The files of which two builds have different bytes, one line each."""
    pairs = [(name, facts, other.manifest.files.get(name)) for name, facts in dataset.manifest.files.items()]
    return [
        f"{name}: sha256 {facts.sha256[:16]}… here, {found.sha256[:16] if found else 'nothing'}… when built again"
        for name, facts, found in pairs
        if found is None or found.sha256 != facts.sha256
    ]
