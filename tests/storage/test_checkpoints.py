"""A checkpoint comes back to the bit, or is refused by name; an unfinished one is none."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_disks import small_disk

from storage.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_tensors,
    read_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    without_optimizer,
)
from storage.errors import CheckpointError

NAMES = ("network.safetensors", "optimizer.safetensors", "tokenizer.json")


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    odd = torch.tensor([math.nan, math.inf, -0.0, 1e-45, 65504.0])
    return {
        "network.weight": torch.randn(7, 5),
        "network.half": torch.randn(4, 3).to(torch.bfloat16),
        "network.odd": odd,
        "network.transposed": torch.randn(3, 4).T,
        "network.scalar": torch.tensor(3.5),
        "network.empty": torch.zeros(0, 4),
        "optimizer.exp_avg": torch.randn(7, 5, dtype=torch.float64),
        "optimizer.odd": odd.to(torch.bfloat16),
        "generator": torch.arange(16, dtype=torch.uint8),
        "step": torch.tensor(2**40),
    }


def save(folder: Path, step: int = 5, **facts: Any) -> Checkpoint:
    return save_checkpoint(folder, step=step, tensors=tensors(), facts=facts, tokenizer_json='{"ü": "東京"}')


def bits(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return str(tensor.dtype), tuple(tensor.shape), raw


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_every_tensor_comes_back_to_the_bit(tmp_path: Path) -> None:
    save(tmp_path / "run", loss=1.5)
    found = latest_checkpoint(tmp_path / "run")
    loaded = load_tensors(found)
    assert {name: bits(tensor) for name, tensor in loaded.items()} == {
        name: bits(tensor) for name, tensor in tensors().items()
    }
    assert found.step == 5
    assert found.facts == {"loss": 1.5}
    assert found.tokenizer_json() == '{"ü": "東京"}'
    assert found.path == tmp_path / "run" / "step-00000005"


def test_the_network_alone_can_be_loaded(tmp_path: Path) -> None:
    loaded = load_tensors(save(tmp_path), network_only=True)
    assert set(loaded) == {name for name in tensors() if name.startswith("network.")}


def test_a_checkpoint_holds_no_pickle_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "run")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == [f"run/step-00000005/{name}" for name in ("checkpoint.json", *NAMES)]


def test_who_may_read_the_record_may_read_the_weights(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint = save(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in checkpoint.path.iterdir()}
    assert modes == dict.fromkeys(("checkpoint.json", *NAMES), 0o640)


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_is_refused_by_name(name: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path)
    size = (checkpoint.path / name).stat().st_size
    for position in (0, size // 2, size - 1):
        flip(checkpoint.path / name, position)
        with pytest.raises(CheckpointError, match=f"{name}: is missing or damaged; go back to another"):
            load_tensors(checkpoint)
        flip(checkpoint.path / name, position)
    (checkpoint.path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: is missing or damaged"):
        load_tensors(checkpoint)


def test_a_damaged_optimizer_does_not_matter_to_who_wants_the_network(tmp_path: Path) -> None:
    checkpoint = save(tmp_path)
    flip(checkpoint.path / "optimizer.safetensors", 20)
    assert load_tensors(checkpoint, network_only=True)


def test_an_unfinished_checkpoint_is_none(tmp_path: Path) -> None:
    for step in (20, 100, 3):
        save(tmp_path, step)
    (tmp_path / "step-00000100" / "checkpoint.json").unlink()
    (tmp_path / "step-00000200").mkdir()
    (tmp_path / "step-00000300").write_text("a file")
    shutil.copytree(tmp_path / "step-00000020", tmp_path / ".stage.1234.partial")
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [3, 20]
    assert latest_checkpoint(tmp_path).step == 20
    with pytest.raises(CheckpointError, match="no finished checkpoint here"):
        read_checkpoint(tmp_path / "step-00000100")
    with pytest.raises(CheckpointError, match="no finished checkpoint here; start the training anew"):
        latest_checkpoint(tmp_path / "nowhere")


def test_a_step_whose_removal_was_killed_can_be_saved_again(tmp_path: Path) -> None:
    path = save(tmp_path).path
    (path / "checkpoint.json").unlink()
    (path / "network.safetensors").unlink()
    assert len(load_tensors(save(tmp_path))) == len(tensors())
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [5]


def test_a_step_that_is_there_is_kept(tmp_path: Path) -> None:
    before = (save(tmp_path, loss=1.0).path / "checkpoint.json").stat().st_mtime_ns
    assert (save(tmp_path, loss=1.0).path / "checkpoint.json").stat().st_mtime_ns == before


def test_a_removed_checkpoint_is_gone(tmp_path: Path) -> None:
    remove_checkpoint(save(tmp_path, 1))
    save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_copy_for_use_has_the_network_alone_and_outlives_the_original(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "run", loss=2.0)
    slim = without_optimizer(checkpoint, tmp_path / "use" / "model")
    remove_checkpoint(checkpoint)
    found = read_checkpoint(tmp_path / "use" / "model")
    assert found == slim
    assert found.facts == {"loss": 2.0}
    assert sorted(path.name for path in slim.path.iterdir()) == [
        "checkpoint.json",
        "network.safetensors",
        "tokenizer.json",
    ]
    loaded = load_tensors(found, network_only=True)
    assert bits(loaded["network.half"]) == bits(tensors()["network.half"])
    with pytest.raises(CheckpointError, match="has no optimizer; it is for use"):
        load_tensors(found)


def test_a_moved_checkpoint_is_the_same(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "run")
    moved = read_checkpoint(Path(shutil.move(checkpoint.path, tmp_path / "elsewhere")))
    assert load_tensors(moved).keys() == tensors().keys()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format_version": 1}',
        '{"format_version": 1, "step": "5", "sha256": {}, "facts": {}}',
        '{"format_version": 1, "step": 5, "sha256": [], "facts": {}}',
        '{"format_version": 1, "step": 5, "sha256": {}, "facts": null}',
        '{"format_version": 2, "step": 5, "sha256": {}, "facts": {}}',
        "[" * 100_000,
        "\xff",
    ],
    ids=range(12),
)
def test_what_is_no_record_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path)
    (checkpoint.path / "checkpoint.json").write_text(text, encoding="latin-1")
    for read in (read_checkpoint, lambda path: load_tensors(checkpoint)):
        with pytest.raises(CheckpointError, match=str(checkpoint.path)) as refused:
            read(checkpoint.path)
        assert "\n" not in str(refused.value)
    assert list_checkpoints(tmp_path) == []


def test_a_file_that_the_record_does_not_name_is_not_trusted(tmp_path: Path) -> None:
    checkpoint = save(tmp_path)
    path = checkpoint.path / "checkpoint.json"
    record = json.loads(path.read_text())
    del record["sha256"]["network.safetensors"]
    path.write_text(json.dumps(record))
    flip(checkpoint.path / "network.safetensors", 300)
    for network_only in (True, False):
        with pytest.raises(CheckpointError, match=r"network\.safetensors: is missing or damaged"):
            load_tensors(checkpoint, network_only=network_only)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_not_safetensors_is_refused_though_its_checksum_holds(content: bytes, tmp_path: Path) -> None:
    from storage.files import sha256_file

    checkpoint = save(tmp_path)
    file, path = checkpoint.path / "network.safetensors", checkpoint.path / "checkpoint.json"
    file.write_bytes(content)
    record = json.loads(path.read_text())
    record["sha256"]["network.safetensors"] = sha256_file(file)
    path.write_text(json.dumps(record))
    if content.endswith(b"{}"):  # safetensors, of no tensor
        assert load_tensors(checkpoint, network_only=True) == {}
    else:
        with pytest.raises(CheckpointError, match=r"network\.safetensors: is not safetensors") as refused:
            load_tensors(checkpoint)
        assert "\n" not in str(refused.value)


def test_a_full_disk_names_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "size=64k"):
        big = {"network.a": torch.zeros(100_000), "optimizer.b": torch.zeros(3)}
        with pytest.raises(OSError, match=r"No space left on device: .*disk/run"):
            save_checkpoint(disk / "run", step=1, tensors=big, facts={}, tokenizer_json="{}")
        assert list((disk / "run").iterdir()) == []
