"""How many bytes of text a token stands for: a data set's own tokenizer beside others, on the same documents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.texts import Texts
from storage.datasets import Dataset
from tasks.tokenizers import gpt2_json, load_tokenizer

_SAMPLE_BYTES = 512 << 10
_SAMPLE_DOCUMENTS = 2000  # of a few bytes each, there could be very many
# GPT-2's tokenizer is loaded and warm after about half a second, whatever it encodes: 2 % of such a build.
_WORTHWHILE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Bytes of text a token, without ends of text, of each tokenizer by its name; and the sample that tells it.

    `low` and `high` are those of the data set's own tokenizer between which nine of ten of its documents lie.
    """

    mean: float
    low: float
    high: float
    by_tokenizer: dict[str, float]
    documents: int
    text_bytes: int


def measure_compression(
    dataset: Dataset, columns: dict[str, Any], *, with_gpt2: bool | None = None
) -> Compression:
    """Compares on val documents, about 512 KiB of them; `columns` are those of `documents.parquet`.

    GPT-2's is measured if asked for; by default if it costs nothing beside what the build took.
    """
    seconds = sum(dataset.manifest.build["stages"].values())
    with_gpt2 = seconds > _WORTHWHILE_SECONDS if with_gpt2 is None else with_gpt2
    per_token = columns["text_bytes"] / columns["token_count"]
    texts, tokens = _sample(dataset, columns)
    text_bytes, name = sum(map(len, texts)), _own_name(dataset)
    counts = {name: tokens}
    if with_gpt2 and name != "gpt2":
        counts["gpt2"] = _gpt2_tokens(texts)
    counts["one a character"] = sum(len(text.decode()) for text in texts)
    counts["one a byte"] = text_bytes
    return Compression(
        mean=float(columns["text_bytes"].sum() / columns["token_count"].sum()),
        low=float(np.percentile(per_token, 5)),
        high=float(np.percentile(per_token, 95)),
        by_tokenizer={name: text_bytes / max(1, count) for name, count in counts.items()},
        documents=len(texts),
        text_bytes=text_bytes,
    )


def _own_name(dataset: Dataset) -> str:
    asked = str(dataset.manifest.build["config"]["tokenizer"])
    return asked if asked in ("char", "gpt2") or asked.startswith("bpe:") else Path(asked).name


def _sample(dataset: Dataset, columns: dict[str, Any]) -> tuple[list[bytes], int]:
    """The first val documents, decoded, and the number of their tokens; of the last, perhaps the beginning."""
    is_val = columns["split"]
    sizes, counts = (columns[name][is_val][:_SAMPLE_DOCUMENTS] for name in ("text_bytes", "token_count"))
    room = _SAMPLE_BYTES - (np.cumsum(sizes) - sizes)  # before each of them
    ids, tokenizer = dataset.token_file("val").open(), load_tokenizer(dataset.tokenizer_json())
    starts, lengths = np.cumsum(counts) - counts, np.minimum(counts - 1, room)
    chosen = zip(starts[room > 0].tolist(), lengths[room > 0].tolist(), strict=True)
    pieces = [ids[start : start + length] for start, length in chosen]
    return [tokenizer.decode(piece).encode() for piece in pieces], sum(map(len, pieces))


def _gpt2_tokens(texts: list[bytes]) -> int:
    """How many tokens of GPT-2's these texts are."""
    ids, _ = load_tokenizer(gpt2_json()).encode_documents(Texts.of(texts))
    return len(ids) - len(texts)
