"""A data set is published whole, named by its bytes, found by name and digest, and every damage to it is found."""

import errno
import gc
import json
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bad_disks import fail_flush, small_disk

from storage import blocks
from storage.blocks import file_facts, write_block
from storage.dataset_writer import DatasetInputs, DatasetWriter, refuse_empty_split
from storage.datasets import (
    Dataset,
    find_by_fingerprint,
    find_dataset,
    list_datasets,
    read_dataset,
    verify_dataset,
)
from storage.documents.parts import StoredBatch
from storage.documents.rows import read_document_rows
from storage.errors import DatasetError
from storage.files import sha256_file, sha256_text
from storage.manifests import Quarantined, Source
from storage.tokens import (
    EncodedBatch,
    TokenArray,
    TokenPart,
    are_val,
    split_of,
    write_token_parts,
)

END = 0
FRACTION = 0.4
TEXTS = [f"text {number}: " + "brick " * (number % 5) for number in range(60)]
FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")


def ids_of(text: str) -> TokenArray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.uint16)


def text_of(ids: TokenArray) -> str:
    return bytes(ids.astype(np.uint8)).decode()


def write_part(path: Path, texts: Sequence[str]) -> TokenPart:
    (part,) = write_parts(path, [texts])
    return part


def write_parts(path: Path, groups: Sequence[Sequence[str]]) -> list[TokenPart]:
    return write_token_parts(path, [[encoded(group)] for group in groups], "uint16")


def encoded(texts: Sequence[str]) -> EncodedBatch:
    stored = StoredBatch.of(
        members=[f"{n}.txt" for n in range(len(texts))],
        sha256=[sha256_text(text.encode()) for text in texts],
        texts=[text.encode() for text in texts],
    )
    is_val = are_val(stored.sha256, FRACTION)
    ids = ids_of("".join(text + "\0" for text in texts))
    counts = np.array([len(text) + 1 for text in texts])
    return EncodedBatch(stored=stored, is_val=is_val, token_counts=counts, ids=ids)


def inputs_of(fingerprint: str = "f1") -> DatasetInputs:
    return DatasetInputs(
        fingerprint=fingerprint,
        quarantined=[Quarantined(name="bad.xz", reason="is cut off")],
        quality={},
        left_out=[],
        normalisation={"byte_order_marks": 0},
        tokenizer_json='{"kind": "bytes"}',
        tokenizer_fingerprint="t",
        vocabulary_size=256,
        end_of_text=END,
        dtype="uint16",
        val_fraction=FRACTION,
    )


def parts_of(folder: Path, texts: Sequence[str], cuts: Sequence[int]) -> Iterator[tuple[Source, TokenPart]]:
    """The parts of as many shards as there are cuts, and one; each is made when it is asked for."""
    for n, (begin, end) in enumerate(pairwise([0, *cuts, len(texts)])):
        group = texts[begin:end]
        part = write_part(folder / "tokens" / f"{len(texts)}-{len(cuts)}-{n}", group)
        source = Source(
            name=f"s-{n}.xz",
            sha256=f"{n}",
            stored_as=f"{n}-settings",
            compressed_bytes=1,
            documents=len(group),
            val_documents=part.val.documents,
            text_bytes=sum(map(len, group)),
            val_text_bytes=part.val.text_bytes,
            train_tokens=part.train.tokens,
            val_tokens=part.val.tokens,
        )
        yield source, part


def join(writer: DatasetWriter, parts: Iterable[tuple[Source, TokenPart]]) -> None:
    """Appends the parts, and writes each block as soon as it is given."""
    for each in parts:
        join_one(writer, each)
    for block in writer.finish():
        writer.written(write_block(block))


def join_one(writer: DatasetWriter, each: tuple[Source, TokenPart]) -> None:
    for block in writer.append(*each):
        writer.written(write_block(block))


def publish(
    folder: Path,
    texts: Sequence[str] = TEXTS,
    cuts: Sequence[int] = (20, 40),
    name: str = "oz",
    fingerprint: str = "f1",
    created: str = "2024",
) -> Dataset:
    """The texts as a data set of as many shards as there are cuts, and one; no part is left."""
    with DatasetWriter(folder / "datasets", name) as writer:
        join(writer, parts_of(folder, texts, cuts))
        return writer.publish(writer.describe(inputs_of(fingerprint), {"created_at": created}))


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
    assert dataset.manifest.quarantined == [Quarantined(name="bad.xz", reason="is cut off")]


