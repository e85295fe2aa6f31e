"""Owns what several processes do as one training: who takes which windows, and how their gradients become one.

Each process is a rank with a device of its own. "replicated": each holds the whole network, and gradients are averaged while
they are still being computed (Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704). "sharded": each holds a part of every
weight, gradient and optimizer state, and a block is put together when it is its turn (Zhao et al. 2023, "PyTorch FSDP",
arXiv:2304.11277; PyTorch's FSDP2). Either way one step is the step of a single process, but for the order of sums.

PyTorch's modules for this take most of a second to import, which a single process saves.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn

from model.blocks import Block
from model.config import Parallelism

#: After which a rank that hears nothing of the others gives up.
TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those of a training. All methods but `share` wait for the others: each calls them alike."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, windows: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int64]:
        """Windows [batch_size] of all ranks -> those of this one, [parts, batch_size / parts / size].

        ValueError if they cannot be dealt out evenly.
        """
        if len(windows) % (parts * self.size):
            raise ValueError(
                f"training.batch_size {len(windows)} is not a multiple of {self.size} processes times "
                f"training.gradient_accumulation_steps {parts}"
            )
        return windows.reshape(parts, self.size, -1)[:, self.rank]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all ranks' values, on each."""
        if self.size == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.size

    def any(self, is_so: bool) -> bool:
        """Whether it is so on one of them."""
        return any(self.all_of(is_so))

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

    def distribute(self, network: nn.Module, parallelism: Parallelism) -> "Replica":
        """The network, on its device, as one that all ranks train together."""
        if self.size == 1:
            return Replica(network)
        return _Sharded(network) if parallelism == "sharded" else _Replicated(network)


ALONE: Final = Ranks()


class Replica:
    """A network as a rank trains it: calling it is to call the network."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def __call__(self, ids: Tensor) -> Tensor:
        logits: Tensor = self._network(ids)
        return logits

    @contextlib.contextmanager
    def averaging(self, is_last_part: bool) -> Iterator[None]:
        """Inside, gradients of the parts of a batch are added up, and with the last one averaged over the ranks."""
        yield


class _Replicated(Replica):
    def __init__(self, network: nn.Module) -> None:
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            # 2.13 has another name for it, which 2.11 does not know. Our buffers are the same tables everywhere.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._wrapped = DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        super().__init__(self._wrapped)

    @contextlib.contextmanager
    def averaging(self, is_last_part: bool) -> Iterator[None]:
        with contextlib.nullcontext() if is_last_part else self._wrapped.no_sync():
            yield


class _Sharded(Replica):
    def __init__(self, network: nn.Module) -> None:
        from torch.distributed.fsdp import fully_shard

        for module in network.modules():
            if isinstance(module, Block):
                fully_shard(module)
        self._wrapped = fully_shard(network)
        super().__init__(network)

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
    try:
        yield Ranks(rank=rank, size=size)
    finally:
        distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank may hold a part, put together; any other as it is. All ranks call it alike."""
    put_together = getattr(tensor, "full_tensor", None)  # a DTensor's
    return put_together() if put_together else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, as the part that a rank holds of `like`; as it is if that is whole."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    everywhere = DTensor.from_local(tensor, like.device_mesh, [Replicate()], run_check=False)
    return everywhere.redistribute(placements=like.placements)
