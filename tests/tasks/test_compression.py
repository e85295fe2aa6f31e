"""What tokenizers are compared by: the same documents, whole, and each tokenizer's own count of their tokens."""

from pathlib import Path

import pytest
from tiny_data import build_plainly, tiny_documents

from model import compiled
from storage.datasets import Dataset
from storage.documents.rows import document_columns
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks import compression
from tasks.compression import Compression, measure_compression
from tasks.tokenizers import LibraryTokenizer, gpt2_json

COLUMNS = ["split", "text_bytes", "token_count"]


def measured(dataset: Dataset, **settings: bool) -> Compression:
    return measure_compression(
        dataset, document_columns(dataset.path / "documents.parquet", COLUMNS), **settings
    )


@pytest.fixture
def val_texts(dataset: Dataset) -> list[str]:
    is_val = document_columns(dataset.path / "documents.parquet", ["split"])["split"]
    return [text for text, chosen in zip(tiny_documents(), is_val, strict=True) if chosen]


def test_each_tokenizer_is_measured_on_the_same_documents(dataset: Dataset, val_texts: list[str]) -> None:
    found = measured(dataset, with_gpt2=True)
    text = "".join(val_texts)
    gpt2 = LibraryTokenizer(gpt2_json())
    assert (found.documents, found.text_bytes) == (len(val_texts), len(text.encode()))
    assert found.by_tokenizer == {
        "char": pytest.approx(len(text.encode()) / (dataset.manifest.val.tokens - len(val_texts))),
        "gpt2": pytest.approx(len(text.encode()) / sum(len(gpt2.encode(each)) for each in val_texts)),
        "one a character": pytest.approx(len(text.encode()) / len(text)),
        "one a byte": 1,
    }
    assert next(iter(found.by_tokenizer)) == "char", "the data set's own is the first"
    assert found.low <= found.mean <= found.high


def test_a_short_build_does_not_wait_for_gpt2(dataset: Dataset) -> None:
    assert "gpt2" not in measured(dataset).by_tokenizer


def test_gpt2_is_the_same_where_nothing_was_compiled(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(dataset, with_gpt2=True)
    monkeypatch.setattr(compiled, "loops", None)
    assert measured(dataset, with_gpt2=True) == found


def test_the_sample_has_a_limit(
    dataset: Dataset, val_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [len(text.encode()) for text in val_texts]
    monkeypatch.setattr(compression, "_SAMPLE_BYTES", sizes[0] + 1)
    assert measured(dataset).documents == 2
    assert measured(dataset).text_bytes <= sizes[0] + 4, "of the document that reaches it, the beginning"
    monkeypatch.setattr(compression, "_SAMPLE_DOCUMENTS", 1)
    assert measured(dataset).text_bytes == sizes[0]
    monkeypatch.setattr(compression, "_SAMPLE_BYTES", 10)
    assert measured(dataset).text_bytes <= 40


@pytest.mark.parametrize("tokenizer", ["gpt2", "file"])
def test_the_data_sets_own_tokenizer_goes_by_its_name(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(gpt2_json())
    texts = [*tiny_documents(40), *[""] * 2]
    write_shard(tmp_path / "c" / "a.xz", [(f"{row}.txt", text.encode()) for row, text in enumerate(texts)])
    asked = str(tmp_path / "own.json") if tokenizer == "file" else tokenizer
    dataset = build_plainly(tmp_path / "c", Workspace.at(tmp_path / "workspace"), tokenizer=asked)
    found = measured(dataset, with_gpt2=True).by_tokenizer
    assert next(iter(found)) == (tokenizer if tokenizer != "file" else "own.json")
    if tokenizer == "file":
        assert found["own.json"] == found["gpt2"]
