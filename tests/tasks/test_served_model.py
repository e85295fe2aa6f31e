"""A registered version is whole: MLflow loads it where neither our code nor any package is, but its own and what it requires."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_data import save_endless_model

from model.sampling import Sampling
from tasks.loading import load_model
from tasks.tracking import save_pyfunc

ALONE = Path(__file__).parent.parent / "served_alone.py"


def test_a_version_needs_its_own_code_and_requirements_alone(tmp_path: Path) -> None:
    checkpoint, version = save_endless_model(tmp_path / "run"), tmp_path / "version"
    save_pyfunc(version, checkpoint)
    request = {"prompt": "ab", "tokens": 12, "temperature": 0.8, "top_k": 9, "seed": 5}
    done = subprocess.run(
        [sys.executable, ALONE, version, json.dumps(request)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    written = load_model(checkpoint).write("ab", tokens=12, sampling=Sampling(top_k=9, seed=5))
    assert json.loads(done.stdout) == ["".join(written)]
