"""The default corpus: made from Python's own documentation without importing any of it, always to the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.files import sha256_file
from storage.forms import Reading, read_batches
from storage.shards import find_shards
from tasks import stdlib_docs
from tasks.stdlib_docs import pack_stdlib_docs, stdlib_documents

ROOT = Path(__file__).parents[2]
LONG = "A sentence of documentation that says something. " * 8


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny standard library, whose modules fail if anyone imports them."""
    root = tmp_path / "library"
    sources = {
        "pydoc_data/topics.py": f"topics = {{'b': '  second {LONG}\\n', 'a': 'first {LONG} é 東京'}}\n",
        "zebra.py": f'"""zebra {LONG}"""\nraise SystemExit("imported")\ndef run():\n    """run {LONG}"""\n',
        "sub/alpha.py": f'class A:\n    """alpha {LONG}"""\n    async def b(self):\n        """b \\ud800 {LONG}"""\n',
        "sub/bytes.py": "'''short'''\n",
        "test/test_zebra.py": f'"""not documentation {LONG}"""\n',
        "site-packages/other.py": f'"""not documentation {LONG}"""\n',
        "broken_escape.py": f'"""escape \\d {LONG}"""\n',
    }
    for name, source in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    monkeypatch.setattr(stdlib_docs.sysconfig, "get_path", lambda name: str(root))
    return root


def test_topics_come_first_then_modules_by_name_and_tests_never(library: Path) -> None:
    found = [text.split()[0] for text in stdlib_documents()]
    assert found == ["first", "second", "escape", "alpha", "zebra"]
    assert "not documentation" not in "".join(stdlib_documents())


def test_docstrings_stand_in_the_order_of_the_source(library: Path) -> None:
    *_, zebra = stdlib_documents()
    assert zebra.split("\n\n\n")[1].startswith("run ")


def test_two_packs_are_the_same_bytes(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdlib_docs, "SHARD_TEXT_BYTES", 700)
    first, second = (pack_stdlib_docs(tmp_path / name) for name in ("one", "two"))
    digests = {path.name: sha256_file(path) for path in first.iterdir()}
    assert digests == {path.name: sha256_file(path) for path in second.iterdir()}
    shards = find_shards(str(first))
    assert [shard.name for shard in shards] == [f"urlsf_subset00-{n}_data.xz" for n in (1, 2, 3)]
    batches = [batch.texts for shard in shards for batch in read_batches(shard, Reading())]
    assert [text for batch in batches for text in batch.as_arrow().to_pylist()] == [
        text.encode("utf-8", "replace").decode() for text in stdlib_documents()
    ]
    members = [member for batch in batches for member in batch.members]
    assert [member[:8] for member in members] == [f"{n:07d}-" for n in range(5)]


def test_a_finished_pack_is_kept(library: Path, tmp_path: Path) -> None:
    folder = pack_stdlib_docs(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pack_stdlib_docs(tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_killed_half_way_it_is_packed_anew(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdlib_docs, "SHARD_TEXT_BYTES", 700)
    expected = {path.name: sha256_file(path) for path in pack_stdlib_docs(tmp_path / "whole").iterdir()}
    write, written = stdlib_docs.write_shard, 0

    def killed(*arguments: object) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise KeyboardInterrupt
        write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stdlib_docs, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            pack_stdlib_docs(tmp_path / "killed")
    folder = pack_stdlib_docs(tmp_path / "killed")
    assert {path.name: sha256_file(path) for path in folder.iterdir()} == expected


def test_shards_that_an_earlier_try_left_over_are_no_part_of_it(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {path.name: sha256_file(path) for path in pack_stdlib_docs(tmp_path / "whole").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(stdlib_docs, "SHARD_TEXT_BYTES", 700)
        (pack_stdlib_docs(tmp_path / "again") / "packed.json").unlink()  # three shards, where one is to be
    folder = pack_stdlib_docs(tmp_path / "again")
    assert {path.name: sha256_file(path) for path in folder.iterdir()} == expected


def test_nothing_is_imported_while_the_real_library_is_read() -> None:
    program = """
import ast, sys
from tasks.stdlib_docs import stdlib_documents
ast.get_docstring(ast.parse("'''x'''"))  # which imports inspect, once
before = set(sys.modules)
texts = list(stdlib_documents())
print(len(texts), sum(map(len, texts)), *sorted(set(sys.modules) - before))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    documents, characters, *imported = ran.stdout.split()
    # The interpreter's own: where its library lies, and the encodings that old sources declare.
    assert [name for name in imported if not name.startswith(("_sysconfigdata", "encodings."))] == []
    assert int(documents) > 400
    assert int(characters) > 4 * stdlib_docs.SHARD_TEXT_BYTES  # shards enough to show parallel work
