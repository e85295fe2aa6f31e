"""A registered version is whole: MLflow loads and serves it where neither our code nor any package is, but its own and what it requires."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_data import save_endless_model

from model.sampling import Sampling
from storage.checkpoints import read_checkpoint
from storage.workspace import Workspace
from tasks.loading import LoadedModel, load_model
from tasks.tracking import ModelRegistry, save_pyfunc

ALONE = Path(__file__).parent.parent / "support" / "served_alone.py"
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "serving.md"


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


def test_a_version_needs_its_own_code_and_requirements_alone(tmp_path: Path) -> None:
    checkpoint, version = save_endless_model(tmp_path / "run"), tmp_path / "version"
    save_pyfunc(version, checkpoint)
    request = {"prompt": "ab", "tokens": 12, "temperature": 0.8, "top_k": 9, "seed": 5}
    done = subprocess.run(
        [sys.executable, ALONE, version, json.dumps(request)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    written = load_model(checkpoint).write("ab", tokens=12, sampling=Sampling(top_k=9, seed=5))
    assert json.loads(done.stdout) == ["".join(written)]


class Served:
    """`mlflow models serve` of a registered version."""

    def __init__(self, url: str, version: Path, model: LoadedModel) -> None:
        self.url, self.version, self.model = url, version, model

    def post(self, content: str) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return httpx.post(f"{self.url}/invocations", content=content, headers=headers, timeout=60)

    def written(self, *requests: dict[str, Any]) -> list[str]:
        answer = self.post(json.dumps({"inputs": requests}))
        assert answer.status_code == 200, answer.text
        texts: list[str] = answer.json()["predictions"]
        return texts

    def refused(self, content: str) -> str:
        answer = self.post(content)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["message"])

    def alone(self, prompt: str, tokens: int, stop: str | tuple[str, ...] = (), **sampling: Any) -> str:
        """What the model writes in this process."""
        return "".join(self.model.write(prompt, tokens=tokens, stop=stop, sampling=Sampling(**sampling)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tracking_template: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    checkpoint = read_checkpoint(save_endless_model(folder / "run"))
    workspace = Workspace.at(folder / "workspace")
    workspace.mlflow.mkdir(parents=True)
    shutil.copy(tracking_template, workspace.mlflow / "mlflow.db")
    registry = ModelRegistry(workspace)
    run_id = registry.client.create_run(registry.experiment_id).info.run_id
    number = registry.register("gpt", run_id, checkpoint, alias="champion", description="", tags={})
    source = registry.client.get_model_version_download_uri("gpt", number)
    version = Path(source.removeprefix("file://"))
    with mlflow_serving("models:/gpt@champion", registry.uri, version, cwd=folder) as url:
        yield Served(url, version, load_model(checkpoint.path))


@contextmanager
def mlflow_serving(model: str, tracking_uri: str, version: Path, *, cwd: Path) -> Iterator[str]:
    """The address. MLflow starts the `uvicorn` of the path: ours finds nothing but what the version requires."""
    program = cwd / "bin" / "uvicorn"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nsys.path.insert(0, {str(ALONE.parent)!r})\n"
        f"from served_alone import hide_the_rest\nhide_the_rest(Path({str(version)!r}))\n"
        "import uvicorn\nuvicorn.main()\n"
    )
    program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "mlflow"),
        *("models", "serve", "-m", model, "--env-manager", "local"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    with (cwd / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(PATH=path, MLFLOW_TRACKING_URI=tracking_uri),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, cwd / "log")
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + 200
    while True:
        try:
            assert httpx.get(f"{url}/ping").status_code == 200
            return
        except httpx.ConnectError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def test_mlflow_serves_the_input_example(served: Served) -> None:
    example = (served.version / "serving_input_example.json").read_text()
    expected = served.alone("The ", tokens=16, temperature=0.8, top_k=40, seed=0)
    assert served.post(example).json() == {"predictions": [expected]}


def test_mlflow_serves_several_rows_each_with_settings_of_its_own(served: Served) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "ab", "tokens": 30, "seed": 1},
        {"prompt": "cd", "tokens": 40, "seed": 2, "temperature": 0.0},
        {"prompt": "", "tokens": 7, "seed": 2, "temperature": 1.5, "min_p": 0.01},
        {"prompt": "ab" * 50, "tokens": 20, "repetition_penalty": 1.3, "top_p": 0.9},
    ]
    assert served.written(*rows) == [served.alone(**row) for row in rows]
    whole = served.alone("ab", tokens=60, seed=1)
    stop = whole[10:12]
    until = whole[: whole.index(stop)]
    assert served.written({"prompt": "ab", "tokens": 60, "seed": 1, "stop": [stop]}) == [until]
    assert served.alone("ab", tokens=60, seed=1, stop=stop) == until, "one text is not several letters"
    assert served.written({"prompt": "ab"}) == [served.alone("ab", tokens=200)]
    assert served.written() == []


def test_mlflow_answers_what_the_document_asks(served: Served) -> None:
    body = re.search(r"/invocations .*?-d '(.*?)'", DOCUMENT.read_text(encoding="utf-8"), re.S)
    assert body
    rows = json.loads(body[1])["inputs"]
    assert served.written(*rows) == [
        served.alone(**{**row, "stop": tuple(row.get("stop", ()))}) for row in rows
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a" * 100_001}, "String should have at most 100000 characters"),
        ({"prompt": "ab", "tokens": 5000}, "Input should be less than or equal to 4096"),
        ({"prompt": "ab", "tokens": "many"}, "Input should be a valid integer"),
        ({"prompt": "ab", "temperature": float("nan")}, "greater than or equal to 0"),
        (
            {"prompt": "ab", "temperature": float("inf")},
            "temperature is inf; it must be a number of at least 0",
        ),
        ({"prompt": "ab", "seed": 2**70}, "it must be a whole number of 64 bits"),
        ({"prompt": "ab", "stop": [""]}, "a stop string is empty"),
        ({"prompt": "ab", "stop": "END"}, "Input should be a valid list"),
        ({"prompt": "\ud800"}, "string_unicode"),
        ({"promt": "ab"}, "Extra inputs are not permitted"),
        ("ab", "Expecting example to be a dictionary"),
    ],
)
def test_mlflow_tells_what_is_wrong_with_a_row(served: Served, row: object, message: str) -> None:
    assert message in served.refused(json.dumps({"inputs": [row]}))


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"dataframe_records": [{"prompt": "ab"}]}'])
def test_mlflow_refuses_what_is_no_request(served: Served, content: str) -> None:
    assert "json" in (message := served.refused(content).lower()) or "'inputs' key" in message
