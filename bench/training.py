"""What training costs: `python -m bench.training [--presets pocket baby] [--steps 30] [--repeats 3]`.

One JSON object on stdout. For each preset, in turn within each repeat: our loop (`model.training`), and a plain one: the same
network and the same data in stock PyTorch with nanoGPT's habits (windows gathered one by one, a loss read every ten steps;
on CUDA torch.compile, bfloat16 by autocast and fused AdamW; on the CPU float32). Tokens a second without warm-up, and their ratio within the
same repeat; MFU, by the convention of `model.flops`, of a device that is known there.

It needs torch and numpy alone, so that it runs on a GPU machine as it is. Tokens are random: speed does not depend on them.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from model.config import PRESETS, Recipe, preset
from model.device import choose_device, device_name
from model.flops import flops_per_token, utilisation
from model.network import build_network
from model.tokenizer import TokenArray
from model.training import Training

_WARM_UP_STEPS = 5
_READ_EVERY_STEPS = 10
_TOKENS = 2_000_000


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["pocket", "baby"])
    parser.add_argument("--depth", type=int, default=None, help="of modern")
    parser.add_argument("--vocabulary-size", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=None, help="windows; by default the preset's")
    parser.add_argument("--accumulate", type=int, default=None, help="parts; by default the preset's")
    parser.add_argument("--steps", type=int, default=30, help="that are timed, after a few that are not")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(
        json.dumps(
            machine() | {name: compare(recipe_of(name, arguments), arguments) for name in arguments.presets},
            indent=1,
        )
    )


def recipe_of(name: str, arguments: argparse.Namespace) -> Recipe:
    """The preset, with the batch that was asked for."""
    depth = arguments.depth if name == "modern" else None
    recipe = preset(name, vocabulary_size=arguments.vocabulary_size, depth=depth)
    changes = {"batch_size": arguments.batch_size, "gradient_accumulation_steps": arguments.accumulate}
    chosen = {key: value for key, value in changes.items() if value is not None}
    return replace(recipe, training=replace(recipe.training, **chosen))


def compare(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both loops, by turns."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, recipe.network.vocabulary_size, _TOKENS).astype(np.uint16)
    tokens_a_step = recipe.training.batch_size * recipe.network.block_size
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for repeat in range(arguments.repeats):
        for name, loop in (("ours", our_steps), ("plain", plain_steps)):
            seconds = timed(loop(recipe, tokens), arguments.steps)
            rates[name].append(arguments.steps * tokens_a_step / seconds)
            print(f"{repeat + 1}: {name} {rates[name][-1]:,.0f} tokens/s", file=sys.stderr)
    ours = statistics.median(rates["ours"])
    share = utilisation(ours, recipe.network, device_name(choose_device(recipe.training.device)))
    return {
        "tokens_per_second": round(ours),
        "plain_tokens_per_second": round(statistics.median(rates["plain"])),
        "over_plain": round(statistics.median(a / b for a, b in zip(*rates.values(), strict=True)), 2),
        "flops_per_token": flops_per_token(recipe.network),
        "mfu": "n/a" if share is None else round(share, 3),
        "tokens_a_step": tokens_a_step,
    }


def timed(steps: Iterator[None], count: int) -> float:
    """Seconds of `count` steps after the warm-up, the device's work included."""
    for _ in range(_WARM_UP_STEPS):
        next(steps)
    synchronise()
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    synchronise()
    return time.perf_counter() - began


def our_steps(recipe: Recipe, tokens: TokenArray) -> Iterator[None]:
    """The loop of `model.training`, whose reports are read now and then."""
    for report in Training(recipe, tokens, dataset_digest="bench").steps():
        if report.step % _READ_EVERY_STEPS == 0:
            _ = report.train_loss
        yield


def plain_steps(recipe: Recipe, tokens: TokenArray) -> Iterator[None]:
    """The same network in a loop as one writes it first."""
    config, length = recipe.training, recipe.network.block_size
    device = choose_device(config.device)
    is_cuda = device.type == "cuda"
    network = build_network(recipe.network, seed=config.seed).to(device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=is_cuda
    )
    forward = torch.compile(network) if is_cuda else network
    step = 0
    while True:
        for _ in range(config.gradient_accumulation_steps):
            starts = torch.randint(
                len(tokens) - length, (config.batch_size // config.gradient_accumulation_steps,)
            )
            x = torch.stack(
                [torch.from_numpy(tokens[i : i + length].astype(np.int64)) for i in starts.tolist()]
            )
            y = torch.stack(
                [torch.from_numpy(tokens[i + 1 : i + 1 + length].astype(np.int64)) for i in starts.tolist()]
            )
            if is_cuda:
                x, y = (one.pin_memory().to(device, non_blocking=True) for one in (x, y))
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_cuda):
                logits = forward(x)
                loss = functional.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
            torch.autograd.backward(loss / config.gradient_accumulation_steps)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % _READ_EVERY_STEPS == 0:
            _ = loss.item()
        yield


def synchronise() -> None:
    """Waits for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Where it was measured."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "device": device_name(choose_device("auto")),
        "threads": torch.get_num_threads(),
        "avx512_bf16": bool(capabilities.get("avx512_bf16")),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
