"""What sharing a batch is worth: `python -m bench.serving [--presets pocket baby] [--clients 4 16] [--tokens 128] [--repeats 3]`.

One JSON object on stdout. For each preset, `brickroad serve` as a process of its own and streamed completions over HTTP, by turns
within each repeat: as many requests as there are clients at once, and the same requests one after the other. Tokens a second of
all together; seconds until a text's first token and until its last, medians and 95th percentiles of all requests of all repeats.
Networks are untrained and never end a document: speed does not depend on what is written.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.training import machine
from model.config import PRESETS, Recipe, TrainingConfig, preset, recipe_to_dict
from model.network import build_network
from model.tokenizer import CharTokenizer
from storage.checkpoints import save_checkpoint

_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOP\n"  # with the 256 bytes, a vocabulary of about 300
_WARM_UP_REQUESTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request came to."""

    tokens: int
    first_seconds: float
    seconds: float


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["pocket", "baby"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16], help="at once")
    parser.add_argument("--tokens", type=int, default=128, help="that each text gets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; by default one a core")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in arguments.presets:
        with tempfile.TemporaryDirectory() as folder, served(name, Path(folder), arguments.threads) as url:
            ask(url, [0] * _WARM_UP_REQUESTS, arguments.tokens, at_once=False)
            for clients in arguments.clients:
                label = f"{name}, {clients} at once"
                figures[label] = compare(label, url, clients, arguments)
    print(json.dumps(machine() | {"tokens": arguments.tokens} | figures, indent=1))


def compare(label: str, url: str, clients: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same requests at once and one after the other, by turns."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    answers: dict[bool, list[Answer]] = {True: [], False: []}
    for repeat in range(arguments.repeats):
        for at_once in rates:
            began = time.perf_counter()
            given = ask(url, range(clients), arguments.tokens, at_once=at_once)
            rates[at_once].append(sum(each.tokens for each in given) / (time.perf_counter() - began))
            answers[at_once] += given
            print(f"{repeat + 1}: {label}, {at_once=}: {rates[at_once][-1]:,.0f} tokens/s", file=sys.stderr)
    ratios = [together / alone for together, alone in zip(*rates.values(), strict=True)]
    return {
        "at_once": _figures(rates[True], answers[True]),
        "one_after_the_other": _figures(rates[False], answers[False]),
        "over_one_after_the_other": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def _figures(rates: Sequence[float], answers: Sequence[Answer]) -> dict[str, float]:
    firsts = sorted(each.first_seconds for each in answers)
    wholes = sorted(each.seconds for each in answers)
    return {
        "tokens_per_second": round(statistics.median(rates), 1),
        "first_token_seconds_median": round(statistics.median(firsts), 3),
        "first_token_seconds_95th": round(firsts[int(0.95 * len(firsts))], 3),
        "seconds_median": round(statistics.median(wholes), 3),
        "seconds_95th": round(wholes[int(0.95 * len(wholes))], 3),
    }


@contextmanager
def served(name: str, folder: Path, threads: int | None) -> Iterator[str]:
    """The address of a server with an untrained network of that preset."""
    command = [
        *(
            str(Path(sys.executable).parent / "brickroad"),
            "serve",
            str(_save_untrained(name, folder / "run")),
        ),
        *("--port", "0", "--json"),
    ]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def _save_untrained(name: str, folder: Path) -> Path:
    tokenizer = CharTokenizer([*_LETTERS])
    shape = preset(name, vocabulary_size=tokenizer.vocabulary_size).network
    network = replace(shape, tied_head=False, bias=True)
    tensors = {
        f"network.{part}": tensor for part, tensor in build_network(network, seed=0).state_dict().items()
    }
    tensors["network.head.bias"][tokenizer.end_of_text] = -1e4
    recipe = recipe_to_dict(Recipe(network=network, training=TrainingConfig()))
    return save_checkpoint(
        folder, step=1, tensors=tensors, facts={"recipe": recipe}, tokenizer_json=tokenizer.to_json()
    ).path


def ask(url: str, seeds: Sequence[int], tokens: int, *, at_once: bool) -> list[Answer]:
    """One text for each seed."""

    async def all_of_them() -> list[Answer]:
        if at_once:
            return await asyncio.gather(*(_ask(url, seed, tokens) for seed in seeds))
        return [await _ask(url, seed, tokens) for seed in seeds]

    return asyncio.run(all_of_them())


async def _ask(url: str, seed: int, tokens: int) -> Answer:
    """A plain connection: on few cores a client library would be measured, too."""
    address = urlsplit(url)
    body = {"model": "step-00000001", "prompt": "once upon a time", "max_tokens": tokens, "seed": seed}
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}})
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close"
    writer.write(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
    first_seconds, last = None, b""
    async for line in reader:
        if line.startswith(b"data: {"):
            first_seconds, last = first_seconds or time.perf_counter() - began, line
    writer.close()
    usage = json.loads(last.removeprefix(b"data: "))["usage"]
    assert first_seconds is not None
    assert usage["completion_tokens"] == tokens
    return Answer(tokens=tokens, first_seconds=first_seconds, seconds=time.perf_counter() - began)


if __name__ == "__main__":
    main()
