"""What a result was made by is known where there is a checkout, and said to be unknown where there is none."""

import subprocess
from pathlib import Path

import pytest
from tiny_data import build_plainly

from storage.manifests import digest_of
from storage.workspace import Workspace
from tasks.provenance import _commit, _cpu, installed_packages, provenance


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", root, *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "tasks").mkdir(parents=True)
    (root / "tasks" / "a.py").write_text("")
    (root / "notes.md").write_text("")
    git(tmp_path, "init", "--quiet", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "a")
    return root


def test_the_commit_and_whether_the_code_differs_from_it(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert _commit(checkout) == (head, False)
    (checkout / "notes.md").write_text("another page makes no other result")
    assert _commit(checkout) == (head, False)
    (checkout / "tasks" / "b.py").write_text("")
    assert _commit(checkout) == (head, True), "a new module runs too"
    (checkout / "tasks" / "b.py").unlink()
    (checkout / "tasks" / "a.py").write_text("changed = True")
    assert _commit(checkout) == (head, True)


def test_variables_of_git_lead_to_no_other_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(checkout / "nowhere"))
    assert _commit(checkout) == (head, False)


def test_an_installed_package_within_a_checkout_is_of_no_commit(checkout: Path) -> None:
    installed = checkout / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    assert _commit(installed) == ("unknown", None)


def test_without_git_or_without_a_commit_it_is_unknown(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet", str(tmp_path / "empty"))
    assert _commit(tmp_path / "empty") == ("unknown", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _commit(checkout) == ("unknown", None)


def test_a_cpu_is_told_by_its_name_and_what_kernels_are_chosen_by(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nmodel name\t: A CPU\nflags\t\t: sse fpu avx2 amx_bf16 avx\n")
    assert _cpu(told) == ("A CPU", "amx_bf16 avx avx2")
    told.write_text("processor\t: 0\nFeatures\t: fp asimd sve2\n")
    assert _cpu(told)[1] == "asimd sve2"
    assert _cpu(tmp_path / "none")[1] == "unknown"


def test_packages_are_listed_once_and_in_order() -> None:
    listed = installed_packages()
    assert listed == sorted(set(listed))
    assert any(one.startswith("torch==") for one in listed)


def test_a_manifest_tells_it_and_its_digest_does_not_depend_on_it(
    tiny_corpus: Path, workspace: Workspace
) -> None:
    manifest = build_plainly(tiny_corpus, workspace).manifest
    told = manifest.build["provenance"]
    assert told["commit"] == provenance().commit
    assert told["lock_sha256"] == provenance().lock_sha256 != "unknown"
    assert digest_of(manifest.dtype, manifest.end_of_text, manifest.files) == manifest.digest
