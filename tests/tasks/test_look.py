"""What one sees of a data set: every token leads to its shard, a comparison tells what changed, the page stands by itself."""

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_data import build_plainly, tiny_documents

from storage.datasets import Dataset
from storage.documents.rows import read_document_rows
from storage.errors import DatasetError
from storage.files import sha256_file
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig
from tasks.look import difference, sample_documents, trace_document, trace_token
from tasks.plan import plan_dataset, refuse_full_disk
from tasks.quality import QualityConfig


def test_every_edge_of_every_document_leads_back_to_it(dataset: Dataset, tiny_corpus: Path) -> None:
    for row in list(read_document_rows(dataset.path / "documents.parquet"))[::7]:
        for offset in (row["token_start"], row["token_start"] + row["token_count"] - 1):
            origin = trace_token(dataset, row["split"], offset)
            assert (origin.member, origin.sha256) == (row["member"], row["sha256"].hex())
            assert origin.token == offset - row["token_start"]
            assert hashlib.sha256(origin.text.encode()).hexdigest() == origin.sha256
            assert origin.shard_sha256 == sha256_file(tiny_corpus / origin.shard)
            assert origin.around is not None
            assert origin.around in origin.text


def test_a_document_is_found_by_the_beginning_of_its_hash(dataset: Dataset) -> None:
    text = tiny_documents()[5]
    whole = hashlib.sha256(text.encode()).hexdigest()
    assert trace_document(dataset, whole[:8]).text == trace_document(dataset, whole).text == text


@pytest.mark.parametrize("wrong", ["", "zz", "abc", "00" * 32])
def test_a_hash_that_is_none_or_not_there_is_one_line(wrong: str, dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"^[^\n]+$"):
        trace_document(dataset, wrong)


def test_a_token_beyond_the_end_is_one_line(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="train has tokens 0 to"):
        trace_token(dataset, "train", dataset.manifest.train.tokens)


def test_samples_are_the_same_for_the_same_seed(dataset: Dataset) -> None:
    first, again, other = (list(sample_documents(dataset, "train", 4, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({origin.sha256 for origin in first}) == 4
    assert len(list(sample_documents(dataset, "val", 10_000, 0))) == dataset.manifest.val.documents


def test_a_comparison_tells_what_came_and_went(
    tiny_corpus: Path, tmp_path: Path, workspace: Workspace
) -> None:
    before = build_plainly(tiny_corpus, workspace, name="tiny")
    here = Path(shutil.copytree(tiny_corpus, tmp_path / "changed"))
    (here / "urlsf_subset00-3_data.xz").unlink()
    write_shard(here / "urlsf_subset00-99_data.xz", [("new.txt", b"quite new")])
    after = build_plainly(here, workspace, name="tiny", val_fraction=0.3)
    found = difference(before, after)
    assert found.sources_came == ["urlsf_subset00-99_data.xz"]
    assert found.sources_went == ["urlsf_subset00-3_data.xz"]
    assert found.came == ["urlsf_subset00-99_data.xz new.txt"]
    assert (found.documents_came, found.documents_went) == (1, len(found.went))
    assert found.documents_same == 120 - found.documents_went
    assert found.documents_moved > 0, "a larger val fraction moves some"
    assert found.settings["val_fraction"] == (0.1, 0.3)
    same = difference(before, before)
    assert (same.documents_came, same.documents_went, same.documents_moved, same.settings) == (0, 0, 0, {})


def test_the_page_stands_by_itself_and_shows_hostile_text_as_text(
    tmp_path: Path, workspace: Workspace
) -> None:
    hostile = "<script>alert('brick')</script> & <b>bold</b> " * 3
    texts = [*tiny_documents(30), hostile, *[f"{hostile} {number}" for number in range(30)], "again", "again"]
    write_shard(tmp_path / "c" / "a.xz", [(f"{i}.txt", text.encode()) for i, text in enumerate(texts)])
    page = (build_plainly(tmp_path / "c", workspace).path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)=|url\(|@import", page), "nothing is loaded from elsewhere"
    for heading in (
        "Documents by length",
        "Scripts",
        "Tokens",
        "more than once",
        "Samples",
        "Where the time went",
    ):
        assert heading in page
    assert hashlib.sha256(b"again").hexdigest()[:12] in page, "a text that stands there twice is listed"


def test_what_is_quarantined_stands_on_the_page(tiny_corpus: Path, workspace: Workspace) -> None:
    bad = tiny_corpus / "urlsf_subset00-3_data.xz"
    bad.write_bytes(bad.read_bytes()[:-20])
    page = build_plainly(tiny_corpus, workspace, tolerate_bad_shards=1).path / "report.html"
    assert "urlsf_subset00-3_data.xz" in page.read_text(encoding="utf-8")


def test_a_plan_knows_the_text_and_what_the_disk_must_hold(tiny_corpus: Path, workspace: Workspace) -> None:
    config = CorpusConfig(corpus=str(tiny_corpus))
    plan, dataset = plan_dataset(config, workspace), build_plainly(tiny_corpus, workspace)
    text_bytes = dataset.manifest.train.text_bytes + dataset.manifest.val.text_bytes
    assert plan.shards == len(dataset.manifest.sources)
    assert text_bytes < plan.text_bytes
    assert plan.disk_bytes_needed > sum(
        facts.bytes for name, facts in dataset.manifest.files.items() if name.endswith(".bin")
    )


def test_a_plan_knows_what_quality_steps_cost(tiny_corpus: Path, workspace: Workspace) -> None:
    config = CorpusConfig(corpus=str(tiny_corpus))
    plain, local, words, both = (
        plan_dataset(replace(config, quality=QualityConfig(**settings)), workspace)  # type: ignore[arg-type]
        for settings in (
            {},
            {"minimum_characters": 10},
            {"drop_near_duplicates": 0.8},
            {"drop_near_duplicates": 0.8, "languages": ("en",)},
        )
    )
    assert plain.disk_bytes_needed < local.disk_bytes_needed == words.disk_bytes_needed
    assert (
        plain.seconds_estimated == local.seconds_estimated < words.seconds_estimated < both.seconds_estimated
    )


def test_a_disk_that_cannot_hold_it_is_refused_before_any_work(
    tiny_corpus: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tiny_corpus)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(OSError, match=r"0 MB free, and this data set needs about 1 MB; .*--limit-shards"):
        build_plainly(tiny_corpus, workspace)
    assert not list(workspace.documents.glob("*.parquet"))
    refuse_full_disk(CorpusConfig(corpus=str(tiny_corpus)), [], workspace)
