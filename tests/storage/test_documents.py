"""The stored text of a shard is what was written, and is noticed when damaged; rows find their place in a data set."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_disks import small_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.documents import rows as rows_module
from storage.documents.parts import (
    DocumentPart,
    PartWriter,
    StoredBatch,
    TextBatch,
    read_notes,
    read_part,
    read_texts,
)
from storage.documents.rows import DOCUMENTS_SCHEMA, DocumentsWriter, RowRange, read_document_rows, write_rows
from storage.documents.tables import is_parquet
from storage.errors import DatasetError
from storage.files import sha256_file, sha256_text

SHARD_SHA256 = "ab" * 32
NOTES = {"settings": "1234", "characters": [[97, 3], [0x1F600, 1]], "who": "東京"}


def some_texts(count: int = 40, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    words = ["brick", "road", "Öz", "東京", "home", "\n\n", "😀", "\0"]
    return [" ".join(rng.choices(words, k=rng.randrange(60))).encode() for _ in range(count)]


def batches_of(texts: Sequence[bytes], size: int = 7) -> list[TextBatch]:
    return [
        TextBatch.of([f"{n:07d}.txt" for n in range(start, start + len(texts[start : start + size]))],
                     list(texts[start : start + size]))
        for start in range(0, len(texts), size)
    ]  # fmt: skip


def write(path: Path, texts: Sequence[bytes]) -> DocumentPart:
    with PartWriter(path) as writer:
        for batch in batches_of(texts):
            writer.write(batch)
        return writer.finish(SHARD_SHA256, NOTES)


def contents(part: DocumentPart) -> list[tuple[str, bytes]]:
    return [pair for stored in read_texts(part) for pair in zip(stored.members, stored.texts, strict=True)]


# --- batches of texts -------------------------------------------------------------------------------------------------


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


MOSTLY_UTF8 = st.lists(
    st.one_of(
        st.text(max_size=6).map(str.encode),
        st.binary(max_size=4),
        st.sampled_from(
            [
                "東".encode()[:1],
                "東".encode()[1:],
                "😀".encode()[:3],
                b"\xed\xa0\x80",
                b"\xc0\x80",
                b"\xf4\x90\x80\x80",
            ]
        ),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=300)  # other work on the machine must not fail it
@given(texts=MOSTLY_UTF8)
def test_a_batch_is_utf8_only_if_each_of_its_texts_is(texts: list[bytes]) -> None:
    """Two halves of a character, side by side in two documents, are invalid in both."""
    batch = TextBatch.of([str(n) for n in range(len(texts))], texts)
    assert batch.is_utf8() == all(map(is_utf8, texts))


def test_a_character_cut_between_two_texts_makes_none_of_them_valid() -> None:
    for character in ("é", "東", "😀"):
        whole = character.encode()
        for cut in range(1, len(whole)):
            assert not TextBatch.of(["a", "b"], [whole[:cut], whole[cut:]]).is_utf8()
        assert TextBatch.of(["a", "b"], [whole, whole]).is_utf8()


@settings(deadline=None)
@given(texts=st.lists(st.binary(max_size=30), max_size=8))
def test_a_batch_has_the_size_and_the_hash_of_each_text(texts: list[bytes]) -> None:
    batch = TextBatch.of([str(n) for n in range(len(texts))], texts)
    assert batch.utf8 == b"".join(texts)
    assert batch.sizes.tolist() == [len(text) for text in texts]
    assert batch.sha256() == [sha256_text(text) for text in texts]
    assert batch.as_arrow().cast(pa.binary()).to_pylist() == texts


# --- stored parts -----------------------------------------------------------------------------------------------------


def test_stored_text_is_what_was_written(tmp_path: Path) -> None:
    texts = some_texts()
    part = write(tmp_path / "documents" / "a.parquet", texts)
    stored = list(read_texts(part))
    assert [text for batch in stored for text in batch.texts] == texts
    assert [member for batch in stored for member in batch.members] == [f"{n:07d}.txt" for n in range(40)]
    assert [sha256 for batch in stored for sha256 in batch.sha256] == [sha256_text(text) for text in texts]
    assert part.documents == 40
    assert part.text_bytes == sum(map(len, texts))
    assert part.longest_bytes == max(map(len, texts))
    assert part.shard_sha256 == SHARD_SHA256
    assert part.file_bytes == part.path.stat().st_size
    assert read_part(part.path) == part
    assert read_notes(part) == NOTES
    assert sorted(path.name for path in part.path.parent.iterdir()) == ["a.json", "a.parquet"]


def test_writing_returns_the_hashes_and_counts_what_was_normalised(tmp_path: Path) -> None:
    with PartWriter(tmp_path / "a.parquet") as writer:
        first = writer.write(TextBatch.of(["a", "b"], [b"one", b""]), byte_order_marks=1, crlf_line_ends=2)
        second = writer.write(TextBatch.of(["c"], [b"two"]), crlf_line_ends=3, invalid_utf8_documents=1)
        part = writer.finish(SHARD_SHA256, {})
    assert [*first, *second] == [sha256_text(text) for text in (b"one", b"", b"two")]
    assert (part.byte_order_marks, part.crlf_line_ends, part.invalid_utf8_documents) == (1, 5, 1)
    assert (part.documents, part.text_bytes, part.longest_bytes) == (3, 6, 3)


def test_the_same_batches_give_the_same_bytes(tmp_path: Path) -> None:
    parts = [write(tmp_path / name / "a.parquet", some_texts()) for name in ("one", "two")]
    assert len({sha256_file(part.path) for part in parts}) == 1
    assert len({part.file_crc32 for part in parts}) == 1
    assert len({sha256_file(part.path.with_suffix(".json")) for part in parts}) == 1


def test_nothing_is_there_before_the_part_is_finished(tmp_path: Path) -> None:
    with PartWriter(tmp_path / "a.parquet") as writer:
        writer.write(batches_of(some_texts())[0])
        assert not list(tmp_path.glob("[!.]*"))
        writer.finish(SHARD_SHA256, {})
        assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, None])
@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_part_that_is_not_finished_leaves_what_was_there(
    error: type[BaseException] | None, batches: int, tmp_path: Path
) -> None:
    part = write(tmp_path / "a.parquet", some_texts(5))
    before = {path.name: sha256_file(path) for path in tmp_path.iterdir()}
    with pytest.raises(error or ZeroDivisionError), PartWriter(tmp_path / "a.parquet") as writer:
        for batch in batches_of(some_texts(30))[:batches]:
            writer.write(batch)
        if error:
            raise error
        raise ZeroDivisionError
    assert {path.name: sha256_file(path) for path in tmp_path.iterdir()} == before
    assert len(contents(part)) == 5


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        for size in (300_000, 130_000, 66_000):  # the disk is full in the middle, or only at the end
            text = random.Random(size).randbytes(size // 2).hex().encode()
            with pytest.raises(OSError, match=r"No space left on device: .*disk/documents"):
                write(disk / "documents" / "a.parquet", [text])
            assert not list((disk / "documents").iterdir())


@pytest.mark.parametrize(
    "damage",
    ["no record", "empty record", "not json", "other fields", "no notes", "a list", "cut", "longer", "gone"],
)
def test_a_part_that_is_not_whole_is_no_part(damage: str, tmp_path: Path) -> None:
    part = write(tmp_path / "a.parquet", some_texts())
    record = part.path.with_suffix(".json")
    if damage == "no record":
        record.unlink()
    elif damage == "gone":
        part.path.unlink()
    elif damage in ("cut", "longer"):
        content = part.path.read_bytes()
        part.path.write_bytes(content[:-1] if damage == "cut" else content + b"x")
    else:
        whole = json.loads(record.read_text(encoding="utf-8"))
        del whole["notes"]
        text = {
            "empty record": "",
            "not json": '{"notes": {',
            "other fields": '{"notes": {}, "a": 1}',
            "no notes": json.dumps(whole),
            "a list": "[]",
        }
        record.write_text(text[damage])
    assert read_part(part.path) is None
    assert write(tmp_path / "a.parquet", some_texts()) == part == read_part(part.path)


def test_a_part_of_another_version_is_no_part(tmp_path: Path) -> None:
    """The first format had a sha256 of the file where now is a crc32, and settings where now are notes."""
    part = write(tmp_path / "a.parquet", some_texts())
    record = part.path.with_suffix(".json")
    old = json.loads(record.read_text(encoding="utf-8"))
    old["settings"] = old.pop("notes")
    old["file_sha256"] = str(old.pop("file_crc32"))
    record.write_text(json.dumps(old))
    assert read_part(part.path) is None


def test_any_flipped_byte_of_stored_text_is_noticed(tmp_path: Path) -> None:
    """Parquet's page checksums miss flips in its headers and footer; some of them would lose documents in silence."""
    part = write(tmp_path / "a.parquet", some_texts(5))
    whole = part.path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        part.path.write_bytes(flipped)
        with pytest.raises(
            DatasetError, match="stored text is missing or damaged; delete this file"
        ) as refused:
            list(read_texts(part))
        assert str(part.path) in str(refused.value)


