"""Owns tensors of which each of several processes holds a part only: how they are put together, and taken apart again."""

from torch import Tensor


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
