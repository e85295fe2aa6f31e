"""Owns the choice of the machine's parts: CPU, CUDA or MPS, float32 or bfloat16, and the random numbers there."""

import contextlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np
import torch

from model.config import DeviceName, NetworkConfig, Precision

ChosenPrecision = Literal["float32", "bfloat16"]

# On narrower networks converting to bfloat16 costs what it saves. On 2 cores of Zen 4 a step took 0.6 to 0.75 of
# float32's time at width 128 (batches of 2,048 tokens), and the same time on the course's 256 tokens.
CPU_BFLOAT16_WIDTH: Final = 128


def choose_device(name: DeviceName) -> torch.device:
    """The device of a name; "auto" is CUDA, else MPS, else the CPU. ValueError if it is not there."""
    there: dict[DeviceName, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    if not there[name]:
        raise ValueError(
            f"this machine has no device {name!r} that PyTorch can use; set training.device=auto"
        )
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def device_name(device: torch.device) -> str:
    """What the device calls itself: the GPU, or the machine's kind of CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}"


def choose_precision(device: torch.device, name: Precision, *, network: NetworkConfig) -> ChosenPrecision:
    """The arithmetic of the forward pass; "auto" is bfloat16 where that is faster."""
    if name != "auto":
        return name
    if device.type == "cuda":
        # including_emulation: False, since before Ampere bfloat16 is emulated, slower than float32
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and _is_wide(network) and _cpu_has_bfloat16():
        return "bfloat16"
    return "float32"


def autocast(device: torch.device, precision: ChosenPrecision) -> torch.autocast:
    """The context in which matrix products run in `precision`; weights, norms and the loss stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def random_numbers_of(device: torch.device, seed: int, step: int, rank: int = 0) -> Iterator[None]:
    """Inside, random numbers are a function of (seed, step, rank); outside, the global generators go on untouched.

    Dropout draws from the global generators and takes no other, hence seed and restore.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    before = [generator.get_state() for generator in generators]
    mixed = int(
        np.random.SeedSequence([seed, step, rank] if rank else [seed, step]).generate_state(1, np.uint64)[0]
    )
    for generator in generators:
        generator.manual_seed(mixed % 2**63)
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Inside, PyTorch computes by what gives the same bits each time, where it has such: compiled networks and GPUs would else
    add the gradients of a token's embedding, and of attention, in the order in which threads come."""
    was_enabled = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module with a property, which types do not know
    was_filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # all that is read here has been written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_enabled, warn_only=was_warn_only)
        memory.fill_uninitialized_memory = was_filling


def _is_wide(network: NetworkConfig) -> bool:
    return network.kind == "gpt" and network.width >= CPU_BFLOAT16_WIDTH


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware."""
    # PyTorch 2.11 may lack the question; not knowing costs speed only.
    has: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
