"""Shards to token files: what is encoded is what was written, whatever the order and the number of workers."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_data import build_plainly, tiny_documents

from model import compiled
from model.tokenizer import tokenizer_from_json
from storage.datasets import Dataset, verify_dataset
from storage.documents.rows import read_document_rows
from storage.errors import DatasetError, ShardError
from storage.shards import write_shard
from storage.tokens import SPLITS, split_of
from storage.workspace import Workspace
from tasks.dataset import groups_of
from tasks.ingest import RefusedShard, refuse_bad_shards
from tasks.look import first_text
from tasks.verify import compare, recorded_config, verify


def decoded(dataset: Dataset, split: str) -> list[str]:
    """The documents of a split, from its token file."""
    tokenizer = tokenizer_from_json(dataset.tokenizer_json())
    ids = np.asarray(dataset.token_file(split).open())  # type: ignore[arg-type]
    ends = np.flatnonzero(ids == tokenizer.end_of_text)
    assert ends[-1] == len(ids) - 1, "the last document is followed by end-of-text too"
    return [tokenizer.decode(piece[piece != tokenizer.end_of_text]) for piece in np.split(ids, ends + 1)[:-1]]


def test_token_files_decode_to_exactly_the_documents(dataset: Dataset) -> None:
    import hashlib

    documents = tiny_documents()
    expected: dict[str, list[str]] = {"train": [], "val": []}
    for text in documents:
        expected[split_of(hashlib.sha256(text.encode()).digest(), dataset.manifest.val_fraction)].append(text)
    assert decoded(dataset, "train") == expected["train"]
    assert decoded(dataset, "val") == expected["val"]
    assert expected["val"], "a check of an empty split would be none"


def test_the_documents_file_leads_from_tokens_to_members(dataset: Dataset) -> None:
    tokenizer = tokenizer_from_json(dataset.tokenizer_json())
    documents, rows = tiny_documents(), list(read_document_rows(dataset.path / "documents.parquet"))
    assert len(rows) == len(documents)
    for text, row in zip(documents, rows, strict=True):
        ids = dataset.token_file(row["split"]).open()[row["token_start"] :][: row["token_count"]]
        assert tokenizer.decode(ids) == text
        assert row["text_bytes"] == len(text.encode())
        assert row["shard"].endswith("_data.xz")


def test_the_vocabulary_is_learnt_from_train_alone(tmp_path: Path, workspace: Workspace) -> None:
    import hashlib

    only_in_val = next(
        text
        for text in (f"val has § {number} " * 20 for number in range(1000))
        if split_of(hashlib.sha256(text.encode()).digest(), 0.1) == "val"
    )
    texts = [only_in_val, *tiny_documents(40)]
    write_shard(tmp_path / "c" / "a.xz", [(f"{i}.txt", text.encode()) for i, text in enumerate(texts)])
    dataset = build_plainly(tmp_path / "c", workspace, character_coverage=1.0)
    assert "§" not in dataset.tokenizer_json()
    assert only_in_val in decoded(dataset, "val"), "and yet it is encoded whole"


def test_the_bytes_do_not_depend_on_where_or_how_often(tiny_corpus: Path, tmp_path: Path) -> None:
    first = build_plainly(tiny_corpus, Workspace.at(tmp_path / "one"))
    moved = shutil.copytree(tiny_corpus, tmp_path / "moved" / "tiny")
    second = build_plainly(moved, Workspace.at(tmp_path / "two"))
    third = build_plainly(moved, Workspace.at(tmp_path / "two"))
    assert first.manifest.digest == second.manifest.digest == third.manifest.digest
    assert first.manifest.fingerprint == second.manifest.fingerprint
    assert compare(first, second) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_an_archive_of_shards_makes_the_data_set_that_its_shards_make(
    workers: int, tiny_corpus: Path, tmp_path: Path
) -> None:
    first = build_plainly(tiny_corpus, Workspace.at(tmp_path / "one"))
    with tarfile.open(tmp_path / "tiny.tar", "w") as tar:
        for path in sorted(tiny_corpus.iterdir()):  # 10 before 2: not the order of a corpus
            tar.add(path, path.name)
    second = build_plainly(tmp_path / "tiny.tar", Workspace.at(tmp_path / "two"), workers=workers)
    assert second.manifest.digest == first.manifest.digest
    assert [source.name for source in second.manifest.sources] == [
        f"tiny.tar/{source.name}" for source in first.manifest.sources
    ]
    assert [source.sha256 for source in second.manifest.sources] == [
        source.sha256 for source in first.manifest.sources
    ]
    assert verify(second)[1] == []


def test_the_same_documents_make_the_same_data_set_in_every_form(real_data: Path, tmp_path: Path) -> None:
    digests = {
        name: build_plainly(real_data / name, Workspace.at(tmp_path / Path(name).name)).manifest.digest
        for name in ("owt-small", "formats/documents.jsonl.zst", "formats/documents.parquet")
    }
    assert len(set(digests.values())) == 1, digests


def test_another_fraction_is_built_from_the_text_that_is_there(tiny_corpus: Path, tmp_path: Path) -> None:
    """The characters that were noted are those of another split then, and are counted again."""
    workspace = Workspace.at(tmp_path / "one")
    build_plainly(tiny_corpus, workspace)
    again = build_plainly(tiny_corpus, workspace, val_fraction=0.4)
    fresh = build_plainly(tiny_corpus, Workspace.at(tmp_path / "two"), val_fraction=0.4)
    assert again.manifest.digest == fresh.manifest.digest
    assert compare(again, fresh) == []


def test_a_finished_build_leaves_no_tokens_but_those_of_the_data_set(
    tiny_corpus: Path, workspace: Workspace
) -> None:
    dataset = build_plainly(tiny_corpus, workspace)
    assert not [path for path in workspace.tokens.rglob("*") if path.is_file()]
    tokens = {split: sum(getattr(s, f"{split}_tokens") for s in dataset.manifest.sources) for split in SPLITS}
    assert tokens == {split: dataset.facts(split).tokens for split in SPLITS}


def test_a_removed_shard_moves_no_document_between_splits(tiny_corpus: Path, tmp_path: Path) -> None:
    whole = build_plainly(tiny_corpus, Workspace.at(tmp_path / "one"))
    (tiny_corpus / "urlsf_subset00-3_data.xz").unlink()
    less = build_plainly(tiny_corpus, Workspace.at(tmp_path / "two"))
    assert set(decoded(less, "val")) < set(decoded(whole, "val")) or decoded(less, "val") == decoded(
        whole, "val"
    )
    assert set(decoded(less, "train")) < set(decoded(whole, "train"))


def test_one_document_cannot_be_split(tmp_path: Path, workspace: Workspace) -> None:
    write_shard(tmp_path / "c" / "a.xz", [("a.txt", b"all alone")])
    with pytest.raises(DatasetError, match="1 document; a train and a val split need at least 2"):
        build_plainly(tmp_path / "c", workspace)
    assert not list(workspace.datasets.glob("*/*/manifest.json"))


def test_a_fraction_that_leaves_a_split_empty_names_the_way_out(
    tiny_corpus: Path, workspace: Workspace
) -> None:
    with pytest.raises(DatasetError, match="val split at --val-fraction 1e-09; choose a larger"):
        build_plainly(tiny_corpus, workspace, val_fraction=1e-9)


def test_bad_shards_are_named_and_counted_beyond_what_is_tolerated() -> None:
    def refused(name: str) -> RefusedShard:
        return RefusedShard(name=name, location=name, place=name, reason="is cut off")

    with pytest.raises(
        ShardError, match=r"a\.xz: is cut off \(and 1 more bad shards\); .*--tolerate-bad-shards 2"
    ):
        refuse_bad_shards([refused("a.xz"), refused("b.xz")], tolerated=1)
    assert refuse_bad_shards([refused("a.xz"), refused("b.xz")], tolerated=2) == []


def test_a_tolerated_shard_stands_in_the_manifest(tiny_corpus: Path, workspace: Workspace) -> None:
    bad = tiny_corpus / "urlsf_subset00-3_data.xz"
    bad.write_bytes(bad.read_bytes()[:-20])
    dataset = build_plainly(tiny_corpus, workspace, tolerate_bad_shards=1)
    assert [shard.name for shard in dataset.manifest.quarantined] == ["urlsf_subset00-3_data.xz"]
    assert "cut off" in dataset.manifest.quarantined[0].reason
    assert len(dataset.manifest.sources) == 11


@pytest.mark.parametrize("workers", [1, 2, 4, 64, 1000])
@pytest.mark.parametrize("count", [0, 1, 7, 1000, 20_610])
def test_groups_hold_every_item_once_in_order(workers: int, count: int) -> None:
    groups = list(groups_of(range(count), count, workers))
    assert [item for group in groups for item in group] == list(range(count))
    assert len(groups) <= max(200, 4 * workers)
    assert all(groups)


@pytest.mark.parametrize("workers", [100, 200, 1000])
def test_no_group_is_more_than_half_of_what_a_worker_does(workers: int) -> None:
    groups = groups_of(range(1_000_000), 1_000_000, workers)
    assert max(map(len, groups)) <= 0.51 * 1_000_000 / workers


# What workers import as they start.
ANOTHER_ENCODER = """
import numpy
from model.compiled import BytePairs
def encode_documents(self, texts):
    return numpy.zeros(len(texts.utf8) + len(texts), numpy.uint16), texts.sizes + 1
