"""Owns what moves the weights: AdamW, and Muon for the matrices of the blocks where a plan asks for it."""

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from model.config import TrainingConfig
from model.muon import Muon
from model.parts import part_of

#: What each keeps of a weight, beside it.
_PARTS: Final[Mapping[type[torch.optim.Optimizer], tuple[str, ...]]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}


class Optimizers:
    """All that moves the weights of a network that learn, as one.

    AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), with decay on matrices and embeddings only: norms and biases are left
    alone, as GPT-2's successors do, since to pull them to 0 would undo what they are for. With `config.optimizer` "muon" the
    matrices of the blocks are moved by Muon (`model.muon`).

    Names of tensors: "optimizer.<name of the weight>.<part>", with the parts that PyTorch's optimizers keep.
    """

    def __init__(self, network: nn.Module, config: TrainingConfig) -> None:
        matrices, others = list[tuple[str, nn.Parameter]](), list[tuple[str, nn.Parameter]]()
        learning = [(name, one) for name, one in network.named_parameters() if one.requires_grad]
        for name, parameter in learning:
            is_matrix = name.startswith("blocks.") and parameter.dim() == 2
            (matrices if is_matrix and config.optimizer == "muon" else others).append((name, parameter))
        self._optimizers: list[torch.optim.Optimizer] = [_adamw(others, config)] if others else []
        if matrices:
            self._optimizers.append(
                Muon(
                    matrices,
                    learning_rate=config.matrix_learning_rate,
                    momentum=config.matrix_momentum,
                    weight_decay=config.weight_decay,
                )
            )
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

    def step(self, share: float, *, is_skipped: Tensor) -> None:
        """Moves all weights, at `share` of their highest learning rates, and forgets the gradient.

        Where `is_skipped`, bool 0-d, the gradient is forgotten and nothing else happens.
        """
        for optimizer in self._optimizers:
            optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]  # as PyTorch's GradScaler tells it; read on the device
            for group in optimizer.param_groups:
                group["lr"] = share * group["initial_lr"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """What the optimizers keep, by name; nothing before the first step."""
        return {
            f"optimizer.{name}.{part}": optimizer.state[parameter][part]
            for optimizer in self._optimizers
            for name, parameter in _named(optimizer)
            for part in _PARTS[type(optimizer)]
            if parameter in optimizer.state
        }

    def expected(self) -> dict[str, Tensor]:
        """The names of `tensors()` after a step, with tensors of the right shapes."""
        return {
            f"optimizer.{name}.{part}": torch.zeros(()) if part == "step" else parameter
            for optimizer in self._optimizers
            for name, parameter in _named(optimizer)
            for part in _PARTS[type(optimizer)]
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `tensors()` gave, put together; from none of them, as before the first step."""
        for optimizer in self._optimizers:
            kept = {
                index: {
                    part: part_of(tensor.clone(), like=tensor if part == "step" else parameter)
                    for part in _PARTS[type(optimizer)]
                    if (tensor := tensors.get(f"optimizer.{name}.{part}")) is not None
                }
                for index, (name, parameter) in enumerate(_named(optimizer))
            }
            state = {index: parts for index, parts in kept.items() if parts}
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _adamw(named: list[tuple[str, nn.Parameter]], config: TrainingConfig) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [
        {"params": [(name, p) for name, p in named if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [(name, p) for name, p in named if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,  # all weights in one kernel; works on the CPU too
    )


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [
        pair
        for group in optimizer.param_groups
        for pair in zip(group["param_names"], group["params"], strict=True)
    ]


def learning_rate_share_at(step: int, config: TrainingConfig) -> float:
    """The share of its highest learning rate at step `step` (from 0), from a linear warm-up on.

    "cosine": half a cosine down to the minimum (Loshchilov and Hutter 2017, arXiv:1608.03983). "stable": the highest for most
    of the time, then a straight line down to the minimum over the last `decay_share` of the steps (Hu et al. 2024, "MiniCPM",
    arXiv:2404.06395, section 4), so that it need not be known before how long a training will be.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    least = config.minimum_learning_rate / config.learning_rate
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        share = min(1.0, (config.steps - step) / max(1.0, config.decay_share * config.steps))
    return least + share * (1 - least)
