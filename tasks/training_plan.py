"""What a training would take, before it is begun: memory, time and money, from a few steps of its own."""

import statistics
import time
from dataclasses import dataclass, replace

import psutil
import torch

from model.config import Recipe, TrainingConfig, recipe_from_dict
from model.device import choose_device, device_name
from model.flops import flops_per_token, utilisation
from model.footprint import Footprint, footprint
from model.network import empty_network, parameter_count
from model.order import DataOrder
from model.ranks import Ranks
from model.training import Training
from storage.checkpoints import latest_checkpoint
from storage.datasets import Dataset
from storage.workspace import Workspace
from tasks.at_hand import dataset_at_hand
from tasks.training_request import TrainingRequest
from tasks.watch import Watch

CALIBRATION_STEPS = 20
_WARM_UP_STEPS = 3
_MOST_SECONDS = 30.0  # after which no further step is begun
# What allocators take beyond what is asked of them. Measured with glibc's on baby, 16 windows; of CUDA's an allowance.
_ALLOCATED = {"cpu": 1.4, "cuda": 1.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What a training would take from where it stands. `tokens_per_second` and `seconds` are those of steps alone, of all
    devices together as if their talk took no time; `cost` is in the currency of the price an hour."""

    dataset: str
    device: str
    processes: int
    parameters: int
    layers: int
    width: int
    steps: int
    tokens: int
    epochs: float
    flops_per_token: int
    flops: float
    memory: Footprint
    windows_a_part: int
    memory_bytes: int
    device_bytes: int
    tokens_per_second: float
    utilisation: float | None
    seconds: float
    cost: float | None


def plan_training(
    request: TrainingRequest, workspace: Workspace, *, price_per_hour: float | None = None
) -> TrainingPlan:
    """Plans a training, or what is left of one. ValueError if it cannot be, or does not fit the device: then it says what would.

    `price_per_hour` is of a device.
    """
    dataset = dataset_at_hand(request.dataset, workspace)
    recipe, done = _recipe(request, dataset, workspace)
    config, ranks = recipe.training, request.processes * request.nodes
    order = _order(recipe, dataset)
    parts = Ranks(size=ranks).parts(config.gradient_accumulation_steps)
    windows = Ranks(size=ranks).share(order.window_starts(0), parts).shape[1]
    memory, device_bytes = footprint(recipe), _device_bytes(config)
    shared_by = ranks if config.parallelism == "sharded" else 1
    device = choose_device(config.device)
    needed = int(_ALLOCATED.get(device.type, 1.0) * memory.bytes(windows, shared_by=shared_by))
    if needed > device_bytes:
        raise ValueError(_way_out(recipe, memory, windows, ranks, needed, device_bytes))
    seconds_a_step = _calibrated(recipe, dataset, windows, parts)
    tokens_a_step = config.batch_size * recipe.network.block_size
    steps = config.steps - done
    name = device_name(device)
    seconds = steps * seconds_a_step
    return TrainingPlan(
        dataset=dataset.reference,
        device=name,
        processes=ranks,
        parameters=parameter_count(empty_network(recipe.network)),
        layers=recipe.network.layers,
        width=recipe.network.width,
        steps=steps,
        tokens=steps * tokens_a_step,
        epochs=order.epoch(steps),
        flops_per_token=flops_per_token(recipe.network),
        flops=float(steps * tokens_a_step * flops_per_token(recipe.network)),
        memory=memory,
        windows_a_part=windows,
        memory_bytes=needed,
        device_bytes=device_bytes,
        tokens_per_second=tokens_a_step / seconds_a_step,
        utilisation=utilisation(tokens_a_step / seconds_a_step / ranks, recipe.network, name),
        seconds=seconds,
        cost=None if price_per_hour is None else price_per_hour * ranks * seconds / 3600,
    )


def _recipe(request: TrainingRequest, dataset: Dataset, workspace: Workspace) -> tuple[Recipe, int]:
    """The recipe, and how many of its steps are done."""
    if request.resume is None:
        return request.recipe(
            vocabulary_size=dataset.manifest.vocabulary_size, end_of_text=dataset.manifest.end_of_text
        ), 0
    checkpoint = latest_checkpoint(workspace.checkpoints / request.resume)
    return recipe_from_dict(checkpoint.facts["recipe"]), checkpoint.step


def _order(recipe: Recipe, dataset: Dataset) -> DataOrder:
    """The order of the data; ValueError if it does not suffice."""
    return DataOrder(
        dataset_digest=dataset.manifest.digest,
        seed=recipe.training.seed,
        tokens=dataset.manifest.train.tokens,
        block_size=recipe.network.block_size,
        batch_size=recipe.training.batch_size,
    )


def _device_bytes(config: TrainingConfig) -> int:
    """Memory of the device that is there to be taken."""
    device = choose_device(config.device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _way_out(
    recipe: Recipe, memory: Footprint, windows: int, ranks: int, needed: int, device_bytes: int
) -> str:
    """What would fit, for a training that does not."""
    config = recipe.training
    more = _ALLOCATED.get(choose_device(config.device).type, 1.0)
    shared_by = ranks if config.parallelism == "sharded" else 1
    what = f"it takes about {needed / 1e9:.1f} GB, and the device has {device_bytes / 1e9:.1f} GB"
    for fewer in sorted((n for n in range(1, windows) if windows % n == 0), reverse=True):
        if more * memory.bytes(fewer, shared_by=shared_by) <= device_bytes:
            parts = Ranks(size=ranks).parts(config.gradient_accumulation_steps) * ranks * windows // fewer
            return f"{what}; it fits, with the same losses, with --set training.gradient_accumulation_steps={parts}"
    for processes in (2**power for power in range(1, 11)):
        if more * memory.bytes(1, shared_by=processes) <= device_bytes:
            return f"{what}; it fits on {processes} such devices with --nproc {processes} --set training.parallelism=sharded"
    return f"{what}; choose a smaller network, such as --preset pocket"


def _calibrated(recipe: Recipe, dataset: Dataset, windows: int, parts: int) -> float:
    """Seconds of a step of this device, from steps of one part and of two: the update is there once, the parts are more."""
    cuts = (1, 2) if parts > 1 else (1,)
    with Watch("calibrate", total=CALIBRATION_STEPS, unit="steps") as watch:
        seconds = [
            _step_seconds(recipe, dataset, windows, cut, CALIBRATION_STEPS // len(cuts), watch)
            for cut in cuts
        ]
    if parts == 1:
        return seconds[0]
    part = max(seconds[1] - seconds[0], seconds[1] / 2 / parts)
    return seconds[0] + (parts - 1) * part


def _step_seconds(
    recipe: Recipe, dataset: Dataset, windows: int, parts: int, steps: int, watch: Watch
) -> float:
    """Median seconds of a step of so many parts, without warm-up; on a device that is slow for it, of one step."""
    config = replace(
        recipe.training,
        batch_size=windows * parts,
        gradient_accumulation_steps=parts,
        steps=max(steps, recipe.training.steps),
    )
    training = Training(
        replace(recipe, training=config),
        dataset.token_file("train").open(),
        dataset_digest=dataset.manifest.digest,
    )
    seconds, began = list[float](), time.monotonic()
    before = began
    for report in training.steps():
        _ = report.train_loss  # waits for the device
        now = time.monotonic()
        seconds.append(now - before)
        before = now
        watch.advance(1)
        if report.step == steps or now - began > _MOST_SECONDS:
            break
    return statistics.median(seconds[min(_WARM_UP_STEPS, len(seconds) - 1) :])
