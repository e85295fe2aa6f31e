"""Owns training: a loop that yields a report each step, and a state from which it goes on to the bit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from model.batches import Integers, Learnt, targets_to_learn, windows_of
from model.config import Recipe
from model.device import autocast, choose_device, choose_precision, random_numbers_of, repeatable
from model.guard import SKIPS_THAT_ARE_DIVERGENCE, Guard
from model.lora import add_adapters
from model.network import LanguageModel, build_network, check_tensors, load_tensors
from model.optimizers import Optimizers, learning_rate_share_at
from model.order import DataOrder
from model.parts import whole
from model.ranks import ALONE, Ranks
from model.tokenizer import TokenArray


class DivergedError(ArithmeticError):
    """The weights have become worthless: what they give is no finite number, or nothing that can be learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did.

    Its numbers stay on the device until they are read: reading waits for the device, so a fast loop reads them now and then.
    """

    step: int  # steps done, from 1
    learning_rate: float
    tokens: int  # seen since the beginning
    epoch: float  # passes over the train split since the beginning
    loss_on_device: Tensor
    gradient_norm_on_device: Tensor
    skips_on_device: Tensor  # updates left out in a row by now

    @property
    def train_loss(self) -> float:
        """Nats per token over the step's whole batch, before its update. Finite unless the update was left out."""
        return self.loss_on_device.item()

    @property
    def gradient_norm(self) -> float:
        """Length of the gradient over all weights, before clipping. Finite unless the update was left out."""
        return self.gradient_norm_on_device.item()


def skipped_of(reports: Sequence[StepReport]) -> list[StepReport]:
    """Of these steps, those whose update the guard left out. Waits for the device once.

    DivergedError if there were so many in a row that there is no going on.
    """
    if not reports:
        return []
    counts = torch.stack([report.skips_on_device for report in reports]).tolist()
    for report, count in zip(reports, counts, strict=True):
        if count >= SKIPS_THAT_ARE_DIVERGENCE:
            raise DivergedError(
                f"the updates of {count} steps in a row, up to step {report.step:,}, had to be left out: the last loss is "
                f"{report.train_loss:g}, its gradient's norm {report.gradient_norm:g}; start anew with training.learning_rate "
                f"below {report.learning_rate:g}"
            )
    return [report for report, count in zip(reports, counts, strict=True) if count]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """All that a training needs to go on, beside its recipe and dataset: copies on the CPU, safe to write.

    Names of tensors: "network.<name>", "optimizer.<name of the weight>.<part>" (`Optimizers`), and "guard.<part>" (`Guard`).
    """

    step: int
    tensors: dict[str, Tensor]


