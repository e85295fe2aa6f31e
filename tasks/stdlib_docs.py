"""The default corpus: the documentation that ships inside Python, as shards in the layout of OpenWebText.

Texts are `pydoc_data.topics` and the docstrings of the standard library. They are read with `ast`: nothing is imported,
nothing is downloaded, and the same Python version always gives the same shards.
"""

import ast
import hashlib
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from storage.files import write_json
from storage.shards import write_shard
from tasks.watch import pulse

SHARD_TEXT_BYTES = 400_000  # a handful of shards, so that the default run shows parallel work
_NOT_DOCUMENTATION = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib2to3",
}
_MINIMUM_DOCUMENT_BYTES = 200


def pack_stdlib_docs(folder: Path) -> Path:
    """Packs the documentation into shards below `folder`, unless it is done; returns the folder of the shards."""
    version = ".".join(map(str, sys.version_info[:3]))
    target = folder / f"stdlib-docs-{version}"
    if not (target / "packed.json").is_file():
        shutil.rmtree(target, ignore_errors=True)  # shards of a try that was killed, perhaps cut elsewhere
        with pulse("pack"):
            count = _write_shards(target)
        write_json(target / "packed.json", {"python": version, "shards": count})
    return target


def _write_shards(target: Path) -> int:
    count = 0
    for count, documents in enumerate(_batches(stdlib_documents()), start=1):
        named = [_member(index, text) for index, text in documents]
        write_shard(target / f"urlsf_subset00-{count}_data.xz", named)
    return count


def stdlib_documents() -> Iterator[str]:
    """Each topic of `help()`, then for each module of the standard library its docstrings, in order of names."""
    library = Path(sysconfig.get_path("stdlib"))
    yield from _topics(library / "pydoc_data" / "topics.py")
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        if not _NOT_DOCUMENTATION & set(path.relative_to(library).parts):
            docstrings = "\n\n\n".join(_docstrings(path))
            if len(docstrings.encode("utf-8", "replace")) >= _MINIMUM_DOCUMENT_BYTES:
                yield docstrings


def _topics(path: Path) -> Iterator[str]:
    """The values of the dictionary `topics`, an assignment of literals."""
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign):
            topics = ast.literal_eval(statement.value)
            yield from (topics[name].strip() for name in sorted(topics))


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions, in the order of the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # old escapes in other people's strings
        tree = ast.parse(path.read_bytes())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        if text := ast.get_docstring(node):
            yield text


def _batches(documents: Iterator[str]) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for item in enumerate(documents):
        batch.append(item)
        size += len(item[1])
        if size >= SHARD_TEXT_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _member(index: int, text: str) -> tuple[str, bytes]:
    """Name and content of a member, named as in OpenWebText: 7 digits, and 32 hex digits of a hash."""
    utf8 = text.encode("utf-8", "replace")
    return f"{index:07d}-{hashlib.md5(utf8, usedforsecurity=False).hexdigest()}.txt", utf8
