"""What 8 and 4 bits a weight save and cost: `python -m bench.quantization [--presets pocket baby] [--repeats 5]`.

One JSON object on stdout. For each preset, with random weights, since speed does not depend on them: the bytes of its tensors, and
tokens a second evaluated and written, in float32, bfloat16, int8 and int4, and by torchao where it is installed and runs (of which
bytes are not told: it keeps weights in tensors of its own kind). All take turns within one run. And for single matrices of some
widths: microseconds of a product with 1, 8 and 256 rows, ours with and without PyTorch's kernels.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.training import machine
from model import quantization
from model.config import PRESETS, preset
from model.device import choose_device
from model.network import LanguageModel, build_network
from model.quantization import Int4Matrix, Int8Matrix, QuantizationKind, bytes_of, quantize_network
from model.side_by_side import Contender, measure_losses, measure_writing

Network = TypeVar("Network", bound=nn.Module)

_KINDS: tuple[QuantizationKind, ...] = ("int8", "int4")
_WIDTHS = (128, 384, 768)
_ROWS = (1, 8, 256)
_BATCHES = 6
_WRITTEN_TOKENS = 24
_NO_KERNEL = "no kernel"
_LEAST_SECONDS = 0.01  # of a timed loop


def main() -> None:
    """Measures, and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["pocket", "baby"])
    parser.add_argument("--vocabulary-size", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5, help="of single matrices")
    arguments = parser.parse_args()
    figures = {name: compare(name, arguments.vocabulary_size) for name in arguments.presets}
    matrices = {
        f"{width} x {4 * width}, {rows} rows": products(width, rows, arguments.repeats)
        for width in _WIDTHS
        for rows in _ROWS
    }
    print(json.dumps(machine() | figures | {"microseconds": matrices}, indent=1))


def compare(name: str, vocabulary_size: int) -> dict[str, Any]:
    """Bytes and speeds of a preset in each kind of numbers."""
    print(name, file=sys.stderr)
    config = preset(name, vocabulary_size=vocabulary_size).network
    network = build_network(config, seed=0)
    contenders = contenders_of(network)
    windows = 2 * max(1, (1 << 11) // config.block_size)
    tokens = np.random.default_rng(0).integers(0, vocabulary_size, windows * config.block_size)
    with patch("model.side_by_side.LOGITS_PER_BATCH", (1 << 11) * vocabulary_size):  # 2,048 tokens a batch
        rates: dict[str, list[float]] = {each: [] for each in contenders}
        for _ in range(_BATCHES):
            *_, last = measure_losses(contenders, tokens.astype(np.uint16), end_of_text=0)
            assert last.measured is not None
            for each, measured in last.measured.items():
                rates[each].append(measured.tokens_per_second)
    writing = measure_writing(contenders, tokens[: config.block_size // 2], tokens=_WRITTEN_TOKENS)
    return {
        each: {
            "bytes": None if "torchao" in each else bytes_of(contender.network),
            "evaluation_tokens_per_second": round(statistics.median(rates[each])),
            "generation_tokens_per_second": round(writing[each], 1),
        }
        for each, contender in contenders.items()
    }


def contenders_of(network: LanguageModel) -> dict[str, Contender]:
    """A network in every kind of numbers, each in both arithmetics."""
    device = choose_device("auto")
    forms = {"float32 weights": network} | {kind: quantize_network(network, kind) for kind in _KINDS}
    if theirs := torchao_form(network):
        forms["torchao int8"] = theirs
    return {
        f"{name}, {precision} products": Contender(network=form.to(device).eval(), precision=precision)
        for name, form in forms.items()
        for precision in ("float32", "bfloat16")
    }


def torchao_form(network: Network) -> Network | None:
    """The network with the linear layers of its blocks as torchao has them in int8, or None where it does not run."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        print(f"torchao does not run here: {error}", file=sys.stderr)
        return None
    theirs = copy.deepcopy(network)
    quantize_(theirs, Int8WeightOnlyConfig())
    return theirs


def products(width: int, rows: int, repeats: int) -> dict[str, float]:
    """Microseconds to multiply rows with a matrix, medians."""
    weight, hidden = 0.02 * torch.randn(4 * width, width), torch.randn(rows, width)
    layer = nn.Linear(width, 4 * width, bias=False)
    layer.weight.data = weight
    ways: dict[str, Callable[[], Tensor]] = {
        "float32": lambda: functional.linear(hidden, weight),
        "bfloat16": lambda half=weight.bfloat16(), rows=hidden.bfloat16(): functional.linear(rows, half),
        "int8": lambda matrix=matrix_of(Int8Matrix, weight): matrix.multiply(hidden),
        f"int8, {_NO_KERNEL}": lambda matrix=matrix_of(Int8Matrix, weight): matrix.multiply(hidden),
        "int4": lambda matrix=matrix_of(Int4Matrix, weight): matrix.multiply(hidden),
        f"int4, {_NO_KERNEL}": lambda matrix=matrix_of(Int4Matrix, weight): matrix.multiply(hidden),
    }
    if theirs := torchao_form(nn.Sequential(layer)):
        ways["torchao int8"] = lambda: theirs(hidden)
    with torch.inference_mode():
        return by_turns(ways, repeats)


def matrix_of(form: type[Int8Matrix] | type[Int4Matrix], weight: Tensor) -> Int8Matrix | Int4Matrix:
    """A weight in few bits."""
    matrix = form(*weight.shape)
    matrix.weight.data, matrix.scale.data = form.quantize(weight)
    return matrix


def by_turns(ways: Mapping[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Microseconds of each way, medians of turns after the first."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + repeats):
        for name, way in ways.items():
            rows_by_kernel = 0 if name.endswith(_NO_KERNEL) else quantization._KERNEL_ROWS
            with patch.object(quantization, "_KERNEL_ROWS", rows_by_kernel):
                count, began = 0, time.perf_counter()
                while (spent := time.perf_counter() - began) < _LEAST_SECONDS:
                    way()
                    count += 1
            found[name].append(1e6 * spent / count)
    return {name: round(statistics.median(each[1:]), 1) for name, each in found.items()}


if __name__ == "__main__":
    main()
