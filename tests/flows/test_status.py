"""`brickroad status` as it is typed: empty, full, with what is broken; and that it imports nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from programs import without_prefect
from tiny_data import build_plainly

from storage.workspace import Workspace

BRICKROAD = Path(sys.executable).parent / "brickroad"


def status(workspace: Workspace, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    # A server of other tests, which may run by now, is not this workspace's.
    elsewhere = without_prefect()
    return subprocess.run(
        [BRICKROAD, "status", "--workspace", workspace.root, *options],
        capture_output=True,
        text=True,
        env=elsewhere | {"COLUMNS": "80"} | environment,
    )


def test_a_fresh_workspace_says_how_to_begin_and_stays_untouched(tmp_path: Path) -> None:
    fresh = Workspace.at(tmp_path / "fresh")
    done = status(fresh)
    assert done.returncode == 0, done.stderr
    assert "Nothing here yet" in done.stderr
    assert "brickroad run" in done.stderr
    assert not fresh.root.exists(), "a look makes nothing"


def test_a_full_one_fits_80_columns_and_one_json_object(workspace: Workspace, tiny_corpus: Path) -> None:
    dataset = build_plainly(tiny_corpus, workspace)
    page = workspace.root / "overview.html"
    done = status(workspace, "--json", "--html", str(page))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["datasets"][0]["newest"]["digest"] == dataset.manifest.digest
    assert facts["unknown"] == {}
    assert dataset.reference in done.stderr
    assert max(map(len, done.stderr.split("Next")[0].splitlines()[1:])) <= 80
    html = page.read_text(encoding="utf-8")
    assert dataset.reference in html
    assert "<script" not in html
    assert "src=" not in html, "the page needs nothing but itself"


def test_what_cannot_be_read_is_unknown_with_a_reason_and_the_rest_is_told(
    workspace: Workspace, tiny_corpus: Path
) -> None:
    dataset = build_plainly(tiny_corpus, workspace)
    (workspace.mlflow / "mlflow.db").write_bytes(b"not a database at all, though it stands where one should")
    workspace.prefect.mkdir(parents=True, exist_ok=True)
    (workspace.prefect / "prefect.db").write_bytes(b"")
    (dataset.path / "manifest.json").write_text("{")
    done = status(workspace, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert "file is not a database" in facts["unknown"]["MLflow"]
    assert "no such table" in facts["unknown"]["Prefect"]
    assert "manifest cannot be read" in facts["datasets"][0]["newest"]["wrong"]
    assert "unreadable" in done.stderr


def test_servers_that_do_not_answer_are_named(workspace: Workspace) -> None:
    gone = {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "MLFLOW_TRACKING_URI": "http://someone:secret@127.0.0.1:9",
    }
    done = status(workspace, "--json", **gone)
    unknown = json.loads(done.stdout)["unknown"]
    assert all("http://127.0.0.1:9" in why for why in unknown.values())
    assert set(unknown) == {"Prefect", "MLflow"}
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("module", ["torch", "mlflow", "prefect", "pyarrow", "numpy"])
def test_a_look_imports_nothing_heavy(module: str) -> None:
    script = f"import sys, tasks.overview, flows.status; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
