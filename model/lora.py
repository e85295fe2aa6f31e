"""Owns LoRA: small matrices beside large ones that stay as they are, and how the two become one again.

y = W x + (alpha / rank) B A x, with A [rank, inputs] and B [outputs, rank], of which only A and B are learnt (Hu et al. 2021,
arXiv:2106.09685, section 4.1). B begins at 0, so that the first step finds the network that was there before.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import LORA_TARGETS, LoraConfig

_DOWN: Final = "lora_down"  # A
_UP: Final = "lora_up"  # B


class LoraLinear(nn.Linear):
    """A linear layer with an adapter beside it. Its own weights keep their names and their memory."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=has_bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = config.alpha / config.rank
        # Of this deviation A keeps the length of what it reads, about.
        down = torch.randn(config.rank, linear.in_features, generator=generator) / math.sqrt(
            linear.in_features
        )
        self.lora_down = nn.Parameter(down)
        self.lora_up = nn.Parameter(torch.zeros(linear.out_features, config.rank))

    def forward(self, input: Tensor) -> Tensor:
        """[…, inputs] -> […, outputs]."""
        own = functional.linear(input, self.weight, self.bias)
        return own + self.scale * functional.linear(functional.linear(input, self.lora_down), self.lora_up)


def add_adapters(network: nn.Module, config: LoraConfig, *, seed: int) -> None:
    """Gives the targets of a network on the CPU (or on "meta", to count) adapters, the same for the same seed; all other weights
    learn no more.

    ValueError if the network has none of a target: a bigram table has no blocks, and a tied head is the embedding's.
    """
    found = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    chosen = [name for name in found if any(_is_of(name, target) for target in config.targets)]
    for target in config.targets:
        if not any(_is_of(name, target) for name in chosen):
            there = [each for each in LORA_TARGETS if any(_is_of(name, each) for name in found)]
            raise ValueError(
                f"lora.targets: this network has no {target} to adapt (there: {', '.join(there) or 'none'}); choose another, "
                "or fine-tune all weights, without --lora"
            )
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in chosen:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, LoraLinear(found[name], config, generator))


def _is_of(name: str, target: str) -> bool:
    """Whether a module's name, such as blocks.0.attention.query, is a target's, such as attention or attention.query."""
    return f".{name}.".find(f".{target}.") >= 0 and (target != "head" or name == "head")


def adapter_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the tensors of a network, with names as in `TrainingState.tensors`, those of its adapters."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith("network.") and name.endswith((f".{_DOWN}", f".{_UP}"))
    }


def merged(tensors: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The tensors of a network with adapters as those of one without, which computes the same: W + (alpha / rank) B A.

    Names as in `TrainingState.tensors`. Made in float32, whatever the weights are kept in. ValueError names a tensor that an
    adapter lacks, or that does not fit it.
    """
    adapter = adapter_of(tensors)
    together = {name: tensor for name, tensor in tensors.items() if name not in adapter}
    for module in sorted({name.rpartition(".")[0] for name in adapter}):
        weight, down, up = f"{module}.weight", f"{module}.{_DOWN}", f"{module}.{_UP}"
        if missing := [name for name in (weight, down, up) if name not in tensors]:
            raise ValueError(f"tensor {missing[0]} is missing; the adapter is of another network")
        base = tensors[weight]
        if tensors[down].shape != (config.rank, base.shape[1]) or tensors[up].shape != (
            base.shape[0],
            config.rank,
        ):
            shapes = f"{list(tensors[up].shape)} x {list(tensors[down].shape)}"
            raise ValueError(
                f"the adapter of {weight} has the shapes {shapes}, which give no {list(base.shape)} by rank {config.rank}; "
                "it is of another network"
            )
        added = tensors[up].float() @ tensors[down].float() * (config.alpha / config.rank)
        together[weight] = (base.float() + added).to(base.dtype)
    return together


def trainable_count(network: nn.Module) -> int:
    """Numbers that learn."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
