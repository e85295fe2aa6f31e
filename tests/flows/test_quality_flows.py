"""Quality steps from the command line to the Prefect card: a real process, the session's server, the same data set after."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_data import tiny_documents

from storage.documents.tables import read_dropped
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.corpora import CorpusConfig
from tasks.quality import QualityConfig

BRICKROAD = Path(sys.executable).parent / "brickroad"
pytestmark = pytest.mark.usefixtures("prefect_server")


def brickroad(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BRICKROAD, *map(str, arguments)],
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )


def test_what_was_left_out_is_told_everywhere(
    tiny_corpus: Path, workspace: Workspace, prefect_api: dict[str, str]
) -> None:
    from prefect.client.orchestration import get_client

    from flows.build_dataset import build_dataset

    text = tiny_documents()[0]
    extra = [("same.txt", text.encode()), ("like.txt", f"{text} more".encode()), ("short.txt", b"short")]
    write_shard(tiny_corpus / "urlsf_subset00-13_data.xz", extra)
    at = ("--workspace", workspace.root, "--json")
    asked = ("--drop-exact-duplicates", "--drop-near-duplicates", "0.8", "--minimum-characters", "10")
    done = brickroad("dataset", "build", tiny_corpus, "--val-fraction", "0.1", *asked, *at, **prefect_api)
    said = json.loads(done.stdout)
    assert said["documents"] == 120
    assert said["left_out"] == [
        {"step": "too short", "documents": 1, "text_bytes": 5},
        {"step": "exact duplicate", "documents": 1, "text_bytes": len(text.encode())},
        {"step": "near duplicate", "documents": 1, "text_bytes": len(text.encode()) + 5},
    ]
    assert "left out 1 document too short (5 B)" in done.stderr
    assert "left out 1 near duplicate (" in done.stderr

    quality = QualityConfig(drop_exact_duplicates=True, drop_near_duplicates=0.8, minimum_characters=10)
    config = CorpusConfig(corpus=str(tiny_corpus), val_fraction=0.1, quality=quality)
    again = build_dataset(config, workspace=workspace.root)
    assert (again.dataset.manifest.digest, again.built_parts) == (said["digest"], 0)
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts()
    assert "examine" in {artifact.key for artifact in artifacts}, "a bar for the documents looked at"
    # Other tests of this server may have made the same bytes of documents of which none was left out.
    place = str(again.dataset.path)
    cards = [
        str(one.data)
        for one in artifacts
        if (one.key or "").startswith("dataset-") and place in str(one.data)
    ]
    assert len(cards) == 2
    assert all("## Left out" in card and "| exact duplicate | 1 | " in card for card in cards)

    listed = json.loads(brickroad("dataset", "dropped", "tiny", *at).stdout)
    assert listed["documents"] == list(read_dropped(again.dataset.path / "dropped.parquet"))
    assert listed["left_out"] == said["left_out"]
    near = brickroad("dataset", "dropped", "tiny", "--step", "near-duplicate", "--limit", "1", *at)
    assert [one["member"] for one in json.loads(near.stdout)["documents"]] == ["like.txt"]
    shown = brickroad("dataset", "show", "tiny", *at)
    assert "drop near duplicates 0.8, minimum characters 10" in " ".join(shown.stderr.split())
    assert json.loads(shown.stdout)["quality"]["minimum_characters"] == 10
