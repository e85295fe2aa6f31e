"""Owns the way from token files to tensors: windows gathered from a memmap, checked, and moved to the device."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.tokenizer import TokenArray


def gather(
    tokens: TokenArray,
    starts: npt.NDArray[np.int64],
    *,
    block_size: int,
    vocabulary_size: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The windows that begin at `starts`: inputs and targets, each int64 [len(starts), block_size].

    Reads only those windows of the memmap. The target of each token is the one after it. ValueError if a token
    is not in the vocabulary.
    """
    # A view of every possible window costs nothing; taking rows of it copies whole windows, not single tokens.
    windows = np.lib.stride_tricks.sliding_window_view(tokens, block_size + 1)[starts]
    return split(to_tensor(windows, vocabulary_size=vocabulary_size, device=device))


def split(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Windows [B, T + 1] -> inputs [B, T], and the targets [B, T] one token further."""
    return windows[:, :-1], windows[:, 1:]


def to_tensor(tokens: TokenArray, *, vocabulary_size: int, device: torch.device) -> Tensor:
    """Tokens of any shape as int64 on the device. ValueError if one is not in the vocabulary."""
    # Here, where tokens are on the CPU: on a GPU a wrong id is an assertion that kills the process.
    if tokens.max(initial=0) >= vocabulary_size or tokens.min(initial=0) < 0:
        raise ValueError(
            f"the tokens hold the id {int(tokens.max())}, outside the network's vocabulary of {vocabulary_size}; "
            "the dataset was made with another tokenizer"
        )
    tensor = torch.from_numpy(tokens.astype(np.int64))
    if device.type == "cuda":  # from pinned memory the copy runs while the GPU still works on the last batch
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
