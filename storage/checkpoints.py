"""Checkpoints: a folder a training step, with safetensors, the tokenizer, and a record that is written last.

    step-00000500/   network.safetensors   optimizer.safetensors   tokenizer.json   checkpoint.json

`checkpoint.json` holds the facts (recipe, step, data set, losses) and the sha256 of every other file; loading verifies
them. A checkpoint folder is complete in itself: it can be moved, and a model can be made from it alone. No pickle.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from storage.errors import CheckpointError
from storage.files import atomic_file, link_or_copy, publish_folder, sha256_file, staged_folder, write_json

CHECKPOINT_FORMAT = 1
_NETWORK = "network.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_TOKENIZER = "tokenizer.json"
_NETWORK_PREFIX = "network."
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A finished checkpoint: where it is, its step, and the facts saved with it."""

    path: Path
    step: int
    facts: dict[str, Any]

    def tokenizer_json(self) -> str:
        """The text of tokenizer.json, as it was when the model was trained."""
        return (self.path / "tokenizer.json").read_text(encoding="utf-8")

    @property
    def network_bytes(self) -> int:
        """Size of the file with the network."""
        return (self.path / _NETWORK).stat().st_size


def checkpoint_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:08d}"


def save_checkpoint(
    run_folder: Path,
    *,
    step: int,
    tensors: Tensors,
    facts: dict[str, Any],
    tokenizer_json: str,
    name: str | None = None,
) -> Checkpoint:
    """Saves `tensors` (names that start with "network." apart from the rest) as <run_folder>/step-<step>, or
    under another name.

    Without a rest there is no optimizer.safetensors: such a checkpoint is for use, and training cannot go on from it.
    The folder appears only whole; if it is there already it is kept, with its facts, for a step has one state.
    """
    path = run_folder / (name or checkpoint_name(step))
    if _is_done(path):
        return read_checkpoint(path)
    host = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    network = {name: tensor for name, tensor in host.items() if name.startswith(_NETWORK_PREFIX)}
    rest = {name: tensor for name, tensor in host.items() if name not in network}
    with staged_folder(run_folder) as stage:
        save_tensors(network, stage / _NETWORK)
        if rest:
            save_tensors(rest, stage / _OPTIMIZER)
        with atomic_file(stage / _TOKENIZER) as file:
            file.write(tokenizer_json.encode())
        digests = {file.name: sha256_file(file) for file in sorted(stage.iterdir())}
        record = {"format_version": CHECKPOINT_FORMAT, "step": step, "sha256": digests, "facts": facts}
        write_json(stage / "checkpoint.json", record)
        publish_folder(stage, path, is_done=_is_done)
    return Checkpoint(path=path, step=step, facts=facts)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, without its tensors. Raises CheckpointError if it is missing or unfinished."""
    record = _read_record(path)
    return Checkpoint(path=path, step=record["step"], facts=record["facts"])


def load_tensors(checkpoint: Checkpoint, *, network_only: bool = False) -> Tensors:
    """The tensors of a checkpoint on the CPU, after the sha256 of every file they belong with has been verified.

    Raises CheckpointError if one is missing or damaged, or if the checkpoint was saved without its optimizer.
    """
    names = [_NETWORK] if network_only else [_NETWORK, _OPTIMIZER]
    _verified(checkpoint, names)
    tensors: Tensors = {}
    for name in names:
        tensors |= read_tensors(checkpoint.path / name)
    return tensors


def read_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, on the CPU. Raises CheckpointError if it is not one."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is not safetensors ({error})") from None


def network_sha256(checkpoint: Checkpoint) -> str:
    """The sha256, in hex, of the file of the network as it is recorded, not verified."""
    recorded: str = _read_record(checkpoint.path)["sha256"][_NETWORK]
    return recorded


def verified_sha256(checkpoint: Checkpoint) -> dict[str, str]:
    """The sha256, in hex, of the files of the network and of the optimizer: the same tensors, the same bytes.

    Raises CheckpointError if one of them is missing or damaged.
    """
    _verified(checkpoint, [_NETWORK, _OPTIMIZER])
    return recorded_sha256(checkpoint)


def recorded_sha256(checkpoint: Checkpoint) -> dict[str, str]:
    """As `verified_sha256`, but as it was recorded when the files were written."""
    recorded = _read_record(checkpoint.path)["sha256"]
    return {"network": recorded[_NETWORK], "optimizer": recorded[_OPTIMIZER]}


def _verified(checkpoint: Checkpoint, names: list[str]) -> dict[str, str]:
    """The recorded sha256 of all files of a checkpoint, after those of `names` and of the tokenizer were compared."""
    recorded: dict[str, str] = _read_record(checkpoint.path)["sha256"]
    if _OPTIMIZER in names and _OPTIMIZER not in recorded:
        raise CheckpointError(
            f"{checkpoint.path}: has no optimizer; it is for use, and training cannot go on from it"
        )
    for name in (*names, _TOKENIZER):
        file = checkpoint.path / name
        if not file.is_file() or sha256_file(file) != recorded.get(name):
            raise CheckpointError(f"{file}: is missing or damaged; go back to another checkpoint of this run")
    return recorded


def with_facts(checkpoint: Checkpoint, facts: dict[str, Any]) -> Checkpoint:
    """The same checkpoint in the same place, with other facts."""
    write_json(checkpoint.path / "checkpoint.json", _read_record(checkpoint.path) | {"facts": facts})
    return Checkpoint(path=checkpoint.path, step=checkpoint.step, facts=facts)


def without_optimizer(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """A copy for use rather than for going on: network and tokenizer, hard-linked where the file system allows it."""
    digests = {
        name: sha for name, sha in _read_record(checkpoint.path)["sha256"].items() if name != _OPTIMIZER
    }
    with staged_folder(folder.parent) as stage:
        for name in digests:
            link_or_copy(checkpoint.path / name, stage / name)
        record = {"format_version": CHECKPOINT_FORMAT, "step": checkpoint.step, "sha256": digests}
        write_json(stage / "checkpoint.json", record | {"facts": checkpoint.facts})
        publish_folder(stage, folder, is_done=_is_done)
    return Checkpoint(path=folder, step=checkpoint.step, facts=checkpoint.facts)


def list_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """The finished checkpoints of a run, by step."""
    return sorted(_readable(run_folder), key=lambda checkpoint: checkpoint.step)


def latest_checkpoint(run_folder: Path) -> Checkpoint:
    """The newest finished checkpoint of a run. Raises CheckpointError if there is none."""
    found = list_checkpoints(run_folder)
    if not found:
        raise CheckpointError(f"{run_folder}: no finished checkpoint here; start the training anew")
    return found[-1]


def remove_checkpoint(checkpoint: Checkpoint) -> None:
    """Removes a checkpoint; killed on the way, what is left is not a checkpoint any more."""
    (checkpoint.path / "checkpoint.json").unlink()
    shutil.rmtree(checkpoint.path)


def _readable(run_folder: Path) -> Iterator[Checkpoint]:
    for path in run_folder.glob("step-*"):
        with contextlib.suppress(CheckpointError):  # half removed, or being removed
            yield read_checkpoint(path)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        if record["format_version"] != CHECKPOINT_FORMAT:
            version = record["format_version"]
            raise CheckpointError(f"{path}: checkpoint format {version} is not {CHECKPOINT_FORMAT}")
        kinds = {"step": int, "sha256": dict, "facts": dict}
        if wrong := [key for key, kind in kinds.items() if not isinstance(record[key], kind)]:
            raise TypeError(f"{wrong[0]} is {record[wrong[0]]!r}")
        return record
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no finished checkpoint here (no checkpoint.json)") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}/checkpoint.json: not a checkpoint record ({error})") from None


def _is_done(path: Path) -> bool:
    return (path / "checkpoint.json").is_file()


def save_tensors(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, for those to read who may read any new file here. A full disk is an OSError with its number."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata)  # gives way to a file that its owner alone may read
    except SafetensorError as error:  # a full disk, told as "… (os error 28)"
        told = re.search(r"os error (\d+)", str(error))
        number = int(told[1]) if told else errno.EIO
        raise OSError(number, os.strerror(number)) from error
    path.chmod(mode)
