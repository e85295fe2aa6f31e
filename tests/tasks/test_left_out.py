"""Builds with quality steps: what stays is what is encoded and learnt from, the rest is listed, and settings are remembered."""

import hashlib
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from tiny_data import build_plainly

from model.tokenizer import tokenizer_from_json
from storage.datasets import Dataset
from storage.documents.rows import Split, read_document_rows
from storage.documents.tables import read_dropped
from storage.errors import CorpusError, DatasetError
from storage.files import fingerprint
from storage.manifests import LeftOut
from storage.shards import write_shard
from storage.tokens import SPLITS, split_of
from storage.workspace import Workspace
from tasks.build import build
from tasks.corpora import CorpusConfig
from tasks.dataset import gather
from tasks.look import dropped_documents
from tasks.quality import QualityConfig, in_words
from tasks.verify import compare, recorded_config, verify
from tasks.workers import Workers

WORDS = [
    "the",
    "road",
    "leads",
    "home",
    "through",
    "yellow",
    "fields",
    "where",
    "poppies",
    "sleep",
    "and",
    "crows",
    "talk",
    "of",
    "old",
    "brick",
    "houses",
    "that",
    "nobody",
    "remembers",
    "because",
    "winter",
    "came",
    "early",
    "this",
    "year",
    "with",
    "heavy",
    "snow",
    "on",
    "every",
    "roof",
    "in",
    "our",
    "small",
    "town",
    "near",
    "a",
    "river",
]
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren und sollen einander brüderlich begegnen. § "
QUESTION = "What is the name of the road that leads from the old mill to the town hall?"
ONLY_IN_DROPPED = "§"
VAL_FRACTION = 0.3

Entry = tuple[str, str, str | None]  # a document's member, its text, and the step that is to drop it


def prose(seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=90))


def corpus_documents() -> list[list[Entry]]:
    """Four shards: of the second everything goes, of the third nothing."""
    texts = [[(prose(seed + 100 * shard), None) for seed in range(12)] for shard in range(3)]
    first, last = texts[0], texts[2]
    first[3:3] = [("tiny", "too short"), (GERMAN * 4, "other language")]
    first.append((first[0][0], "exact duplicate"))
    second = [(first[1][0], "exact duplicate"), ("nothing", "too short"), (GERMAN * 5, "other language")]
    near = first[2][0].split()
    near[40] = "changed"
    last[5:5] = [(f"{prose(7000)} {QUESTION.lower()}", "test text"), (" ".join(near), "near duplicate")]
    last += [(texts[1][4][0], "exact duplicate")] * 2
    return [
        [(f"{number}-{row}.txt", text, step) for row, (text, step) in enumerate(shard)]
        for number, shard in enumerate([first, second, texts[1], last])
    ]


def write_corpus(folder: Path) -> Path:
    for number, documents in enumerate(corpus_documents()):
        write_shard(folder / f"{number}.xz", [(member, text.encode()) for member, text, _ in documents])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("left-out")
    write_corpus(place / "corpus")
    (place / "tests.txt").write_text(QUESTION)
    return place


