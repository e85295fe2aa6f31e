"""Windows come from the file as they are, and wrong ids never reach the device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model import batches
from model.batches import ResidentWindows, gather, windows_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_windows_are_gathered_from_a_memmap(tmp_path: Path, dtype: type) -> None:
    np.arange(1000, dtype=dtype).tofile(tmp_path / "train.bin")
    tokens = np.memmap(tmp_path / "train.bin", dtype=dtype, mode="r")
    starts = np.array([995, 0, 17])
    inputs, targets = gather(tokens, starts, block_size=4, vocabulary_size=1000, device=CPU)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [[995, 996, 997, 998], [0, 1, 2, 3], [17, 18, 19, 20]]
    assert targets.tolist() == [[996, 997, 998, 999], [1, 2, 3, 4], [18, 19, 20, 21]]


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="the id 12, outside the network's vocabulary of 12"):
        gather(np.arange(20), np.array([8]), block_size=4, vocabulary_size=12, device=CPU)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_windows_from_the_devices_own_memory_are_those_of_the_file(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_UPLOADED_TOKENS", 333)
    most = min(np.iinfo(dtype).max, 2**31 - 2)
    tokens = np.random.default_rng(0).integers(0, most, 2_000, endpoint=True).astype(dtype)
    tokens[:3] = most, 0, most // 2 + 1  # the highest bit too
    sizes = {"block_size": 16, "vocabulary_size": most + 1, "device": CPU}
    starts = np.array([0, 1, 317, 333, 1983])
    resident = ResidentWindows(tokens, **sizes)(starts)  # type: ignore[arg-type]
    gathered = windows_of(tokens, **sizes)(starts)  # type: ignore[arg-type]
    for ours, theirs in zip(resident, gathered, strict=True):
        assert ours.dtype == torch.int64
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="outside the network's vocabulary"):
        ResidentWindows(tokens, **sizes | {"vocabulary_size": most})  # type: ignore[arg-type]
