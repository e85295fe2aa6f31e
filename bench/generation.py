"""What the key-value cache saves: `python -m bench.generation [--presets pocket baby] [--tokens 256] [--batch-sizes 1 8] [--repeats 3]`.

One JSON object on stdout. For each preset and number of texts at once, by turns within each repeat: tokens a second with the cache,
and without it, where the whole context is read anew for each token. Networks are untrained, each prompt is one token: speed does
not depend on what is written. It needs torch and numpy alone, so that it runs on a GPU machine as it is.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch

from bench.training import machine, synchronise
from model.config import PRESETS, preset
from model.device import choose_device
from model.generation import Generation
from model.network import LanguageModel, build_network
from model.sampling import Sampling

_WARM_UP_TOKENS = 4


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["pocket", "baby"])
    parser.add_argument("--vocabulary-size", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=256, help="that each text gets")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8], help="texts at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch; by default one a core")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    figures = {}
    for name in arguments.presets:
        config = preset(name, vocabulary_size=arguments.vocabulary_size).network
        network = build_network(config, seed=0).to(choose_device("auto")).eval()
        for rows in arguments.batch_sizes:
            label = f"{name}, {rows} at once"
            figures[label] = compare(label, network, rows, arguments)
    print(json.dumps(machine() | {"tokens": arguments.tokens} | figures, indent=1))


def compare(label: str, network: LanguageModel, rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of all rows together, by turns with the cache and without."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(arguments.repeats):
        for cached, measured in rates.items():
            seconds = timed(network, rows, arguments.tokens, cached=cached)
            measured.append(rows * arguments.tokens / seconds)
            print(f"{repeat + 1}: {label}, cached={cached}: {measured[-1]:,.0f} tokens/s", file=sys.stderr)
    ratios = [with_cache / without for with_cache, without in zip(*rates.values(), strict=True)]
    return {
        "cached_tokens_per_second": round(statistics.median(rates[True])),
        "uncached_tokens_per_second": round(statistics.median(rates[False]), 1),
        "over_uncached": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def timed(network: LanguageModel, rows: int, tokens: int, *, cached: bool) -> float:
    """Seconds in which so many rows get so many tokens each."""
    _write(network, rows, _WARM_UP_TOKENS, cached=cached)
    synchronise()
    began = time.perf_counter()
    _write(network, rows, tokens, cached=cached)
    return time.perf_counter() - began


def _write(network: LanguageModel, rows: int, tokens: int, *, cached: bool) -> None:
    prompts = [[row] for row in range(rows)]
    samplings = [Sampling(seed=row) for row in range(rows)]
    for _ in Generation(network, prompts, tokens=[tokens] * rows, samplings=samplings, cached=cached):
        pass


if __name__ == "__main__":
    main()