@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "empty", "other"])
def test_stored_text_that_is_not_as_recorded_is_refused_before_the_first_text(
    damage: str, tmp_path: Path
) -> None:
    part = write(tmp_path / "a.parquet", some_texts())
    content = part.path.read_bytes()
    other = write(tmp_path / "b.parquet", some_texts(seed=2))
    damaged = {"cut": content[:-1], "longer": content + b"x", "empty": b"", "other": other.path.read_bytes()}
    part.path.unlink()
    if damage != "gone":
        part.path.write_bytes(damaged[damage])
    with pytest.raises(DatasetError, match="stored text is missing or damaged"):
        next(read_texts(part))


def test_the_record_tells_the_facts_and_no_path(tmp_path: Path) -> None:
    part = write(tmp_path / "documents" / "a.parquet", some_texts())
    text = part.path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(text)["documents"] == 40
    assert str(tmp_path) not in text


def test_a_stored_part_is_a_parquet_that_anyone_can_read(tmp_path: Path) -> None:
    texts = some_texts()
    part = write(tmp_path / "a.parquet", texts)
    with part.path.open("rb") as file:
        assert is_parquet(file)
    assert not is_parquet(io.BytesIO(b"PAR"))
    table = pq.read_table(part.path)
    table.validate(full=True)
    assert table.column("text").to_pylist() == [text.decode() for text in texts]
    assert table.num_rows == 40


