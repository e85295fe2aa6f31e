"""What is installed where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "model", "storage", "tasks")
CHECK = """
from flows.deployment_file import read_deployments, refuse_wrong_flows
from flows.services import DEPLOYMENT_FILE
refuse_wrong_flows(DEPLOYMENT_FILE, read_deployments(DEPLOYMENT_FILE))
print(DEPLOYMENT_FILE)
"""


def test_a_wheel_has_all_that_the_packages_have_and_the_deployments(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in PACKAGES:
        made = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=made)
    for name in ("pyproject.toml", "README.md", "prefect.yaml"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    files = [path for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()]
    assert [
        path for path in files if (site / path.relative_to(source)).read_bytes() != path.read_bytes()
    ] == []
    run = [sys.executable, "-c", CHECK]
    found = subprocess.run(
        run,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str(site / "flows" / "prefect.yaml")
