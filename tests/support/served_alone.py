"""A program of its own: a registered version writes a text, or is served, with its own code and none but the packages that it requires."""

import importlib.metadata
import importlib.util
import json
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = {"flows", "tasks", "model", "storage"}


def required(requirements: list[str]) -> set[str]:
    """The distributions that these bring."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            try:
                waiting += map(Requirement, importlib.metadata.requires(name) or [])
            except importlib.metadata.PackageNotFoundError:
                found.remove(name)  # of another system
    return found


class RequiredAlone(MetaPathFinder):
    """Finds what is on the path, but no package of a distribution that is not among those named."""

    def __init__(self, allowed: set[str]) -> None:
        self.allowed = allowed
        self.distributions = importlib.metadata.packages_distributions()

    def find_distributions(self, *arguments: Any, **settings: Any) -> Any:
        """What is installed, as MLflow asks."""
        return PathFinder.find_distributions(*arguments, **settings)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        of = {canonicalize_name(one) for one in self.distributions.get(name.partition(".")[0], [])}
        is_other = of - {"brickroad"} and not of & self.allowed
        return None if is_other else PathFinder.find_spec(name, path, target)


def hide_the_rest(folder: Path) -> None:
    """From now on this program finds the version's packages and what these bring; what was imported before stays."""
    sys.meta_path = [one for one in sys.meta_path if "editable" not in getattr(one, "__module__", "")]
    sys.path = [place for place in sys.path if not {one.name for one in Path(place or ".").glob("*")} >= OURS]
    assert not any(importlib.util.find_spec(name) for name in OURS), "the code is found without the version's"
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    sys.meta_path[sys.meta_path.index(PathFinder)] = RequiredAlone(required(requirements))


def main(source: str, request: str) -> None:
    """Writes one text, as JSON on stdout."""
    folder = Path(source.removeprefix("file://"))
    hide_the_rest(folder)

    import mlflow.pyfunc

    print(json.dumps(mlflow.pyfunc.load_model(source).predict([json.loads(request)])))
    assert str(folder) in str(sys.modules["tasks.loading"].__file__)


if __name__ == "__main__":
    main(*sys.argv[1:])
