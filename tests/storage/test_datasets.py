"""A data set is published whole, named by its bytes, found by name and digest, and every damage to it is found."""

import errno
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from storage.datasets import (
    Dataset,
    DatasetInputs,
    Source,
    find_by_fingerprint,
    find_dataset,
    list_datasets,
    publish_dataset,
    read_dataset,
    refuse_empty_split,
    verify_dataset,
)
from storage.documents import StoredDocument, read_document_rows
from storage.errors import DatasetError
from storage.files import sha256_file
from storage.shards import sha256_text
from storage.tokens import TokenArray, TokenPart, split_of, write_token_part

END = 0
FRACTION = 0.4
TEXTS = [f"text {number}: " + "brick " * (number % 5) for number in range(60)]
FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")


def ids_of(text: str) -> TokenArray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.uint16)


def text_of(ids: TokenArray) -> str:
    return bytes(ids.astype(np.uint8)).decode()


def write_part(path: Path, texts: Sequence[str]) -> TokenPart:
    documents = [
        StoredDocument(member=f"{n}.txt", sha256=sha256_text(text.encode()), text=text, text_bytes=len(text))
        for n, text in enumerate(texts)
    ]
    pairs = [(document, ids_of(document.text)) for document in documents]
    return write_token_part(path, pairs, val_fraction=FRACTION, dtype="uint16", end_of_text=END)


def publish(
    folder: Path,
    texts: Sequence[str] = TEXTS,
    cuts: Sequence[int] = (20, 40),
    name: str = "oz",
    fingerprint: str = "f1",
    created: str = "2024",
) -> Dataset:
    """The texts as a data set of as many shards as there are cuts, and one."""
    bounds = [0, *cuts, len(texts)]
    groups = [texts[begin:end] for begin, end in pairwise(bounds)]
    parts = [
        write_part(folder / "tokens" / f"{len(texts)}-{cuts}-{n}", group) for n, group in enumerate(groups)
    ]
    sources = [
        Source(name=f"s-{n}.xz", sha256=f"{n}", compressed_bytes=1, documents=len(group), text_bytes=1)
        for n, group in enumerate(groups)
    ]
    inputs = DatasetInputs(
        name=name,
        fingerprint=fingerprint,
        sources=sources,
        parts=parts,
        quarantined=[],
        normalisation={"byte_order_marks": 0},
        tokenizer_json='{"kind": "bytes"}',
        tokenizer_fingerprint="t",
        vocabulary_size=256,
        end_of_text=END,
        dtype="uint16",
        val_fraction=FRACTION,
    )
    return publish_dataset(folder / "datasets", inputs, {"created_at": created})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture
def dataset(published: Dataset, tmp_path: Path) -> Dataset:
    """A fresh copy of the data set `oz`, in `datasets`."""
    shutil.copytree(published.path.parents[1], tmp_path / "datasets")
    return read_dataset(tmp_path / "datasets" / "oz" / published.path.name)


def problems(dataset: Dataset) -> list[str]:
    return [line for _, _, wrong in verify_dataset(dataset) for line in wrong]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# --- publishing -------------------------------------------------------------------------------------------------------


def test_the_token_files_decode_to_the_documents_in_order(dataset: Dataset) -> None:
    for split in ("train", "val"):
        expected = [text for text in TEXTS if split_of(sha256_text(text.encode()), FRACTION) == split]
        assert len(expected) > 10
        ids = dataset.token_file(split).open()  # type: ignore[arg-type]
        assert text_of(ids) == "".join(text + "\0" for text in expected)
        assert (dataset.path / f"{split}.bin").read_bytes() == ids.astype("<u2").tobytes()
        assert dataset.facts(split).documents == len(expected)  # type: ignore[arg-type]
        assert dataset.facts(split).text_bytes == sum(len(text.encode()) for text in expected)  # type: ignore[arg-type]


def test_each_document_is_found_by_its_range_of_tokens(dataset: Dataset) -> None:
    bins = {split: dataset.token_file(split).open() for split in ("train", "val")}  # type: ignore[arg-type]
    rows = list(read_document_rows(dataset.path / "documents.parquet"))
    assert len(rows) == len(TEXTS)
    for number, (text, row) in enumerate(zip(TEXTS, rows, strict=True)):
        ids = bins[row["split"]][row["token_start"] : row["token_start"] + row["token_count"]]
        assert text_of(ids) == text + "\0"
        assert (row["shard"], row["member"]) == (f"s-{number // 20}.xz", f"{number % 20}.txt")
        assert row["sha256"] == sha256_text(text.encode())


def test_the_digest_depends_on_documents_and_not_on_their_shards(tmp_path: Path, dataset: Dataset) -> None:
    other = publish(tmp_path / "elsewhere", cuts=(7,))
    assert other.manifest.digest == dataset.manifest.digest
    for name in FILES[:3]:
        assert sha256_file(other.path / name) == sha256_file(dataset.path / name)


def test_the_same_parts_give_the_same_bytes_again(tmp_path: Path, dataset: Dataset) -> None:
    other = publish(tmp_path / "elsewhere", created="another day")
    for name in FILES:
        assert sha256_file(other.path / name) == sha256_file(dataset.path / name)


