"""What the documents say is so: commands parse, targets and files exist, and the tree is the real one."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)
TOP_LEVEL_NOT_IN_TREE = {".git", ".venv", "workspace"}


def code_lines(document: Path) -> list[str]:
    """The lines of a document's code blocks."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    return [
        line.strip().removeprefix("$ ")
        for block in blocks
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]


def commands() -> list[str]:
    """Every `brickroad …` line of every document, without comments."""
    found = {line for document in DOCUMENTS for line in code_lines(document) if line.startswith("brickroad ")}
    return sorted(re.split(r"\s{2,}#|\s+#\s", line)[0].strip() for line in found)


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line: str) -> None:
    from flows.command_line import app

    command, arguments = typer.main.get_command(app), shlex.split(line)[1:]
    context = command.make_context("brickroad", arguments, resilient_parsing=False)
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, context._protected_args + context.args)
        context = command.make_context(name, rest, parent=context)


def test_the_documents_have_commands_to_check() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"`make ([a-z]+)`", document.read_text(encoding="utf-8")))
    named |= {line.split()[1] for line in code_lines(document) if re.match(r"make [a-z]+", line)}
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_linked_file_exists(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def tree_of(document: Path) -> list[str]:
    """The paths of the annotated tree: names at the start of each line, by indentation."""
    block = re.search(r"^```tree\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    assert block, "the README has a ```tree block"
    paths, folders = [], {-1: ""}
    for line in block[1].splitlines():
        match = re.match(r"( *)(\S+)", line)
        assert match, line
        depth, name = len(match[1]) // 2, match[2]
        folders[depth] = folders[depth - 1] + name
        paths.append(folders[depth])
    return paths


def test_the_tree_is_the_real_one() -> None:
    drawn = tree_of(ROOT / "README.md")
    for path in drawn:
        assert (ROOT / path).exists(), f"the tree has {path}, the checkout does not"
    real = {
        path.name + ("/" if path.is_dir() else "")
        for path in ROOT.iterdir()
        if not path.name.startswith(".")
        and not path.name.endswith(".egg-info")
        and path.name not in TOP_LEVEL_NOT_IN_TREE
    } - {"workspace/"}
    assert real - {path for path in drawn if "/" not in path.rstrip("/")} == set()
    for package in ("flows", "tasks", "model", "storage"):
        modules = {
            f"{package}/{path.name}" for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"
        }
        assert modules <= set(drawn), f"the tree lacks {modules - set(drawn)}"