def test_the_manifest_tells_the_checksums_of_each_file_and_the_tokens_of_each_source(
    dataset: Dataset,
) -> None:
    manifest = dataset.manifest
    for name, facts in manifest.files.items():
        assert facts == file_facts(dataset.path / name)
    assert [source.name for source in manifest.sources] == ["s-0.xz", "s-1.xz", "s-2.xz"]
    assert sum(source.train_tokens for source in manifest.sources) == manifest.train.tokens
    assert sum(source.val_tokens for source in manifest.sources) == manifest.val.tokens
    assert manifest.train.tokens * 2 == (dataset.path / "train.bin").stat().st_size
    rows = list(read_document_rows(dataset.path / "documents.parquet"))
    for source in manifest.sources:
        own = [row for row in rows if row["shard"] == source.name]
        assert sum(row["token_count"] for row in own if row["split"] == "train") == source.train_tokens
        assert sum(row["token_count"] for row in own if row["split"] == "val") == source.val_tokens


@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (0, 0, 60), tuple(range(1, 60))])
def test_parts_of_any_size_are_joined_to_the_same_tokens(
    cuts: tuple[int, ...], dataset: Dataset, tmp_path: Path
) -> None:
    other = publish(tmp_path / "elsewhere", cuts=cuts)
    assert other.manifest.digest == dataset.manifest.digest
    assert problems(other) == []
    rows = [list(read_document_rows(found.path / "documents.parquet")) for found in (dataset, other)]
    for here, there in zip(*rows, strict=True):
        for column in ("split", "sha256", "text_bytes", "token_start", "token_count"):
            assert here[column] == there[column]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("appended", [0, 1, 3])
def test_a_writer_that_fails_leaves_nothing_and_says_nothing_more(appended: int, tmp_path: Path) -> None:
    parts = list(parts_of(tmp_path, TEXTS, (20, 40)))
    with pytest.raises(KeyboardInterrupt), DatasetWriter(tmp_path / "datasets", "oz") as writer:
        for source, part in parts[:appended]:
            list(writer.append(source, part))
        raise KeyboardInterrupt
    del writer
    gc.collect()  # what is open still would be closed now, and complain
    assert not [path for path in (tmp_path / "datasets").rglob("*") if path.name != "oz"]


@pytest.mark.parametrize("sizes", [[3], [1, 2], [2, 1]])
def test_files_of_some_parts_go_when_all_of_them_are_joined(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    alone = list(parts_of(tmp_path, TEXTS[:30], (10, 20)))
    groups = iter([TEXTS[:10], TEXTS[10:20], TEXTS[20:30]])
    together = [
        part
        for number, size in enumerate(sizes)
        for part in write_parts(tmp_path / "shared" / f"{number}", [next(groups) for _ in range(size)])
    ]
    with DatasetWriter(tmp_path / "datasets", "alone") as writer:
        join(writer, alone)
        expected = writer.describe(inputs_of(), {}).manifest.files
    with DatasetWriter(tmp_path / "datasets", "together") as writer:
        for (source, _), part in zip(alone, together, strict=True):
            assert part.rows.path.is_file()
            join_one(writer, (source, part))
        for block in writer.finish():
            writer.written(write_block(block))
        assert writer.describe(inputs_of(), {}).manifest.files == expected
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name in ("tokens", "shared")
    ]


def test_a_part_that_is_gone_is_an_error_that_names_it_and_publishes_nothing(tmp_path: Path) -> None:
    parts = list(parts_of(tmp_path, TEXTS, (20, 40)))
    parts[1][1].train_tokens.path.unlink()
    with (
        pytest.raises(FileNotFoundError, match=r"tokens/.*-1\.train"),
        DatasetWriter(tmp_path / "datasets", "oz") as writer,
    ):
        join(writer, parts)
    assert list_datasets(tmp_path / "datasets") == ([], [])


LONG_TEXTS = [f"{number} " + "brick " * 4000 for number in range(12)]  # 48 kB of tokens each


