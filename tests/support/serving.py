"""`brickroad serve` as a process of its own, and what tests ask it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai

BRICKROAD = Path(sys.executable).parent / "brickroad"


class Served:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        self.process, self.url, self.name = process, facts["url"], facts["model"]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def complete(self, prompt: Any = "ab", **settings: Any) -> Any:
        return self.client.completions.create(
            model=self.name, prompt=prompt, **({"seed": 3, "max_tokens": 20} | settings)
        )

    def body(self, **settings: Any) -> dict[str, Any]:
        return {"model": self.name, "prompt": "ab", "seed": 3, "max_tokens": 20} | settings

    def refused(self, status: int, **settings: Any) -> dict[str, Any]:
        """The error of a request that differs so from one that is fine."""
        response = httpx.post(f"{self.url}/v1/completions", json=self.body(**settings))
        assert response.status_code == status, response.text
        error: dict[str, Any] = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return error

    def metric(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def held(self) -> tuple[int, int]:
        """Threads and open files of the process."""
        place = Path(f"/proc/{self.process.pid}")
        return len(list((place / "task").iterdir())), len(list((place / "fd").iterdir()))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextlib.contextmanager
def serving(model: Path, *options: object, cwd: Path) -> Iterator[Served]:
    command = [str(BRICKROAD), "serve", str(model), "--port", "0", "--json", *map(str, options)]
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()