BytePairs.encode_documents = encode_documents
"""
NO_ENCODER = """
from model import compiled
compiled.loops = None
"""


@pytest.mark.skipif(compiled.loops is None, reason="nothing was compiled here: no C compiler")
@pytest.mark.parametrize("startup", [ANOTHER_ENCODER, NO_ENCODER])
def test_an_encoder_that_gives_other_ids_or_none_gives_way_to_the_reference(
    startup: str,
    tiny_corpus: Path,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = build_plainly(tiny_corpus, workspace, tokenizer="gpt2")
    assert dataset.manifest.build["encoder"].startswith("brickroad, equal to tokenizers ")
    (tmp_path / "sitecustomize.py").write_text(startup)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the workers
    again = build_plainly(tiny_corpus, Workspace.at(tmp_path / "elsewhere"), tokenizer="gpt2")
    assert "the reference encodes" in caplog.text
    assert again.manifest.build["encoder"].startswith("tokenizers ")
    assert again.manifest.digest == dataset.manifest.digest


ANOTHER_GIGATOKEN = """
import numpy
class Tokenizer:
    @classmethod
    def from_json(cls, text):
        return cls()
    def encode(self, text):
        return numpy.zeros(len(text), numpy.uint32)
"""
NO_GIGATOKEN = "raise ImportError('no wheel for this machine')"


@pytest.mark.parametrize("module", [ANOTHER_GIGATOKEN, NO_GIGATOKEN])
def test_where_nothing_was_compiled_gigatoken_encodes_or_gives_way_to_the_reference(
    module: str, tiny_corpus: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "loops", None)
    dataset = build_plainly(tiny_corpus, workspace, tokenizer="gpt2")
    assert dataset.manifest.build["encoder"].startswith("gigatoken ")
    (tmp_path / "gigatoken.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    again = build_plainly(tiny_corpus, Workspace.at(tmp_path / "elsewhere"), tokenizer="gpt2")
    assert again.manifest.build["encoder"].startswith("tokenizers ")
    assert again.manifest.digest == dataset.manifest.digest


BUILD = """
import sys
from pathlib import Path
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.workers import Workers
with Workers(1) as workers:
    build(CorpusConfig(corpus=sys.argv[1], val_fraction=0.3), Workspace.at(Path(sys.argv[2])), workers)
    in_worker = workers.run(eval, "'pandas' in __import__('sys').modules")
print("pandas" in sys.modules, in_worker)
"""


def test_no_process_of_a_build_imports_pandas(tiny_corpus: Path, tmp_path: Path) -> None:
    """It takes half a second of each and 40 MB, and pyarrow does so at many a turn."""
    command = [sys.executable, "-c", BUILD, str(tiny_corpus), str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False False\n"


def test_verify_finds_a_flipped_byte_and_names_the_file(dataset: Dataset) -> None:
    assert verify(dataset)[1] == []
    path = dataset.path / "val.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    wrong = [line for _, _, lines in verify_dataset(dataset) for line in lines]
    assert len(wrong) == 1
    assert "val.bin" in wrong[0]


def test_the_manifest_tells_how_to_build_it_again(dataset: Dataset, tmp_path: Path) -> None:
    config = recorded_config(dataset)
    again = build_plainly(Path(config.corpus), Workspace.at(tmp_path / "again"))
    assert compare(dataset, again) == []


def test_a_look_shows_text(dataset: Dataset) -> None:
    assert first_text(dataset).startswith("Document 0.")
