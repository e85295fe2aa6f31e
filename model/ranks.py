"""Owns what several processes do as one training: who takes which windows, and how their gradients become one.

Each process is a rank with a device of its own. "replicated": each holds the whole network, and gradients are averaged while
they are still being computed (Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704). "sharded": each holds a part of every
weight, gradient and optimizer state, and a block is put together when it is its turn (Zhao et al. 2023, "PyTorch FSDP",
arXiv:2304.11277; PyTorch's FSDP2). Either way one step is the step of a single process, but for the order of sums.

PyTorch's modules for this take most of a second to import, which a single process saves.
"""

import contextlib
import gc
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from model.blocks import Block
from model.config import Parallelism
from model.network import LanguageModel

#: After which a rank that hears nothing of the others gives up.
TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those of a training. All methods but `parts` and `share` wait for the others: each calls them alike."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def parts(self, of_all: int) -> int:
        """Of the parts that a batch goes through the networks in, those of one rank: so that no part grows with the ranks."""
        return math.ceil(of_all / self.size)

    def share(self, windows: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int64]:
        """Windows [batch_size] of all ranks -> those of this one in so many parts, [parts, batch_size / parts / size].

        ValueError if they cannot be dealt out evenly.
        """
        if len(windows) % (parts * self.size):
            raise ValueError(
                f"training.batch_size {len(windows)} cannot be dealt out to {self.size} processes in {parts} equal parts each; "
                "change it, or training.gradient_accumulation_steps"
            )
        return windows.reshape(parts, self.size, -1)[:, self.rank]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all ranks' values, on each."""
        if self.size == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.size

    def all_of(self, value: Any) -> list[Any]:
        """The values of all ranks, in order, on each."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's value, on each."""
        return self.all_of(value)[0]

    def distribute(
        self, network: LanguageModel, parallelism: Parallelism, *, is_compiled: bool = False
    ) -> "Replica":
        """The network, on its device, as one that all ranks train together; compiled by torch.compile, if asked for."""
        if self.size == 1:
            return Replica(network, is_compiled)
        return (_Sharded if parallelism == "sharded" else _Replicated)(network, is_compiled)


ALONE: Final = Ranks()


class NextTokenLoss(nn.Module):
    """A network with its loss, so that a compiler can join the two: logits are the largest tensor of a training."""

    def __init__(self, network: LanguageModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """ids and targets int64 [B, T] -> nats per token, 0-d."""
        logits = self.network(ids)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Replica:
    """A network as a rank trains it: calling it gives the loss, 0-d, of ids and targets, each int64 [B, T].

    What is compiled is a second form of the network, with the same weights: evaluation and writing, with their many shapes, use
    the first.
    """

    def __init__(self, network: LanguageModel, is_compiled: bool) -> None:
        loss = NextTokenLoss(network)
        self._loss: Callable[[Tensor, Tensor], Tensor] = self._distributed(loss, is_compiled)

    def _distributed(self, loss: NextTokenLoss, is_compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
        return torch.compile(loss, dynamic=False) if is_compiled else loss

    def __call__(self, ids: Tensor, targets: Tensor) -> Tensor:
        return self._loss(ids, targets)

    @contextlib.contextmanager
    def averaging(self, is_last_part: bool) -> Iterator[None]:
        """Inside, gradients of the parts of a batch are added up, and with the last one averaged over the ranks."""
        yield


class _Replicated(Replica):
    def _distributed(self, loss: NextTokenLoss, is_compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            # 2.13 has another name for it, which 2.11 does not know. Our buffers are the same tables everywhere.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._wrapped = DistributedDataParallel(
                loss, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        return torch.compile(self._wrapped, dynamic=False) if is_compiled else self._wrapped

    @contextlib.contextmanager
    def averaging(self, is_last_part: bool) -> Iterator[None]:
        with contextlib.nullcontext() if is_last_part else self._wrapped.no_sync():
            yield


class _Sharded(Replica):
    def _distributed(self, loss: NextTokenLoss, is_compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
        from torch.distributed.fsdp import fully_shard

        for module in loss.modules():
            if isinstance(module, Block):
                fully_shard(module)
        self._wrapped = fully_shard(loss.network)
        return torch.compile(loss, dynamic=False) if is_compiled else loss

    @contextlib.contextmanager
    def averaging(self, is_last_part: bool) -> Iterator[None]:
        self._wrapped.set_requires_gradient_sync(is_last_part)
        yield


@contextlib.contextmanager
def joined_ranks(rendezvous: str = "env://") -> Iterator[Ranks]:
    """This process as one of several, by the variables RANK, WORLD_SIZE and LOCAL_RANK that `torchrun` sets too; and its GPU.

    `rendezvous` is where they meet: "env://" is MASTER_ADDR and MASTER_PORT; others are "tcp://host:port" and "file:///path".
    """
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(
        backend, init_method=rendezvous, rank=rank, world_size=size, timeout=TIMEOUT
    )
    yield Ranks(rank=rank, size=size)  # after an exception there is nothing to wait for: the process ends
    gc.collect()  # what holds on to the group, such as DDP, must go first: else its threads may end the process by an abort
    distributed.barrier()
    distributed.destroy_process_group()
