"""Owns training: a loop that yields a report each step, and a state from which it goes on to the bit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batches import gather
from model.config import Recipe, TrainingConfig
from model.device import autocast, choose_device, choose_precision, random_numbers_of
from model.network import build_network, check_tensors, load_tensors
from model.order import DataOrder
from model.tokenizer import TokenArray

ADAM_STATE: Final = ("step", "exp_avg", "exp_avg_sq")


class DivergedError(ArithmeticError):
    """The loss or its gradient is no finite number: from this step on the weights are worthless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did.

    Loss and gradient norm stay on the device until they are read: reading waits for the device, so a fast loop
    reads them now and then, and always before it saves. Reading raises DivergedError if they are not finite.
    """

    step: int  # steps done, from 1
    learning_rate: float
    tokens: int  # seen since the beginning
    epoch: float  # passes over the train split since the beginning
    loss_on_device: Tensor
    gradient_norm_on_device: Tensor

    @property
    def train_loss(self) -> float:
        """Nats per token over the step's whole batch, before its update."""
        return self._finite("loss", self.loss_on_device)

    @property
    def gradient_norm(self) -> float:
        """Length of the gradient over all weights, before clipping."""
        return self._finite("gradient norm", self.gradient_norm_on_device)

    def _finite(self, name: str, value: Tensor) -> float:
        number = value.item()
        if not math.isfinite(number):
            raise DivergedError(
                f"the {name} of step {self.step} is {number}; go on from an earlier checkpoint "
                f"with training.learning_rate below {self.learning_rate:g}"
            )
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """All that a training needs to go on, beside its recipe and dataset: copies on the CPU, safe to write.

    Names of tensors: "network.<name>", and "optimizer.<name of the weight>.exp_avg", ".exp_avg_sq", ".step".
    """

    step: int
    tensors: dict[str, Tensor]


class Training:
    """A network on its way from first weights to `recipe.training.steps` steps.

    `for report in training.steps(): ...` trains; the caller logs, evaluates, saves and stops as it likes. Every
    random number is a function of (seed, step), so neither what the caller does in between nor a restart from
    `state()` changes a bit of the outcome on one device.

    `train_tokens` is 1-D, usually a memmap. ValueError if it is shorter than two windows or has ids beyond the
    vocabulary (when they are met).
    """

    def __init__(self, recipe: Recipe, train_tokens: TokenArray, *, dataset_digest: str) -> None:
        config = recipe.training
        self.recipe = recipe
        self.step = 0
        self.order = DataOrder(
            dataset_digest=dataset_digest,
            seed=config.seed,
            tokens=len(train_tokens),
            block_size=recipe.network.block_size,
            batch_size=config.batch_size,
        )
        self.device = choose_device(config.device)
        self.precision = choose_precision(self.device, config.precision, network=recipe.network)
        self.network = build_network(recipe.network, seed=config.seed).to(self.device)
        self._optimizer = build_optimizer(self.network, config)
        self._train_tokens = train_tokens

    def steps(self) -> Iterator[StepReport]:
        """Trains from `self.step` to the recipe's last step, one report a step."""
        while self.step < self.recipe.training.steps:
            self.network.train()
            with random_numbers_of(self.device, self.recipe.training.seed, self.step):
                report = self._take_step()
            yield report

    def _take_step(self) -> StepReport:
        config = self.recipe.training
        learning_rate = learning_rate_at(self.step, config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._accumulate_gradients()
        gradient_norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), config.gradient_clip_norm or math.inf
        )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepReport(
            step=self.step,
            learning_rate=learning_rate,
            tokens=self.step * config.batch_size * self.recipe.network.block_size,
            epoch=self.order.epoch(self.step),
            loss_on_device=loss,
            gradient_norm_on_device=gradient_norm,
        )

    def _accumulate_gradients(self) -> Tensor:
        """Leaves the gradient of the whole batch's mean loss in the weights, and returns that loss, 0-d."""
        parts = self.recipe.training.gradient_accumulation_steps
        total = torch.zeros((), device=self.device)
        # Parts of equal size: the mean of their means is the mean of the whole batch.
        for starts in self.order.window_starts(self.step).reshape(parts, -1):
            inputs, targets = gather(
                self._train_tokens,
                starts,
                block_size=self.recipe.network.block_size,
                vocabulary_size=self.recipe.network.vocabulary_size,
                device=self.device,
            )
            with autocast(self.device, self.precision):
                logits = self.network(inputs)
                loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten()) / parts
            torch.autograd.backward(loss)
            total += loss.detach()
        return total

    def state(self) -> TrainingState:
        """A copy of where the training stands; steps taken afterwards do not change it."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for part, tensor in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{part}"] = tensor
        return TrainingState(
            step=self.step,
            tensors={name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()},
        )

    def load(self, state: TrainingState) -> None:
        """Goes on from a state of the same recipe. ValueError names a tensor that is missing, unexpected or misshapen."""
        check_tensors(state.tensors, self._expected_tensors(state.step))
        load_tensors(self.network, state.tensors)
        names = [name for group in self._optimizer.param_groups for name in group["param_names"]]
        moments = {
            index: {part: state.tensors[f"optimizer.{name}.{part}"].clone() for part in ADAM_STATE}
            for index, name in enumerate(names if state.step else [])
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = state.step

    def _expected_tensors(self, step: int) -> dict[str, Tensor]:
        """The names that a state of this recipe has, with tensors of the right shapes."""
        expected = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if step > 0:  # before its first step AdamW has no state
            for name, parameter in self.network.named_parameters():
                for part in ADAM_STATE:
                    expected[f"optimizer.{name}.{part}"] = torch.zeros(()) if part == "step" else parameter
        return expected


def build_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), with decay on matrices and embeddings only.

    Norms and biases are left alone, as GPT-2's successors do: to pull them to 0 would undo what they are for.
    """
    named = list(network.named_parameters())
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


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """The learning rate of step `step` (from 0): a linear warm-up, then half a cosine down to the minimum."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return config.minimum_learning_rate + share * (config.learning_rate - config.minimum_learning_rate)
