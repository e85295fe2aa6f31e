"""Owns the way from token files to tensors: windows gathered from a memmap, or from the device's own copy of it."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.tokenizer import TokenArray

Integers = npt.NDArray[np.int64]
Learnt = npt.NDArray[np.uint8]  # of each token of a split: 1 if it is to be learnt, 0 if it is only read

IGNORED: Final = -100  # a target that does not count: cross_entropy's own default

#: Starts of windows [N] -> their inputs and targets, each int64 [N, block_size] on the device.
Windows = Callable[[Integers], tuple[Tensor, Tensor]]

RESIDENT_SHARE: Final = 0.25  # of the free memory of a GPU: a split that takes more stays on the host
_UPLOADED_TOKENS: Final = 1 << 25  # at a time


def windows_of(
    tokens: TokenArray,
    *,
    block_size: int,
    vocabulary_size: int,
    device: torch.device,
    learnt: Learnt | None = None,
) -> Windows:
    """The windows of a split, for a device: from its own memory on a GPU in which the split fits well, so that a step waits for
    no disk and no copy; else from the host's. With `learnt` other targets are IGNORED.

    ValueError, at once or when it is met, if a token is not in the vocabulary."""
    if learnt is not None:
        return _partly_ignored(tokens, learnt, block_size, vocabulary_size, device)
    if device.type == "cuda" and tokens.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return ResidentWindows(tokens, block_size=block_size, vocabulary_size=vocabulary_size, device=device)

    def gathered(starts: Integers) -> tuple[Tensor, Tensor]:
        return gather(tokens, starts, block_size=block_size, vocabulary_size=vocabulary_size, device=device)

    return gathered


def _partly_ignored(
    tokens: TokenArray, learnt: Learnt, block_size: int, vocabulary_size: int, device: torch.device
) -> Windows:
    def gathered(starts: Integers) -> tuple[Tensor, Tensor]:
        inputs, targets = gather(
            tokens, starts, block_size=block_size, vocabulary_size=vocabulary_size, device=device
        )
        is_learnt = np.lib.stride_tricks.sliding_window_view(learnt, block_size + 1)[starts][:, 1:]
        is_ignored = _moved(torch.from_numpy(is_learnt == 0), device)
        return inputs, targets.masked_fill(is_ignored, IGNORED)

    return gathered


def targets_to_learn(learnt: Learnt, starts: Integers, *, block_size: int) -> int:
    """How many targets the windows at `starts` have that are to be learnt."""
    return int(
        np.lib.stride_tricks.sliding_window_view(learnt, block_size + 1)[starts][:, 1:].sum(dtype=np.int64)
    )


class ResidentWindows:
    """The windows of a split that is in the device's memory, 2 or 4 bytes a token."""

    def __init__(
        self, tokens: TokenArray, *, block_size: int, vocabulary_size: int, device: torch.device
    ) -> None:
        # PyTorch can index by and compute with signed numbers alone: the same bits, and a mask when they are read.
        signed = np.int16 if tokens.dtype.itemsize <= 2 else np.int32
        self._mask = (1 << 8 * np.dtype(signed).itemsize) - 1
        self._tokens = torch.empty(
            len(tokens), dtype=torch.from_numpy(np.empty(0, signed)).dtype, device=device
        )
        self._offsets = torch.arange(block_size + 1, device=device)
        for begin in range(0, len(tokens), _UPLOADED_TOKENS):
            piece = np.array(tokens[begin : begin + _UPLOADED_TOKENS])
            _refuse_unknown(piece, vocabulary_size)
            bits = torch.from_numpy(piece.astype(np.dtype(f"u{signed().itemsize}"), copy=False).view(signed))
            self._tokens[begin : begin + len(piece)].copy_(bits)

    def __call__(self, starts: Integers) -> tuple[Tensor, Tensor]:
        """Starts [N] -> inputs and targets, each int64 [N, block_size]."""
        places = _moved(torch.from_numpy(starts), self._tokens.device)[:, None] + self._offsets
        return split(self._tokens[places].long() & self._mask)


def gather(
    tokens: TokenArray,
    starts: Integers,
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
    _refuse_unknown(tokens, vocabulary_size)
    return _moved(torch.from_numpy(tokens.astype(np.int64)), device)


def _refuse_unknown(tokens: TokenArray, vocabulary_size: int) -> None:
    # Here, where tokens are on the CPU: on a GPU a wrong id is an assertion that kills the process.
    if tokens.max(initial=0) >= vocabulary_size or tokens.min(initial=0) < 0:
        raise ValueError(
            f"the tokens hold the id {int(tokens.max())}, outside the network's vocabulary of {vocabulary_size}; "
            "the dataset was made with another tokenizer"
        )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; from pinned memory the copy runs while a GPU still works on the last batch."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
