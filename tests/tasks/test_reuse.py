"""A shard more, another or one less costs that shard: the rest is copied from an earlier data set, after a check."""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_data import build_plainly, tiny_documents

from storage.datasets import Dataset, verify_dataset
from storage.files import sha256_file
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.tokenizers import train_bpe
from tasks.workers import Workers

FILES = ("train.bin", "val.bin", "tokenizer.json", "documents.parquet")
Work = Callable[[], Counter[str]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for number in range(6):
        write(folder, number)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small tokenizer that no corpus changes."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_bpe(tiny_documents(), 300))
    return str(path)


def write(folder: Path, number: int, seed: int | None = None) -> None:
    texts = tiny_documents(30, seed=number if seed is None else seed)
    write_shard(folder / f"s-{number}.xz", [(f"{n}.txt", text.encode()) for n, text in enumerate(texts)])


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """What workers were asked to do since the last time; of a call with a list, how many things."""
    calls: Counter[str] = Counter()
    run = Workers.run

    def counted(self: Workers, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls[function.__name__] += len(args[0]) if isinstance(args[0], list) else 1
        return run(self, function, *args, **kwargs)

    monkeypatch.setattr(Workers, "run", counted)

    def since() -> Counter[str]:
        found = Counter(calls)
        calls.clear()
        return found

    yield since


def bytes_of(dataset: Dataset) -> dict[str, str]:
    assert [line for _, _, wrong in verify_dataset(dataset) for line in wrong] == []
    return {name: sha256_file(dataset.path / name) for name in FILES}


def clean(corpus: Path, tmp_path: Path, **settings: object) -> dict[str, str]:
    """What a build gives that knows nothing of an earlier one."""
    place = Workspace.at(Path(tempfile.mkdtemp(dir=tmp_path, prefix="clean-")))
    return bytes_of(build_plainly(corpus, place, name="web", **settings))


def test_a_shard_more_another_and_one_less_cost_one_shard_at_most(
    corpus: Path, tokenizer: str, workspace: Workspace, work: Work, tmp_path: Path
) -> None:
    settings: dict[str, object] = {"tokenizer": tokenizer, "name": "web"}
    build_plainly(corpus, workspace, **settings)
    assert work()["encode_parts"] == 6
    write(corpus, 25)  # between 2 and 3 as texts, after all as numbers
    write(corpus, 3, seed=77)
    (corpus / "s-0.xz").unlink()
    changed = build_plainly(corpus, workspace, **settings)
    assert work()["encode_parts"] == 2
    assert bytes_of(changed) == clean(corpus, tmp_path, tokenizer=tokenizer)
    work()
    (corpus / "s-25.xz").unlink()
    assert bytes_of(build_plainly(corpus, workspace, **settings)) == clean(
        corpus, tmp_path, tokenizer=tokenizer
    )


def test_nothing_is_encoded_if_earlier_data_sets_have_all_of_it(
    corpus: Path, tokenizer: str, workspace: Workspace, work: Work, tmp_path: Path
) -> None:
    build_plainly(corpus, workspace, tokenizer=tokenizer, limit_shards=4, name="first")
    later = tmp_path / "later"
    for number in (4, 5, 9):
        write(later, number)
    build_plainly(later, workspace, tokenizer=tokenizer, name="later")
    work()
    both = build_plainly(corpus, workspace, tokenizer=tokenizer, name="web")
    assert work()["encode_parts"] == 0
    assert bytes_of(both) == clean(corpus, tmp_path, tokenizer=tokenizer)


def test_characters_are_taken_over_if_the_vocabulary_is_the_same(
    corpus: Path, workspace: Workspace, work: Work, tmp_path: Path
) -> None:
    first = build_plainly(corpus, workspace, name="web")
    again = tmp_path / "again"
    for number in range(6):  # the same characters, in other shards' company and order
        write(again, number + 10, seed=5 - number)
    work()
    second = build_plainly(again, workspace, name="again")
    assert second.manifest.tokenizer_fingerprint == first.manifest.tokenizer_fingerprint
    assert work()["encode_parts"] == 0
    assert bytes_of(second) == clean(again, tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"val_fraction": 0.3},
        {"tokenizer": "bpe:290"},
        {"normalisation": "hugging-face"},
    ],
    ids=str,
)
def test_tokens_of_other_settings_do_not_serve(
    other: dict[str, object], corpus: Path, tokenizer: str, workspace: Workspace, work: Work, tmp_path: Path
) -> None:
    build_plainly(corpus, workspace, name="web", tokenizer=tokenizer)
    write(corpus, 8)
    work()
    settings = {"tokenizer": tokenizer} | other
    changed = build_plainly(corpus, workspace, name="web", **settings)
    assert work()["encode_parts"] == 7
    assert bytes_of(changed) == clean(corpus, tmp_path, **settings)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "documents.parquet"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_data_set_is_not_taken_from(
    name: str,
    damage: str,
    corpus: Path,
    tokenizer: str,
    workspace: Workspace,
    work: Work,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    earlier = build_plainly(corpus, workspace, name="web", tokenizer=tokenizer)
    path = earlier.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage == "flipped":
        path.write_bytes(content)
    write(corpus, 8)
    work()
    with caplog.at_level(logging.WARNING):
        changed = build_plainly(corpus, workspace, name="web", tokenizer=tokenizer)
    assert work()["encode_parts"] == 7
    assert earlier.reference in caplog.text
    assert bytes_of(changed) == clean(corpus, tmp_path, tokenizer=tokenizer)