def test_the_manifest_survives_being_written_and_read(dataset: Dataset) -> None:
    assert read_dataset(dataset.path) == dataset
    assert dataset.tokenizer_json() == '{"kind": "bytes"}'
    assert dataset.path.name == dataset.manifest.digest
    assert len(dataset.manifest.digest) == 32
    assert dataset.reference == f"oz@{dataset.manifest.digest[:12]}"
    assert set(asdict(dataset.manifest)["files"]) == set(FILES)


def test_publishing_leaves_nothing_but_the_data_set(tmp_path: Path, dataset: Dataset) -> None:
    found = {
        path.relative_to(tmp_path / "datasets" / "oz").as_posix()
        for path in (tmp_path / "datasets").rglob("*")
        if path.is_file()
    }
    digest = dataset.manifest.digest
    assert found == {f"{digest}/{name}" for name in (*FILES, "manifest.json")} | {"by-inputs/f1"}


@pytest.mark.parametrize("nth", range(1, 20, 3))
def test_a_disk_that_fails_at_any_flush_publishes_nothing_or_all(
    nth: int, published: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushes = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == 30 + nth:  # after the parts
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=f"No space left on device: .*{tmp_path}"):
        publish(tmp_path)
    monkeypatch.undo()
    assert all(problems(found) == [] for found in list_datasets(tmp_path / "datasets"))
    assert not list((tmp_path / "datasets").rglob("*.partial"))
    again = publish(tmp_path)
    assert {name: sha256_file(again.path / name) for name in FILES} == {
        name: sha256_file(published.path / name) for name in FILES
    }


def test_an_empty_split_is_refused_before_anything_is_published(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="corpus has 1 document; a train and a val split need at least 2"):
        refuse_empty_split(1, 0, 0.1)
    with pytest.raises(
        DatasetError,
        match=r"none of the 5 documents fell into the val split at --val-fraction 0.01; choose a larger",
    ):
        refuse_empty_split(5, 0, 0.01)
    with pytest.raises(DatasetError, match=r"train split .* choose a smaller"):
        refuse_empty_split(0, 5, 0.99)
    refuse_empty_split(1, 1, 0.5)
    with pytest.raises(DatasetError, match="need at least 2"):
        publish(tmp_path, TEXTS[:1], cuts=())
    assert not (tmp_path / "datasets").exists()


# --- finding ----------------------------------------------------------------------------------------------------------


def test_a_data_set_is_found_by_name_digest_and_path(tmp_path: Path, dataset: Dataset) -> None:
    folder, digest = tmp_path / "datasets", dataset.manifest.digest
    for reference in ("oz", "oz@", f"oz@{digest[:6]}", f"oz@{digest}", str(dataset.path), dataset.reference):
        assert find_dataset(folder, reference) == dataset


def test_a_relative_path_is_made_absolute(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dataset.path.parent)
    assert find_dataset(Path("nowhere"), dataset.path.name).path == dataset.path


@pytest.mark.parametrize("reference", ["kansas", "oz@ffff0000ffff", "", "../oz", "/", "*", "oz@*"])
def test_a_data_set_that_is_not_there_names_those_that_are(
    reference: str, tmp_path: Path, dataset: Dataset
) -> None:
    with pytest.raises(
        DatasetError, match=r"no such data set in .*datasets \(there: oz\); see: brickroad dataset list"
    ):
        find_dataset(tmp_path / "datasets", reference)
    with pytest.raises(DatasetError, match="none yet"):
        find_dataset(tmp_path / "nowhere", "oz")


def test_the_newest_of_a_name_is_meant(tmp_path: Path) -> None:
    publish(tmp_path, created="2025", fingerprint="new")
    old = publish(tmp_path, TEXTS[:50], created="2023", fingerprint="old")
    assert find_dataset(tmp_path / "datasets", "oz").manifest.fingerprint == "new"
    assert [d.manifest.fingerprint for d in list_datasets(tmp_path / "datasets")] == ["old", "new"]
    assert find_dataset(tmp_path / "datasets", old.reference) == old


def test_a_broken_neighbour_keeps_nobody_from_another_name(tmp_path: Path, dataset: Dataset) -> None:
    other = publish(tmp_path, name="kansas")
    (other.path / "manifest.json").write_text("{")
    assert find_dataset(tmp_path / "datasets", "oz") == dataset
    with pytest.raises(DatasetError, match="not a manifest"):
        find_dataset(tmp_path / "datasets", "kansas")


def test_the_same_inputs_find_their_data_set_and_other_inputs_the_same_bytes(
    tmp_path: Path, dataset: Dataset
) -> None:
    folder = tmp_path / "datasets"
    assert find_by_fingerprint(folder, "oz", "f1") == dataset
    assert find_by_fingerprint(folder, "oz", "f2") is None
    assert find_by_fingerprint(folder, "kansas", "f1") is None
    again = publish(tmp_path, cuts=(3,), fingerprint="f2")
    assert again == dataset  # the first stands: its digest is the same
    assert find_by_fingerprint(folder, "oz", "f2") == dataset