class Training:
    """A network on its way from first weights to `recipe.training.steps` steps.

    `for report in training.steps(): ...` trains; the caller logs, evaluates, saves and stops as it likes. Every
    random number is a function of (seed, step), so neither what the caller does in between nor a restart from
    `state()` changes a bit of the outcome on one device.

    `train_tokens` is 1-D, usually a memmap. With `first_weights`, tensors as in `TrainingState.tensors` of which the network's
    are taken, it begins from those instead of from a seed's. With `learnt` the tokens are rows of examples (`model.examples`), and
    the loss is the mean over the targets that are to be learnt, over the whole batch. Of several `ranks` each has a training of its own, with the same arguments, and
    calls alike whatever is called here; the loss, the weights and the state are those of all together. ValueError if the
    tokens are fewer than two windows, have ids beyond the vocabulary (when they are met), or a batch cannot be dealt out.
    """

    def __init__(
        self,
        recipe: Recipe,
        train_tokens: TokenArray,
        *,
        dataset_digest: str,
        ranks: Ranks = ALONE,
        first_weights: Mapping[str, Tensor] | None = None,
        learnt: Learnt | None = None,
    ) -> None:
        config = recipe.training
        self.recipe = recipe
        self.ranks = ranks
        self.step = 0
        self.order = DataOrder(
            dataset_digest=dataset_digest,
            seed=config.seed,
            tokens=len(train_tokens),
            block_size=recipe.network.block_size,
            batch_size=config.batch_size,
            are_rows=learnt is not None,
        )
        self._learnt = learnt
        self._parts = ranks.parts(config.gradient_accumulation_steps)
        ranks.share(self.order.window_starts(0), self._parts)  # or a ValueError
        self.device = choose_device(config.device)
        self.precision = choose_precision(self.device, config.precision, network=recipe.network)
        self.network = _first_network(recipe, first_weights).to(self.device)
        is_compiled = config.compilation == "on" or (
            config.compilation == "auto" and self.device.type == "cuda"
        )
        self._replica = ranks.distribute(self.network, config.parallelism, is_compiled=is_compiled)
        self._optimizers = Optimizers(self.network, config)
        self._guard = Guard(config.spike_deviations, self.device)
        self._windows = windows_of(
            train_tokens,
            block_size=recipe.network.block_size,
            vocabulary_size=recipe.network.vocabulary_size,
            device=self.device,
            learnt=learnt,
        )
        #: Whether an exception from outside, such as a signal's, would cost the step on its way and nothing else: neither
        #: weights nor optimizers have been touched. So it is until the first update begins, and then between `steps` being
        #: asked for the next step and that step's update.
        self.may_be_broken_off = True

    def steps(self) -> Iterator[StepReport]:
        """Trains from `self.step` to the recipe's last step, one report a step."""
        while self.step < self.recipe.training.steps:
            self.network.train()
            seed = self.recipe.training.seed
            with random_numbers_of(self.device, seed, self.step, self.ranks.rank), repeatable():
                report = self._take_step()
            yield report

    def _take_step(self) -> StepReport:
        config = self.recipe.training
        share = learning_rate_share_at(self.step, config)
        self.may_be_broken_off = True
        loss = self._accumulate_gradients()
        parameters = list(self.network.parameters())
        gradient_norm = whole(get_total_norm([one.grad for one in parameters if one.grad is not None]))
        if config.gradient_clip_norm:
            clip_grads_with_norm_(parameters, config.gradient_clip_norm, gradient_norm)
        self.may_be_broken_off = False
        skips = self._guard.skips(loss, gradient_norm)
        self._optimizers.step(share, is_skipped=skips > 0)
        self.step += 1
        return StepReport(
            step=self.step,
            learning_rate=share * config.learning_rate,
            tokens=self.step * config.batch_size * self.recipe.network.block_size,
            epoch=self.order.epoch(self.step),
            loss_on_device=loss,
            gradient_norm_on_device=gradient_norm,
            skips_on_device=skips,
        )

    def _accumulate_gradients(self) -> Tensor:
        """Leaves the gradient of the whole batch's mean loss in the weights, and returns that loss, 0-d."""
        parts = self._parts
        total = torch.zeros((), device=self.device)
        self.network.zero_grad(set_to_none=True)  # there are some if the last step was broken off
        of_all = self.order.window_starts(self.step)
        for part, starts in enumerate(self.ranks.share(of_all, parts), start=1):
            inputs, targets = self._windows(starts)
            with self._replica.averaging(is_last_part=part == parts):
                with autocast(self.device, self.precision):
                    loss = self._replica(inputs, targets) / self._parts_like(starts, of_all)
                torch.autograd.backward(loss)
            total += loss.detach()
        return self.ranks.mean(total)

    def _parts_like(self, starts: Integers, of_all: Integers) -> float:
        """How many parts like this one, each with as many targets, make up the batch of a rank: its mean counts for one of them.

        Of parts of equal size that is their number: the mean of their means is the mean of the whole batch.
        """
        if self._learnt is None:
            return self._parts
        size = self.order.block_size
        counted, of_batch = (
            targets_to_learn(self._learnt, some, block_size=size) for some in (starts, of_all)
        )
        return of_batch / (counted * self.ranks.size)

    def state(self) -> TrainingState:
        """A copy of where the training stands, on the first rank; steps taken afterwards do not change it."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= self._optimizers.tensors() | self._guard.tensors()
        return TrainingState(
            step=self.step,
            tensors={name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in tensors.items()},
        )

    def load(self, state: TrainingState) -> None:
        """Goes on from a state of the same recipe. ValueError names a tensor that is missing, unexpected or misshapen."""
        tensors = self._guard.tensors() | state.tensors  # version 0.1.0 had no guard: then it begins here
        check_tensors(tensors, self._expected_tensors(state.step))
        load_tensors(self.network, tensors)
        self._optimizers.load(tensors)
        self._guard.load(tensors)
        self.step = state.step

    def _expected_tensors(self, step: int) -> dict[str, Tensor]:
        """The names that a state of this recipe has, with tensors of the right shapes."""
        expected = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        expected |= self._guard.tensors()
        if step > 0:  # before, optimizers keep nothing
            expected |= self._optimizers.expected()
        return expected


def _first_network(recipe: Recipe, weights: Mapping[str, Tensor] | None) -> LanguageModel:
    """The network of a recipe as its training begins, on the CPU, with its adapters. ValueError as in `network_from`."""
    seed = recipe.training.seed
    network = build_network(recipe.network, seed=seed)
    if weights is not None:
        load_tensors(network, weights)
    if recipe.lora:
        add_adapters(network, recipe.lora, seed=seed)
    return network
