"""Prompts with responses as a data set for one model: encoded by its tokenizer, in rows of its length."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.examples import paddings
from model.tokenizer import TokenArray, Tokenizer
from storage.blocks import write_block
from storage.dataset_writer import DatasetInputs, DatasetWriter
from storage.datasets import Dataset, PromptFacts, find_by_fingerprint
from storage.documents.parts import StoredBatch
from storage.documents.rows import Split
from storage.errors import CorpusError
from storage.files import fingerprint, sha256_file, sha256_text
from storage.manifests import Source
from storage.tokens import (
    SPLIT_RULE,
    SPLITS,
    EncodedBatch,
    TokenPart,
    are_val,
    token_dtype,
    write_token_parts,
)
from storage.workspace import Workspace
from tasks.dataset import swept
from tasks.engine import road_task
from tasks.parent import Parent, find_parent
from tasks.prompts import FORMS, Example, PromptsConfig, read_examples
from tasks.tokenizers import load_tokenizer
from tasks.watch import pulse

_FORMAT_VERSION = 1  # of what is made of the same file


def make_prompt_dataset(config: PromptsConfig, model: str, workspace: Workspace) -> Dataset:
    """The data set of a file of prompts for a model, made if it is not there.

    Raises CorpusError, with the line, for what is no example or has no room for a response; DatasetError for an empty split.
    """
    parent = find_parent(model, workspace)
    if not config.path.is_file():
        raise CorpusError(f"{config.path}: no such file; give JSON lines of {FORMS}")
    identity = _identity(config, parent)
    if found := find_by_fingerprint(workspace.datasets, config.name, identity):
        return found
    with pulse("encode prompts"), workspace.lock("build"), swept(workspace):
        return _make(config, parent, identity, workspace)


def _identity(config: PromptsConfig, parent: Parent) -> str:
    """Stands for all that the data set's bytes depend on."""
    return fingerprint(
        {
            "format_version": _FORMAT_VERSION,
            "file": sha256_file(config.path),
            "prompt_format": config.prompt_format,
            "tokenizer": load_tokenizer(parent.checkpoint.tokenizer_json()).fingerprint,
            "row_tokens": parent.recipe.network.block_size + 1,
            "val_fraction": config.val_fraction,
            "split_rule": SPLIT_RULE,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExample:
    """An example as ids, of which those from `response_start` on are learnt: UTF-8 of `learnt_bytes`, and end-of-text unless it
    `is_cut`."""

    example: Example
    ids: TokenArray
    response_start: int
    learnt_bytes: int
    is_cut: bool

    def mask(self, padding: int) -> bytes:
        """A byte for each id, and for what follows it in its row."""
        return bytes(self.response_start) + b"\1" * (len(self.ids) - self.response_start) + bytes(padding)


def encoded(example: Example, path: Path, tokenizer: Tokenizer, row_tokens: int) -> EncodedExample:
    """The ids of an example, cut to a row. Raises CorpusError if nothing of the response would be left.

    Prompt and response are encoded apart, as whoever asks the model has the prompt alone.
    """
    prompt = tokenizer.encode(example.prompt) if example.prompt else np.array([tokenizer.end_of_text])
    if len(prompt) >= row_tokens:
        raise CorpusError(
            f"{path}: line {example.line}: its prompt has {len(prompt):,} tokens, and the model reads {row_tokens - 1:,}: nothing "
            "of the response would be left; shorten it, or leave it out"
        )
    whole = np.concatenate([prompt, tokenizer.encode(example.response), [tokenizer.end_of_text]])
    ids = whole.astype(np.dtype(token_dtype(tokenizer.vocabulary_size)))[:row_tokens]
    return EncodedExample(
        example=example,
        ids=ids,
        response_start=len(prompt),
        learnt_bytes=len(tokenizer.decode(ids[len(prompt) :]).encode(errors="replace")),
        is_cut=len(whole) > row_tokens,
    )


class _LaidOut:
    """Examples in rows, each split by itself, in their order."""

    def __init__(self, examples: Sequence[EncodedExample], val_fraction: float, row_tokens: int) -> None:
        self._examples, self._row_tokens = examples, row_tokens
        self._texts = [(one.example.prompt + one.example.response).encode() for one in examples]
        self._sha256 = [sha256_text(text) for text in self._texts]
        self._is_val = are_val(self._sha256, val_fraction)
        self._lengths = np.array([len(one.ids) for one in examples], np.int64)
        self._padding = np.zeros_like(self._lengths)
        for split in SPLITS:
            self._padding[self._of(split)] = paddings(self._lengths[self._of(split)], row_tokens=row_tokens)

    def _of(self, split: Split) -> npt.NDArray[np.bool_]:
        return self._is_val == (split == "val")

    def _places(self, split: Split) -> list[int]:
        places: list[int] = np.flatnonzero(self._of(split)).tolist()
        return places

    def batch(self, end_of_text: int) -> EncodedBatch:
        """As documents, to each of which belongs what follows it in its row."""
        fill = self._examples[0].ids.dtype.type(end_of_text)
        ids = [
            np.append(one.ids, np.repeat(fill, more))
            for one, more in zip(self._examples, self._padding, strict=True)
        ]
        members = [f"line-{one.example.line:09d}" for one in self._examples]
        return EncodedBatch(
            stored=StoredBatch.of(members, self._sha256, self._texts),
            is_val=self._is_val,
            token_counts=self._lengths + self._padding,
            ids=np.concatenate(ids),
        )

    def mask(self, split: Split) -> bytes:
        """A byte for each token of a split."""
        return b"".join(
            self._examples[place].mask(int(self._padding[place])) for place in self._places(split)
        )

    def facts(self, prompt_format: str) -> PromptFacts:
        """What readers must know."""
        learnt = {
            split: sum(self._examples[place].learnt_bytes for place in self._places(split))
            for split in SPLITS
        }
        return PromptFacts(
            row_tokens=self._row_tokens,
            prompt_format=prompt_format,
            cut=sum(one.is_cut for one in self._examples),
            train_response_bytes=learnt["train"],
            val_response_bytes=learnt["val"],
        )


def _make(config: PromptsConfig, parent: Parent, identity: str, workspace: Workspace) -> Dataset:
    text, row_tokens = parent.checkpoint.tokenizer_json(), parent.recipe.network.block_size + 1
    tokenizer = load_tokenizer(text)
    examples = [encoded(one, config.path, tokenizer, row_tokens) for one in read_examples(config)]
    rows = _LaidOut(examples, config.val_fraction, row_tokens)
    dtype = token_dtype(tokenizer.vocabulary_size)
    inputs = DatasetInputs(
        fingerprint=identity,
        quarantined=[],
        quality={},
        left_out=[],
        normalisation={},
        tokenizer_json=text,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
        dtype=dtype,
        val_fraction=config.val_fraction,
    )
    with DatasetWriter(workspace.datasets, config.name) as writer:
        batch = rows.batch(tokenizer.end_of_text)
        (part,) = write_token_parts(workspace.tokens / f"prompts-{identity[:16]}", [[batch]], dtype)
        for block in (*writer.append(_source(config, part), part), *writer.finish()):
            writer.written(write_block(block))
        masks = {split: rows.mask(split) for split in SPLITS}
        writer.add_prompt_files(masks, asdict(rows.facts(config.prompt_format)))
        return writer.publish(writer.describe(inputs, _build_facts(config)))


def _build_facts(config: PromptsConfig) -> dict[str, Any]:
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "config": asdict(config) | {"corpus": str(config.path), "quality": {}},
        "brickroad": version("brickroad"),
        "python": platform.python_version(),
    }


def _source(config: PromptsConfig, part: TokenPart) -> Source:
    return Source(
        name=config.path.name,
        sha256=sha256_file(config.path),
        stored_as="",
        compressed_bytes=config.path.stat().st_size,
        documents=part.train.documents + part.val.documents,
        val_documents=part.val.documents,
        text_bytes=part.train.text_bytes + part.val.text_bytes,
        val_text_bytes=part.val.text_bytes,
        train_tokens=part.train.tokens,
        val_tokens=part.val.tokens,
    )


make_prompt_dataset_task = road_task("encode prompts")(make_prompt_dataset)