# --- rows -------------------------------------------------------------------------------------------------------------


def write_part_rows(path: Path, begin: int, sizes: Sequence[int]) -> RowRange:
    """Rows of a part in batches of these sizes: every seventh document is val, document n has n % 5 + 1 tokens."""
    with write_rows(path) as writer:
        for size in sizes:
            numbers = np.arange(begin, begin + size)
            stored = StoredBatch.of(
                members=[f"{n}.txt" for n in numbers],
                sha256=[int(n).to_bytes(32, "big") for n in numbers],
                texts=[b""] * size,
            )
            writer.write(stored, numbers % 7 == 0, numbers * 3, numbers % 5 + 1)
            begin += size
    return RowRange(path=path, start=0, count=sum(sizes))


def join(path: Path, parts: Sequence[tuple[str, RowRange]]) -> list[dict[str, object]]:
    with path.open("wb") as file:
        writer = DocumentsWriter(file)
        for shard, rows in parts:
            writer.append(shard, rows)
        writer.close()
    return list(read_document_rows(path))


def expected_rows(sizes: Sequence[int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    tokens = {"train": 0, "val": 0}
    shards = [f"s-{number}.xz" for number, size in enumerate(sizes) for _ in range(size)]
    for n, shard in enumerate(shards):
        split = "val" if n % 7 == 0 else "train"
        rows.append(
            {
                "split": split,
                "shard": shard,
                "member": f"{n}.txt",
                "sha256": n.to_bytes(32, "big"),
                "text_bytes": 3 * n,
                "token_start": tokens[split],
                "token_count": n % 5 + 1,
            }
        )
        tokens[split] += n % 5 + 1
    return rows


@pytest.mark.parametrize("rows_a_group", [1, 3, 10, 65_536])
def test_rows_are_placed_after_the_tokens_of_the_documents_before(
    rows_a_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_ROWS_A_GROUP", rows_a_group)
    sizes, parts, begin = [0, 3, 10, 7, 25, 0, 1], [], 0
    for number, size in enumerate(sizes):
        parts.append((f"s-{number}.xz", write_part_rows(tmp_path / f"{number}.rows", begin, [size])))
        begin += size
    assert join(tmp_path / "all.parquet", parts) == expected_rows(sizes)
    with pq.ParquetFile(tmp_path / "all.parquet") as file:
        assert file.schema_arrow.equals(DOCUMENTS_SCHEMA)
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [min(rows_a_group, 46 - at) for at in range(0, 46, rows_a_group)]


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    rows_a_group=st.integers(1, 15),
    data=st.data(),
)
def test_the_bytes_do_not_depend_on_how_a_shard_was_cut_into_batches(
    sizes: list[int], rows_a_group: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_ROWS_A_GROUP", rows_a_group)
        for how in ("whole", "batches"):
            parts, begin = [], 0
            for number, size in enumerate(sizes):
                cut = data.draw(st.integers(0, size)) if how == "batches" else 0
                batches = [cut, size - cut] if how == "batches" else [size]
                rows = write_part_rows(folder / f"{how}-{number}.rows", begin, batches)
                parts.append((f"s-{number}.xz", rows))
                begin += size
            assert join(folder / how, parts) == expected_rows(sizes)
    assert sha256_file(folder / "whole") == sha256_file(folder / "batches")


@pytest.mark.parametrize("rows_a_group", [1, 7, 10, 65_536])
def test_rows_come_from_an_earlier_data_set_as_from_a_part(
    rows_a_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_ROWS_A_GROUP", rows_a_group)
    sizes = [4, 0, 13, 20, 0]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    fresh = [
        (f"s-{number}.xz", write_part_rows(tmp_path / f"{number}.rows", start, [size]))
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    join(tmp_path / "earlier.parquet", fresh)
    reused = [
        (name, RowRange(path=tmp_path / "earlier.parquet", start=start, count=rows.count))
        for start, (name, rows) in zip(starts, fresh, strict=True)
    ]
    for mixed in (reused, [fresh[0], *reused[1:3], *fresh[3:]]):
        assert join(tmp_path / "again.parquet", mixed) == expected_rows(sizes)
        assert sha256_file(tmp_path / "again.parquet") == sha256_file(tmp_path / "earlier.parquet")


def test_rows_of_a_part_may_be_removed_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    parts = [write_part_rows(tmp_path / "a.rows", 0, [10]), write_part_rows(tmp_path / "b.rows", 10, [10])]
    with (tmp_path / "all.parquet").open("wb") as file:
        writer = DocumentsWriter(file)
        for number, rows in enumerate(parts):
            writer.append(f"s-{number}.xz", rows)
            rows.path.unlink()
        writer.close()
    assert list(read_document_rows(tmp_path / "all.parquet")) == expected_rows([10, 10])


def test_no_rows_are_a_file_without_rows(tmp_path: Path) -> None:
    rows = write_part_rows(tmp_path / "a.rows", 0, [])
    assert join(tmp_path / "all.parquet", [("s-0.xz", rows)]) == []
    assert join(tmp_path / "none.parquet", []) == []
