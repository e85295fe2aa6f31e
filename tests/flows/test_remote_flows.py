"""The commands on a corpus behind a network: built, planned, proved by a rebuild; its secrets stay in no record."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from servers import WebServer, web_server
from tiny_data import tiny_documents

ROOT = Path(__file__).parents[2]
SECRET = "s3cret"


@pytest.fixture(scope="module")
def content() -> bytes:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in tiny_documents())
    return zstandard.compress(lines.encode())


def brickroad(
    prefect_api: dict[str, str], workspace: Path, *arguments: str
) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and words of a command."""
    code = "from flows.command_line import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--workspace", str(workspace), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | prefect_api,
    )
    return ran.returncode, json.loads(ran.stdout) if ran.stdout.strip() else {}, ran.stderr


def test_a_corpus_is_planned_built_and_rebuilt_from_its_address(
    content: bytes, prefect_api: dict[str, str], tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    with web_server({"/some/lines.jsonl.zst": content}) as server:
        address = f"{server.url}/some/lines.jsonl.zst?sign={SECRET}"
        code, plan, words = brickroad(prefect_api, tmp_path, "dataset", "plan", address)
        assert (code, plan["shards"], plan["compressed_bytes"]) == (0, 1, len(content)), words
        code, built, said = brickroad(
            prefect_api, tmp_path, "dataset", "build", address, "--val-fraction", "0.1"
        )
        assert (code, built["documents"]) == (0, 120), said
        assert SECRET not in words + said + json.dumps(built)
        with get_client(sync_client=True) as client:
            assert SECRET not in str([run.parameters for run in client.read_flow_runs()])
        code, verified, said = brickroad(prefect_api, tmp_path, "dataset", "verify", "lines", "--rebuild")
        assert (code, verified["ok"]) == (0, True), said


def test_a_network_that_fails_is_one_line(
    content: bytes, prefect_api: dict[str, str], tmp_path: Path
) -> None:
    server: WebServer
    with web_server({"/lines.jsonl.zst": content}) as server:
        server.wrong_for_ever = 403
        address = f"{server.url}/lines.jsonl.zst?sign={SECRET}"
        arguments = ["dataset", "build", address, "--tolerate-bad-shards", "5"]
        code, _, said = brickroad(prefect_api, tmp_path, *arguments)
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {server.url}/lines.jsonl.zst: its server refuses to give it (403)")
    assert SECRET not in said
    assert not list((tmp_path / "datasets").rglob("manifest.json"))
