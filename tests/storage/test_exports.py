"""Exports are what other programs read: nanoGPT's memory maps and pickle, Megatron's index, Parquet, JSON lines."""

import io
import json
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from tiny_data import build_plainly, tiny_documents

from storage.datasets import Dataset
from storage.documents.rows import read_document_rows
from storage.errors import DatasetError
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.export import export
from tasks.tokenizers import load_tokenizer

SPLITS = ("train", "val")


@pytest.fixture(scope="module", params=["char", "gpt2", "bpe:300"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("export")
    texts = [*tiny_documents(60), "odd \u2028 line <|endoftext|> end"]
    write_shard(place / "c" / "a.xz", [(f"{i}.txt", text.encode()) for i, text in enumerate(texts)])
    return build_plainly(place / "c", Workspace.at(place / "w"), tokenizer=request.param)


def rows_of(dataset: Dataset, split: str) -> list[dict[str, object]]:
    return [row for row in read_document_rows(dataset.path / "documents.parquet") if row["split"] == split]


class NothingImported(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise AssertionError(f"the pickle imports {module}.{name}")


def test_nanogpt_reads_its_memory_maps_and_its_pickle_imports_nothing(made: Dataset, tmp_path: Path) -> None:
    export(made, "nanogpt", tmp_path)
    for split in SPLITS:
        ids = np.memmap(tmp_path / f"{split}.bin", dtype=np.uint16, mode="r")
        assert np.array_equal(ids, made.token_file(split).open())  # type: ignore[arg-type]
    if made.manifest.vocabulary_size == 50_257:
        assert not (tmp_path / "meta.pkl").exists(), "nanoGPT has GPT-2's tokenizer itself"
        return
    content = (tmp_path / "meta.pkl").read_bytes()
    assert {code.name for code, _, _ in pickletools.genops(content)} <= {
        "PROTO", "EMPTY_DICT", "MARK", "BINUNICODE", "BININT", "SETITEMS", "STOP",
    }  # fmt: skip
    meta = NothingImported(io.BytesIO(content)).load()
    assert set(meta) == {"vocab_size", "itos", "stoi"}
    assert meta["vocab_size"] == made.manifest.vocabulary_size
    # as nanoGPT's sample.py has it
    encode, decode = (
        (lambda s: [meta["stoi"][c] for c in s]),
        (lambda ids: "".join(meta["itos"][i] for i in ids)),
    )
    assert decode(encode("the road")) == "the road"


def test_megatron_s_index_says_where_each_document_is(made: Dataset, tmp_path: Path) -> None:
    export(made, "megatron", tmp_path)
    for split in SPLITS:
        content = (tmp_path / f"{split}.idx").read_bytes()
        assert content[:9] == b"MMIDIDX\x00\x00"
        version, code, sequences, documents = struct.unpack_from("<QBQQ", content, 9)
        assert (version, code, documents) == (1, 8, sequences + 1)
        lengths = np.frombuffer(content, "<i4", sequences, 34)
        pointers = np.frombuffer(content, "<i8", sequences, 34 + 4 * sequences)
        assert np.frombuffer(content, "<i8", documents, 34 + 12 * sequences).tolist() == list(
            range(documents)
        )
        ids = np.memmap(tmp_path / f"{split}.bin", dtype="<u2", mode="r")
        rows = rows_of(made, split)
        assert lengths.tolist() == [row["token_count"] for row in rows]
        assert (pointers // 2).tolist() == [row["token_start"] for row in rows]
        assert lengths.sum() == len(ids)
        assert len(content) == 34 + 12 * sequences + 8 * documents


def test_parquet_has_a_list_of_ids_a_document(made: Dataset, tmp_path: Path) -> None:
    export(made, "parquet", tmp_path)
    for split in SPLITS:
        table = pq.read_table(tmp_path / f"{split}.parquet")
        assert table.column_names == ["shard", "member", "input_ids"]
        joined = np.concatenate(table.column("input_ids").to_pylist())
        assert np.array_equal(joined, made.token_file(split).open())  # type: ignore[arg-type]


def test_json_lines_have_the_texts(made: Dataset, tmp_path: Path) -> None:
    export(made, "jsonl", tmp_path)
    texts = []
    for split in SPLITS:
        with (tmp_path / f"{split}.jsonl.zst").open("rb") as file:
            content = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
        lines = [json.loads(line) for line in content.split("\n")[:-1]]
        assert [line["member"] for line in lines] == [row["member"] for row in rows_of(made, split)]
        texts += [line["text"] for line in lines]
    assert sorted(texts) == sorted([*tiny_documents(60), "odd \u2028 line <|endoftext|> end"])


def test_an_export_is_a_corpus_that_gives_the_same_documents(
    made: Dataset, tmp_path: Path, workspace: Workspace
) -> None:
    export(made, "jsonl", tmp_path / "out")
    again = build_plainly(tmp_path / "out", workspace)
    assert again.manifest.train.documents == made.manifest.train.documents
    assert again.manifest.val.text_bytes == made.manifest.val.text_bytes


def test_a_vocabulary_of_32_bits_is_refused_by_nanogpt_s_layout(made: Dataset, tmp_path: Path) -> None:
    from dataclasses import replace

    large = replace(made, manifest=replace(made.manifest, dtype="uint32"))
    with pytest.raises(DatasetError, match="nanoGPT reads ids of 16 bits; choose --format megatron"):
        export(large, "nanogpt", tmp_path)
    assert load_tokenizer(made.tokenizer_json()).vocabulary_size == made.manifest.vocabulary_size
