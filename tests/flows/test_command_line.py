"""The command line as a person or a script meets it: real processes, exit codes, one line for an error, one JSON object."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bad_disks import small_disk
from programs import without_prefect
from tiny_data import build_plainly, tiny_documents

from flows.options import size_in_bytes
from storage.shards import write_shard
from storage.workspace import Workspace
from tasks.tracking import Tracker

BRICKROAD = Path(sys.executable).parent / "brickroad"
# In the order of the help: a data set, the life of a model, the machine.
COMMANDS = [
    "run",
    "tour",
    "dataset",
    "train",
    "evaluate",
    "compare",
    "promote",
    "generate",
    "chat",
    "serve",
    "finetune",
    "quantize",
    "export-hf",
    "import-hf",
    "reproduce",
    "up",
    "status",
    "doctor",
    "sweep",
    "collect-garbage",
]


def brickroad(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in an empty folder."""
    return subprocess.run(
        [BRICKROAD, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=200,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failed command."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_help_shows_every_command_with_examples(tmp_path: Path) -> None:
    done = brickroad("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert re.findall(r"^│ ([a-z][a-z-]+) ", done.stdout, re.M) == COMMANDS
    for name in COMMANDS:
        assert "xample" in brickroad(name, "--help", cwd=tmp_path).stdout or name in ("dataset", "doctor")
    assert "[default: pocket]" in brickroad("train", "--help", cwd=tmp_path).stdout, "brackets are no markup"


def test_looking_imports_neither_torch_nor_prefect_nor_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from flows.command_line import app; from typer.testing import CliRunner;"
        "CliRunner().invoke(app, ['--help']); CliRunner().invoke(app, ['dataset', 'list', '--json']);"
        "print({'torch', 'prefect', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_wrong_usage_is_exit_2(tmp_path: Path) -> None:
    for arguments in (
        ["nonsense"],
        ["train"],
        ["dataset", "build", "--workers", "many"],
        ["dataset", "build", "--memory-budget", "much"],
        ["dataset", "export", "x", "--format", "paper", "--out", "y"],
        ["train", "x", "--set", "steps"],
        ["promote"],
        ["promote", "brickroad-gpt/1", "--back"],
    ):
        done = brickroad(*arguments, cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stderr)


def test_plan_list_show_verify_speak_json(tiny_corpus: Path, workspace: Workspace, tmp_path: Path) -> None:
    plan = json.loads(brickroad("dataset", "plan", tiny_corpus, "--json", cwd=tmp_path).stdout)
    assert plan["shards"] == 12
    assert plan["text_bytes"] > sum(len(text.encode()) for text in tiny_documents())
    assert {"compressed_bytes", "disk_bytes_needed", "seconds_estimated"} <= set(plan)

    dataset = build_plainly(tiny_corpus, workspace)
    at = ("--workspace", workspace.root, "--json")
    listed = json.loads(brickroad("dataset", "list", *at, cwd=tmp_path).stdout)
    assert [one["digest"] for one in listed["datasets"]] == [dataset.manifest.digest]
    old = dataset.path.with_name("0" * 32)
    shutil.copytree(dataset.path, old)
    (old / "manifest.json").write_text('{"format_version": 1}')
    done = brickroad("dataset", "list", *at, cwd=tmp_path)
    assert json.loads(done.stdout) == listed
    assert "Not listed:" in done.stderr
    shown = json.loads(brickroad("dataset", "show", "tiny", *at, cwd=tmp_path).stdout)
    assert shown["digest"] == dataset.manifest.digest
    verified = json.loads(brickroad("dataset", "verify", dataset.reference, *at, cwd=tmp_path).stdout)
    assert verified["ok"] is True
    assert verified["checked_bytes"] == sum(file.bytes for file in dataset.manifest.files.values())

    (dataset.path / "train.bin").write_bytes(b"\0" * dataset.manifest.files["train.bin"].bytes)
    done = brickroad("dataset", "verify", dataset.reference, *at, cwd=tmp_path)
    assert json.loads(done.stdout)["ok"] is False
    assert done.returncode == 1


def test_trace_sample_diff_report_export_speak_json(
    tiny_corpus: Path, workspace: Workspace, tmp_path: Path
) -> None:
    dataset = build_plainly(tiny_corpus, workspace)
    at = ("--workspace", workspace.root, "--json")

    def asked(*arguments: object) -> dict[str, Any]:
        done = brickroad("dataset", *arguments, *at, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    origin = asked("trace", "tiny", 0)
    assert origin["text"] == tiny_documents()[0]
    assert asked("trace", "tiny", "--document", origin["sha256"][:10]) | {"token": 0} == origin | {
        "around": None
    }
    assert len(asked("sample", "tiny", "--count", 2, "--split", "val")["documents"]) == 2
    assert asked("diff", "tiny", dataset.reference)["documents_same"] == 120
    assert Path(asked("report", "tiny")["path"]).is_file()
    files = asked("export", "tiny", "--format", "nanogpt", "--out", tmp_path / "out")["files"]
    assert [Path(file).name for file in files] == ["train.bin", "val.bin", "meta.pkl"]
    both = brickroad("dataset", "trace", "tiny", 0, "--document", "ab", *at, cwd=tmp_path)
    assert "name either the OFFSET of a token or a --document" in refused(both)


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 g", 1_500_000_000), ("500MiB", 500 * 10**6), ("7", 7)]
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


def test_missing_things_are_one_line_with_the_way_out(workspace: Workspace, tmp_path: Path) -> None:
    at = ("--workspace", workspace.root)
    assert "no such data set" in refused(brickroad("dataset", "show", "nothing", *at, cwd=tmp_path))
    assert "no such model" in refused(brickroad("generate", "nobody", *at, cwd=tmp_path))
    assert "no such version" in refused(brickroad("promote", "brickroad-gpt/7", *at, cwd=tmp_path))
    assert "no champion before" in refused(brickroad("promote", "--back", *at, cwd=tmp_path))
    line = refused(brickroad("dataset", "plan", "/no/such/folder", *at, cwd=tmp_path))
    assert "/no/such/folder: no such file or folder" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give either --dataset REF or --prompts FILE"),
        (["--dataset", "d", "--prompts", "p.jsonl"], "give either --dataset REF or --prompts FILE"),
        (["--dataset", "d", "--lora-alpha", "4"], "are of adapters: give --lora RANK too"),
        (["--dataset", "d", "--lora-targets", "head"], "are of adapters: give --lora RANK too"),
    ],
)
def test_a_fine_tuning_that_is_not_clear_is_wrong_usage(
    options: list[str], words: str, tmp_path: Path
) -> None:
    done = brickroad("finetune", "m", *options, cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr


@pytest.mark.usefixtures("prefect_server")
def test_a_bad_shard_is_one_line_and_leaves_nothing_done(tmp_path: Path, prefect_api: dict[str, str]) -> None:
    shard = tmp_path / "bad" / "cut.xz"
    write_shard(shard, [("good.txt", b"some text that is long enough to be cut " * 50)])
    shard.write_bytes(shard.read_bytes()[:-1])
    done = brickroad(
        "dataset", "build", shard.parent, "--workspace", tmp_path / "w", cwd=tmp_path, **prefect_api
    )
    line = refused(done)
    assert f"{shard}: is cut off" in line
    assert "--tolerate-bad-shards 1" in line
    assert not list((tmp_path / "w").rglob("manifest.json"))
    assert not list((tmp_path / "w").rglob("*.partial"))


@pytest.mark.usefixtures("prefect_server")
def test_build_train_evaluate_generate_from_the_shell(
    tiny_corpus: Path, workspace: Workspace, tmp_path: Path, prefect_api: dict[str, str]
) -> None:
    at = ("--workspace", workspace.root, "--json")
    built = json.loads(
        brickroad(
            "dataset", "build", tiny_corpus, "--val-fraction=0.1", *at, cwd=tmp_path, **prefect_api
        ).stdout
    )
    assert (built["built_parts"], built["reused_parts"], built["documents"]) == (12, 0, 120)
    settings = ["--set=training.steps=8", "--set=training.batch_size=4", "--set=network.block_size=16"]
    done = brickroad("train", "tiny", "--preset", "bigram", *settings, *at, cwd=tmp_path, **prefect_api)
    trained = json.loads(done.stdout)
    assert trained["steps"] == 8
    assert {
        "run_id",
        "checkpoint",
        "train_loss",
        "val_loss",
        "val_bits_per_byte",
        "tokens_per_second",
    } <= set(trained)
    questions, page = tmp_path / "words.jsonl", tmp_path / "page.html"
    questions.write_text('{"text": "the yellow brick road"}\n')
    asked = ("--questions", questions, "--report", page)
    done = brickroad("evaluate", trained["run_id"], *asked, *at, cwd=tmp_path, **prefect_api)
    measured = json.loads(done.stdout)
    assert measured["val_loss"] == pytest.approx(trained["val_loss"])
    assert measured["tokens"] == built["val_tokens"]
    assert measured["questions"][0]["name"] == "words"
    assert f"{measured['val_loss']:.4f} nats per token" in page.read_text(encoding="utf-8")
    run = Tracker(workspace).client.get_run(trained["run_id"]).data.metrics
    assert {"val_accuracy", "val_calibration_error", "questions_words_accuracy"} <= set(run)
    same = json.loads(
        brickroad(
            "compare", *(trained["run_id"],) * 2, "--picture", tmp_path / "two.png", *at, cwd=tmp_path
        ).stdout
    )
    assert same["difference"] == 0
    assert (tmp_path / "two.png").stat().st_size > 10_000
    texts = [
        json.loads(
            brickroad("generate", trained["run_id"], "--tokens", 20, "--seed", 4, *at, cwd=tmp_path).stdout
        )["text"]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert texts[0]


@pytest.mark.usefixtures("prefect_server")
def test_a_workspace_that_cannot_be_written_to_is_one_line(
    tiny_corpus: Path, tmp_path: Path, prefect_api: dict[str, str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = brickroad(
        "dataset", "build", tiny_corpus, "--workspace", tmp_path / "file" / "w", cwd=tmp_path, **prefect_api
    )
    assert "--workspace" in refused(done)


@pytest.mark.usefixtures("prefect_server")
def test_a_signal_saves_says_how_to_go_on_and_going_on_ends_at_the_same_loss(
    tiny_corpus: Path, workspace: Workspace, tmp_path: Path, prefect_api: dict[str, str]
) -> None:
    dataset = build_plainly(tiny_corpus, workspace)
    settings = ["--set=training.steps=4000", "--set=training.batch_size=4", "--set=network.block_size=16"]
    command = [
        BRICKROAD,
        "train",
        dataset.reference,
        "--preset=bigram",
        *settings,
        f"--workspace={workspace.root}",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | prefect_api,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    while not list(workspace.checkpoints.glob("*/step-*/checkpoint.json")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    line = next(line for line in words.splitlines() if line.startswith("error:"))
    assert "all saved; go on with: brickroad train" in line
    run_id = line.rsplit(" ", 1)[-1]
    resumed = brickroad(
        "train",
        dataset.reference,
        "--resume",
        run_id,
        "--workspace",
        workspace.root,
        "--json",
        cwd=tmp_path,
        **prefect_api,
    )
    assert json.loads(resumed.stdout)["steps"] == 4000
    assert json.loads(resumed.stdout)["run_id"] == run_id


@pytest.mark.usefixtures("prefect_server")
def test_a_disk_that_is_too_small_is_one_line_with_the_place_and_leaves_nothing_done(
    tiny_corpus: Path, tmp_path: Path, prefect_api: dict[str, str]
) -> None:
    with small_disk(tmp_path / "disk", "size=24k") as disk:
        done = brickroad(
            "dataset", "build", tiny_corpus, "--workspace", disk / "w", cwd=tmp_path, **prefect_api
        )
        line = refused(done)
        assert str(disk) in line
        assert "MB free, and this data set needs about" in line
        assert "free some space, choose another --workspace" in line
        assert not list(disk.rglob("manifest.json"))
        assert not list(disk.rglob("*.partial"))


@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -signal.SIGKILL)],
    ids=["Ctrl-C at the terminal", "SIGTERM", "kill -9"],
)
def test_a_signal_leaves_no_process_and_no_traceback(
    tiny_corpus: Path, workspace: Workspace, number: signal.Signals, whole_group: bool, code: int
) -> None:
    endless = ["--preset=bigram", "--set=training.steps=9000000", "--set=training.batch_size=4"]
    process = subprocess.Popen(
        [BRICKROAD, "run", tiny_corpus, "--val-fraction=0.1", *endless, f"--workspace={workspace.root}"],
        env=without_prefect(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(workspace.checkpoints.glob("*/step-*/checkpoint.json")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "the Prefect server of this run"
    os.killpg(process.pid, number) if whole_group else process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    assert "Traceback" not in words
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