@pytest.fixture(scope="module")
def quality(folder: Path) -> QualityConfig:
    return QualityConfig(
        drop_exact_duplicates=True, drop_near_duplicates=0.8, minimum_characters=20, languages=("en",),
        decontaminate=(str(folder / "tests.txt"),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def cleaned(folder: Path, quality: QualityConfig) -> Dataset:
    return built(folder, quality=quality)


def built(folder: Path, name: str = "workspace", **settings: object) -> Dataset:
    return build_plainly(
        folder / "corpus", Workspace.at(folder / name), **({"val_fraction": VAL_FRACTION} | settings)
    )


def kept_texts(split: Split | None = None) -> list[str]:
    return [
        text
        for _, text, step in itertools.chain.from_iterable(corpus_documents())
        if step is None and split in (None, split_of(hashlib.sha256(text.encode()).digest(), VAL_FRACTION))
    ]


def decoded(dataset: Dataset, split: Split) -> list[str]:
    tokenizer = tokenizer_from_json(dataset.tokenizer_json())
    ids = np.asarray(dataset.token_file(split).open())  # type: ignore[arg-type]
    ends = np.flatnonzero(ids == tokenizer.end_of_text) + 1
    return [tokenizer.decode(piece) for piece in np.split(ids, ends)[:-1]]


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_token_files_decode_to_exactly_the_documents_that_stay(
    tokenizer: str, folder: Path, quality: QualityConfig
) -> None:
    dataset = built(folder, quality=quality, tokenizer=tokenizer)
    for split in SPLITS:
        assert decoded(dataset, split) == kept_texts(split)
        assert dataset.facts(split).documents == len(kept_texts(split))
    rows = read_document_rows(dataset.path / "documents.parquet")
    assert [row["member"] for row in rows] == [
        member for shard in corpus_documents() for member, _, step in shard if step is None
    ]
    assert [source.documents for source in dataset.manifest.sources] == [12, 0, 12, 12]
    total = dataset.manifest.train + dataset.manifest.val
    assert total.text_bytes == sum(source.text_bytes for source in dataset.manifest.sources)
    assert total.text_bytes == len("".join(kept_texts()).encode())


def test_the_rest_is_listed_and_counted(cleaned: Dataset) -> None:
    left = [
        (f"{number}.xz", *entry)
        for number, shard in enumerate(corpus_documents())
        for entry in shard
        if entry[2] is not None
    ]
    rows = list(read_dropped(cleaned.path / "dropped.parquet"))
    assert [(row["shard"], row["member"], row["sha256"], row["step"]) for row in rows] == [
        (shard, member, hashlib.sha256(text.encode()).hexdigest(), step) for shard, member, text, step in left
    ]
    details = {row["member"]: row["detail"] for row in rows}
    assert details["0-3.txt"] == "4 characters"
    assert details["0-4.txt"] == "de"
    assert details["1-0.txt"] == "the same as 0.xz 0-1.txt"
    assert details["3-5.txt"] == "what is the name of the road that leads from the old mill"
    assert details["3-6.txt"].endswith(" similar to 0.xz 0-2.txt")
    for step in {entry[3] for entry in left}:
        sizes = [len(text.encode()) for _, _, text, why in left if why == step]
        counted = LeftOut(step=str(step), documents=len(sizes), text_bytes=sum(sizes))
        assert counted in cleaned.manifest.left_out
    assert sum(one.documents for one in cleaned.manifest.left_out) == len(left)
    assert verify(cleaned)[1] == [], "the list is a file of the data set"


def test_without_quality_steps_a_data_set_is_what_it_was(folder: Path) -> None:
    """Its fingerprint is of nothing else than in versions that knew no quality steps."""
    plain = built(folder, "plain")
    stored = {path.stem[:64]: path.stem for path in (folder / "plain" / "documents").glob("*.parquet")}
    identity = {
        "shards": [[source.name, stored[source.sha256]] for source in plain.manifest.sources],
        "tokenizer": {"kind": "char", "coverage": 0.9999},
        "val_fraction": VAL_FRACTION,
        "split_rule": plain.manifest.split_rule,
    }
    assert plain.manifest.fingerprint == fingerprint(identity)
    assert (plain.manifest.quality, plain.manifest.left_out) == ({}, [])
    assert not (plain.path / "dropped.parquet").exists()
    words_alone = built(folder, "plain", quality=QualityConfig(decontamination_words=5))
    assert words_alone.path == plain.path


def test_settings_have_fingerprints_of_their_own(folder: Path, cleaned: Dataset) -> None:
    test_texts = str(folder / "tests.txt")
    settings: list[dict[str, object]] = [
        {},
        {"drop_exact_duplicates": True},
        {"drop_near_duplicates": 0.8},
        {"drop_near_duplicates": 0.9},
        {"minimum_characters": 20},
        {"languages": ("en",)},
        {"decontaminate": (test_texts,)},
        {"decontaminate": (test_texts,), "decontamination_words": 8},
    ]
    fingerprints = {
        gather(CorpusConfig(quality=QualityConfig(**each)), []).fingerprint  # type: ignore[arg-type]
        for each in settings
    }
    assert len(fingerprints) == len(settings)
    assert built(folder, "plain").manifest.fingerprint != cleaned.manifest.fingerprint


def test_vocabulary_and_merges_are_learnt_from_what_stays(
    folder: Path, cleaned: Dataset, tmp_path: Path
) -> None:
    """As if the documents that are left out had never been there."""
    for number, documents in enumerate(corpus_documents()):
        members = [(member, text.encode()) for member, text, step in documents if step is None]
        if members:
            write_shard(tmp_path / "corpus" / f"{number}.xz", members)
    assert ONLY_IN_DROPPED not in cleaned.tokenizer_json()
    assert ONLY_IN_DROPPED in json.loads(built(folder, "plain").tokenizer_json())["characters"]
    assert built(tmp_path).manifest.digest == cleaned.manifest.digest
    settings = recorded_config(cleaned).quality
    merges = [built(place, tokenizer="bpe:300", quality=settings) for place in (folder, tmp_path)]
    assert merges[0].manifest.digest == merges[1].manifest.digest
    assert merges[0].manifest.left_out
    assert not merges[1].manifest.left_out


def test_what_leaves_too_few_documents_is_one_line(folder: Path) -> None:
    lengths = [len(text) for shard in corpus_documents() for _, text, _ in shard]
    for left, least in enumerate((1 + max(lengths), max(lengths))):
        found = rf"quality steps leave {left} of {len(lengths)} documents, .* loosen one of them"
        with pytest.raises(DatasetError, match=found) as refused:
            built(folder, "nothing", quality=QualityConfig(minimum_characters=least))
        assert "\n" not in str(refused.value)
    assert not list((folder / "nothing" / "datasets").glob("*/*/manifest.json"))


def test_it_is_built_again_with_the_recorded_settings_by_any_number_of_workers(
    cleaned: Dataset, tmp_path: Path
) -> None:
    config = recorded_config(cleaned)
    assert config.quality.is_on
    with Workers(1) as workers:
        alone = build(config, Workspace.at(tmp_path), workers)
    assert alone.manifest.fingerprint == cleaned.manifest.fingerprint
    assert alone.manifest.left_out == cleaned.manifest.left_out
    assert "dropped.parquet" in alone.manifest.files
    assert compare(cleaned, alone) == []


def test_asking_again_does_nothing(folder: Path, quality: QualityConfig, cleaned: Dataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in cleaned.path.iterdir()}
    again = built(folder, quality=quality)
    assert again == cleaned
    assert {path: path.stat().st_mtime_ns for path in again.path.iterdir()} == before
    assert not (folder / "workspace" / "tokens").exists()


def test_the_page_shows_what_was_left_out_and_why(folder: Path, cleaned: Dataset) -> None:
    page = (cleaned.path / "report.html").read_text(encoding="utf-8")
    section = page[page.index("<h2>Left out</h2>") : page.index("<h2>Documents by length</h2>")]
    for one in cleaned.manifest.left_out:
        assert f"<b>{in_words(one.step, one.documents)}</b>" in section
    for row in read_dropped(cleaned.path / "dropped.parquet"):
        assert row["member"] in section
        assert row["detail"] in section
    assert "<span>quality</span>" in page, "its time is shown too"
    assert "Left out" not in (built(folder, "plain").path / "report.html").read_text(encoding="utf-8")


def test_dropped_documents_are_listed_by_step(folder: Path, cleaned: Dataset) -> None:
    everything = list(dropped_documents(cleaned))
    assert [one._asdict() for one in everything] == list(read_dropped(cleaned.path / "dropped.parquet"))
    for step in ("exact duplicate", "exact-duplicate"):
        of_step = list(dropped_documents(cleaned, step))
        assert of_step == [one for one in everything if one.step == "exact duplicate"]
    with pytest.raises(ValueError, match=r"no step 'too long' .*\(there: too short, other language, "):
        dropped_documents(cleaned, "too long")
    plain = built(folder, "plain")
    assert list(dropped_documents(plain)) == []
    with pytest.raises(ValueError, match="there: no step"):
        dropped_documents(plain, "too short")


def test_test_texts_that_are_gone_are_one_line(folder: Path, tmp_path: Path) -> None:
    missing = QualityConfig(decontaminate=(str(tmp_path / "missing.txt"),))
    with pytest.raises(CorpusError, match=r"missing\.txt: no such file") as refused:
        built(folder, "gone", quality=missing)
    assert "\n" not in str(refused.value)


def test_blanks_as_hugging_face_has_them(tmp_path: Path) -> None:
    """Texts that differ in blanks alone are duplicates after normalisation; it makes another data set."""
    texts = [prose(seed) for seed in range(20)]
    members = [*texts, f"\n\n{texts[0]}\n\n\n", f"{texts[1]}\n\n\n\n{texts[2]}"]
    write_shard(
        tmp_path / "corpus" / "0.xz", [(f"{row}.txt", text.encode()) for row, text in enumerate(members)]
    )
    quality = QualityConfig(drop_exact_duplicates=True)
    dataset = built(tmp_path, normalisation="hugging-face", quality=quality)
    assert dataset.manifest.normalisation["normalised_documents"] == 2
    assert [(one.step, one.documents) for one in dataset.manifest.left_out] == [("exact duplicate", 1)]
    assert sorted(decoded(dataset, "train") + decoded(dataset, "val")) == sorted(
        [*texts, f"{texts[1]}\n\n{texts[2]}"]
    )
    assert recorded_config(dataset).normalisation == "hugging-face"
    assert built(tmp_path, quality=quality).manifest.digest != dataset.manifest.digest