@pytest.mark.parametrize("damage", ["manifest gone", "train.bin gone", "val.bin cut", "manifest broken"])
def test_a_data_set_that_lost_something_is_built_again(damage: str, tmp_path: Path, dataset: Dataset) -> None:
    what, how = damage.split()
    path = dataset.path / ("manifest.json" if what == "manifest" else what)
    before = {name: sha256_file(dataset.path / name) for name in FILES}
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2])
    assert find_by_fingerprint(tmp_path / "datasets", "oz", "f1") is None
    again = publish(tmp_path)
    assert problems(again) == []
    assert {name: sha256_file(again.path / name) for name in FILES} == before
    assert not list((tmp_path / "datasets").rglob("*.partial"))


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_whole_data_set_verifies_every_byte(dataset: Dataset) -> None:
    assert problems(dataset) == []
    checked = {name: size for name, size, _ in verify_dataset(dataset)}
    assert {name: checked[name] for name in FILES} == {
        name: (dataset.path / name).stat().st_size for name in FILES
    }


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_with_its_file_and_block(name: str, dataset: Dataset) -> None:
    size = (dataset.path / name).stat().st_size
    for position in {0, size // 2, size - 1, random.Random(name).randrange(size)}:
        flip(dataset.path / name, position)
        (problem,) = problems(dataset)
        assert problem.startswith(
            f"{dataset.path / name}: bytes differ in block 0 of 64 MiB; delete {dataset.path}"
        )
        flip(dataset.path / name, position)
    assert problems(dataset) == []


@pytest.mark.parametrize("name", FILES)
def test_a_cut_and_a_missing_file_are_found(name: str, dataset: Dataset) -> None:
    path = dataset.path / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    (problem,) = problems(dataset)
    assert f"{path}: has {len(content) - 1:,} bytes where {len(content):,} are recorded" in problem
    path.unlink()
    (problem,) = problems(dataset)
    assert f"{path}: is missing" in problem


def test_any_edit_of_the_manifest_is_found(dataset: Dataset) -> None:
    path = dataset.path / "manifest.json"
    whole = json.loads(path.read_text())
    edits = [
        ("name", "kansas"),
        ("dtype", "uint32"),
        ("end_of_text", 1),
        ("val_fraction", 0.5),
        ("digest", "0" * 32),
        ("sources", whole["sources"][:1]),
        ("sources", [source | {"sha256": "other"} for source in whole["sources"]]),
        ("files", {name: facts for name, facts in whole["files"].items() if name != "val.bin"}),
        ("files", {}),
        ("train", whole["train"] | {"tokens": 1}),
        ("build", whole["build"] | {"created_at": "1999"}),
        ("seal", ""),
        ("seal", None),
    ]
    for field, value in edits:
        path.write_text(json.dumps(whole | {field: value}))
        found = problems(read_dataset(dataset.path))
        assert any("manifest.json: was edited or damaged" in problem for problem in found), field
    path.write_text(json.dumps(whole, indent=7))  # another spelling of the same facts
    assert problems(read_dataset(dataset.path)) == []


def test_checksums_of_blocks_that_are_too_few_are_no_crash(dataset: Dataset) -> None:
    path = dataset.path / "manifest.json"
    whole = json.loads(path.read_text())
    whole["files"]["train.bin"]["block_sha256"] = []
    path.write_text(json.dumps(whole))
    flip(dataset.path / "train.bin", 3)
    assert len(problems(read_dataset(dataset.path))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"format_version": 1}',
        '{"format_version": 1, "files": [], "train": {}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(text: str, dataset: Dataset) -> None:
    (dataset.path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match="not a manifest") as refused:
        read_dataset(dataset.path)
    assert "\n" not in str(refused.value)
    assert str(dataset.path) in str(refused.value)


def test_a_manifest_with_one_field_of_another_kind_is_refused_or_found(dataset: Dataset) -> None:
    path = dataset.path / "manifest.json"
    whole = json.loads(path.read_text())
    for field in whole:
        for value in (None, [], {}, "x", -1, [1], {"a": 1}):
            path.write_text(json.dumps(whole | {field: value}))
            try:
                read = read_dataset(dataset.path)
            except DatasetError:
                continue
            assert read == dataset or next(verify_dataset(read))[2]


def test_bytes_that_are_not_text_are_no_manifest(dataset: Dataset) -> None:
    (dataset.path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DatasetError, match="not a manifest"):
        read_dataset(dataset.path)


def test_another_format_and_an_unfinished_folder_are_refused(dataset: Dataset) -> None:
    path = dataset.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(DatasetError, match="format 99 is not 1; build it again"):
        read_dataset(dataset.path)
    path.unlink()
    for place in (dataset.path, dataset.path / "nowhere", dataset.path / "train.bin"):
        with pytest.raises(DatasetError, match="no finished data set here"):
            read_dataset(place)


def test_a_data_set_can_be_moved(dataset: Dataset, tmp_path: Path) -> None:
    moved = read_dataset(Path(shutil.move(dataset.path, tmp_path / "elsewhere")))
    assert problems(moved) == []
    assert moved.token_file("train").open().tolist()
