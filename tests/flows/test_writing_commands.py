"""`brickroad generate` and `brickroad chat` as a person or a script meets them: pipes, a real terminal, Ctrl-C."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from terminals import Terminal
from tiny_data import save_endless_model

BRICKROAD = Path(sys.executable).parent / "brickroad"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of an untrained network, which writes for ever."""
    return save_endless_model(tmp_path_factory.mktemp("run"))


def brickroad(*arguments: object, cwd: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, with something typed into a pipe."""
    return subprocess.run(
        [BRICKROAD, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        input=typed,
        text=True,
        timeout=200,
    )


def test_several_samples_of_an_over_long_prompt(model: Path, tmp_path: Path) -> None:
    options = ["--prompt", "ab" * 20, "--tokens", 30, "--min-p", 0.01, "--repetition-penalty", 1.1]
    done = brickroad("generate", model, *options, "--samples", 3, "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert len(set(facts["texts"])) == 3
    assert facts["text"] == facts["texts"][0]
    assert facts["tokens_per_second"] > 0
    assert "sees the last 16 tokens; the first 24 of the prompt" in " ".join(done.stderr.split())
    alone = brickroad("generate", model, *options, "--seed", 2, "--json", cwd=tmp_path)
    assert json.loads(alone.stdout)["text"] == facts["texts"][2]
    assert "texts" not in json.loads(alone.stdout)
    begin = facts["texts"][2].rstrip("\ufffd")[:6]
    cut = brickroad(
        "generate", model, *options, "--seed", 2, "--stop", begin, "--json", cwd=tmp_path, typed=""
    )
    assert json.loads(cut.stdout)["text"] == ""


def test_a_setting_that_cannot_be_meant_is_one_line(model: Path, tmp_path: Path) -> None:
    done = brickroad("generate", model, "--min-p", 2, cwd=tmp_path)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        "error: min_p is 2.0; it must be from 0 to 1, or none for no limit"
    ]


def test_a_chat_by_a_pipe(model: Path, tmp_path: Path) -> None:
    typed = "ab\n\n/set temperature=0.5 tokens=9\n/set\n/nonsense\n/set x\n/undo\n/save text.txt\ncd\\n\n/quit\nef\n"
    done = brickroad("chat", model, "--tokens", 5, cwd=tmp_path, typed=typed)
    assert done.returncode == 0, done.stderr
    saved = (tmp_path / "text.txt").read_text()
    assert saved.startswith("ab")
    assert saved not in ("ab", "")
    assert done.stdout.count("\n") >= 3
    for words in ("tokens=9", "/nonsense is no command", "'x' is no setting", "Took the last turn back"):
        assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "workspace" / "chat-history").exists(), "a pipe leaves no history"
    facts = json.loads(brickroad("chat", model, "--json", cwd=tmp_path, typed="ab").stdout)
    assert facts["turns"] == 1
    assert facts["text"].startswith("ab")


def test_a_chat_at_a_terminal(model: Path, tmp_path: Path) -> None:
    chat = Terminal(BRICKROAD, "chat", model, "--tokens", 1_000_000, cwd=tmp_path)
    try:
        chat.wait_for("> ")
        chat.type("gg\n")
        chat.wait_for("gg")
        chat.wait_for("a")  # it writes
        chat.type("\x03")
        chat.wait_for("(stopped)")
        chat.wait_for("> ")
        chat.type("half a line\x03")
        chat.wait_for("> ")
        chat.type("/undo\n")
        chat.wait_for("Took the last turn back")
        chat.wait_for("> ")
        chat.type("\x04")
        assert chat.process.wait(timeout=30) == 0
    finally:
        chat.close()
    history = (tmp_path / "workspace" / "chat-history").read_text().splitlines()
    assert [line for line in history if not line.startswith("_HiStOrY")] == ["gg", "/undo"]
