"""One folder holds everything, and names sort as people count."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.workspace import Workspace, natural_order


def test_the_workspace_is_as_given_else_from_the_environment_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BRICKROAD_WORKSPACE", raising=False)
    assert Workspace.at().root == tmp_path / "workspace"
    monkeypatch.setenv("BRICKROAD_WORKSPACE", str(tmp_path / "other"))
    assert Workspace.at().root == tmp_path / "other"
    assert Workspace.at("mine").root == tmp_path / "mine"
    assert Workspace.at("~/x").root == Path.home() / "x"
    assert not list(tmp_path.iterdir())


def test_each_kind_of_thing_has_its_own_place_below_the_root(tmp_path: Path) -> None:
    place = Workspace.at(tmp_path)
    kinds = [
        "corpora",
        "documents",
        "tokens",
        "datasets",
        "checkpoints",
        "mlflow",
        "prefect",
        "services_file",
    ]
    paths = {getattr(place, kind) for kind in kinds}
    assert len(paths) == len(kinds)
    assert all(path.parent == tmp_path for path in paths)


def test_a_lock_says_whether_it_was_waited_for(tmp_path: Path) -> None:
    with Workspace.at(tmp_path).lock("corpora") as waited:
        assert waited is False


def test_natural_order_counts_numbers() -> None:
    names = [f"urlsf_subset{n:02d}-{m}_data.xz" for n in (0, 1, 20) for m in (1, 2, 9, 10, 100, 1000)]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_order) == names


@settings(deadline=None)  # other work on the machine must not fail it
@given(names=st.lists(st.text("0123456789ab-/é٣", max_size=6), max_size=8))
def test_natural_order_is_total_and_equal_only_for_equal_names(names: list[str]) -> None:
    expected = sorted(names, key=natural_order)
    assert sorted(random.Random(0).sample(names, len(names)), key=natural_order) == expected
    assert all((natural_order(a) == natural_order(b)) == (a == b) for a in names for b in names)
