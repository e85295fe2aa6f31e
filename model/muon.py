"""Owns Muon, the optimizer of the matrices within the blocks (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

The same as `torch.optim.Muon`, which takes one matrix after another, but for two things: matrices of one shape are made
orthogonal together, in a few large products; and an update can be left out on the device, by `found_inf`.
"""

import math
from collections import defaultdict
from typing import Any, Final

import torch
from torch import Tensor, nn

from model.parts import part_of, whole

#: Of the quintic that is applied to the singular values, to bring each near 1.
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
ITERATIONS: Final = 5


class Muon(torch.optim.Optimizer):
    """Moves each matrix by the nearest one that stretches no direction more than another, after Nesterov's momentum.

    `found_inf`, 0-d or None, as of PyTorch's fused AdamW: where it is 1 a step changes nothing, not even the momentum.
    """

    def __init__(
        self,
        named_matrices: list[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(
            named_matrices, {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        )
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves all matrices that have a gradient; `closure` is there for PyTorch's sake."""
        for group in self.param_groups:
            by_shape = defaultdict[torch.Size, list[Tensor]](list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Moves matrices of one shape."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._momentum_buffer(parameter) for parameter in parameters]
        rate, kept = group["lr"], torch.ones((), device=parameters[0].device)
        if self.found_inf is not None:
            kept = 1 - self.found_inf
            # What is no number times 0 is no number: the momentum takes its own place.
            gradients = [
                torch.where(kept > 0, gradient, buffer)
                for gradient, buffer in zip(gradients, buffers, strict=True)
            ]
        # In place of lerp, which PyTorch 2.11 does not know of tensors in parts. From itself to itself is no way at all.
        kept_back = 1 - group["momentum"]
        torch._foreach_add_(buffers, torch._foreach_sub(gradients, buffers), alpha=kept_back)
        ahead = torch._foreach_add(buffers, torch._foreach_sub(gradients, buffers), alpha=kept_back)
        rows, columns = parameters[0].shape
        together = orthogonal(torch.stack([whole(one) for one in ahead])).float()
        steps = together * (kept * (-rate * math.sqrt(max(1, rows / columns))))
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"] * kept)
        mine = [part_of(step, like=parameter) for step, parameter in zip(steps, parameters, strict=True)]
        torch._foreach_add_(parameters, mine)

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, rows, columns] -> nearly U V^T of each U S V^T, bfloat16: Newton and Schulz's iteration, which needs products alone."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    found = (matrices.mT if is_tall else matrices).bfloat16()
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if is_tall else found