@pytest.mark.parametrize("kilobytes", [40, 104, 240, 500, 560, 580, 600, 604, 608, 620, 700])
def test_a_full_disk_names_the_path_and_never_publishes_less_than_all(kilobytes: int, tmp_path: Path) -> None:
    """A write that fits in part succeeds in part; and each part that was joined makes room for what comes next."""
    parts, disk = list(parts_of(tmp_path, LONG_TEXTS, range(1, 12))), tmp_path / "disk"
    with small_disk(disk, f"size={kilobytes}k"):
        room = disk / "room that a part takes"
        room.write_bytes(bytes(16_000))
        try:
            with DatasetWriter(disk / "datasets", "oz") as writer:
                for each in parts:
                    join_one(writer, each)
                    if shutil.disk_usage(disk).free == 0:
                        room.unlink(missing_ok=True)
                for block in writer.finish():
                    writer.written(write_block(block))
                dataset = writer.publish(writer.describe(inputs_of(), {"created_at": "2024"}))
            assert problems(dataset) == []
            assert kilobytes > 560
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert str(disk) in str(error)
            assert kilobytes < 700
        published = [path.parent for path in disk.rglob("manifest.json")]
        assert all(problems(read_dataset(path)) == [] for path in published)
        assert not list(disk.rglob("*.partial"))


def test_publishing_leaves_nothing_but_the_data_set(tmp_path: Path, dataset: Dataset) -> None:
    found = {
        path.relative_to(tmp_path / "datasets" / "oz").as_posix()
        for path in (tmp_path / "datasets").rglob("*")
        if path.is_file()
    }
    digest = dataset.manifest.digest
    assert found == {f"{digest}/{name}" for name in (*FILES, "manifest.json")} | {"by-inputs/f1"}


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_disk_that_fails_at_any_flush_publishes_nothing_or_all(
    nth: int, published: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_flush(monkeypatch, nth, errno.ENOSPC)
    with pytest.raises(OSError, match=f"No space left on device: .*{tmp_path}"):
        publish(tmp_path)
    monkeypatch.undo()
    assert all(problems(found) == [] for found in list_datasets(tmp_path / "datasets")[0])
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
    assert not [path for path in (tmp_path / "datasets").rglob("*") if path.name != "oz"]


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
    assert [d.manifest.fingerprint for d in list_datasets(tmp_path / "datasets")[0]] == ["old", "new"]
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
        ("sources", [source | {"train_tokens": 1} for source in whole["sources"]]),
        ("quarantined", []),
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
        '{"format_version": 4}',
        '{"format_version": 4, "files": [], "train": {}}',
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
    for version in (1, 3, 99):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
        with pytest.raises(DatasetError, match=f"format {version} is not 4; build it again"):
            read_dataset(dataset.path)
    path.unlink()
    for place in (dataset.path, dataset.path / "nowhere", dataset.path / "train.bin"):
        with pytest.raises(DatasetError, match="no finished data set here"):
            read_dataset(place)


def test_a_data_set_of_another_version_hides_no_other(dataset: Dataset) -> None:
    folder, old = dataset.path.parents[1], dataset.path.with_name("0" * 32)
    shutil.copytree(dataset.path, old)
    path = old / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    datasets, errors = list_datasets(folder)
    assert [one.path for one in datasets] == [dataset.path]
    assert [str(error) for error in errors] == [f"{old}: format 3 is not 4; build it again"]
    assert find_dataset(folder, dataset.manifest.name).path == dataset.path
    with pytest.raises(DatasetError, match="format 3 is not 4"):
        find_dataset(folder, f"{dataset.manifest.name}@{old.name}")


def test_a_data_set_can_be_moved(dataset: Dataset, tmp_path: Path) -> None:
    moved = read_dataset(Path(shutil.move(dataset.path, tmp_path / "elsewhere")))
    assert problems(moved) == []
    assert moved.token_file("train").open().tolist()


def test_a_disk_without_room_for_the_first_files_is_left_as_it_was(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "nr_inodes=5"):  # the root, three folders, and one of three files
        gc.disable()  # what is left to be collected is left behind by a process that goes on
        try:
            with (
                pytest.raises(OSError, match="No space left on device") as failed,
                DatasetWriter(disk / "datasets", "oz"),
            ):
                pass
            assert failed.value.filename.startswith(str(disk))
            assert [path.name for path in disk.rglob("*")] == ["datasets", "oz"]
        finally:
            gc.enable()
