"""Folders in Hugging Face's layout: in one file or several, and what is incomplete or dangerous is refused by name."""

import json
import os
from pathlib import Path

import pytest
import torch

from storage.checkpoints import save_tensors
from storage.errors import CheckpointError
from storage.hugging_face import OURS, find_model_folder, write_model_folder

TENSORS = {name: torch.full((10,), number, dtype=torch.float32) for number, name in enumerate("abcde")}
DOCUMENTS = {"config.json": {OURS: {}, "model_type": "gpt2"}, "tokenizer.json": "{}", "README.md": "é"}


@pytest.mark.parametrize(("shard_bytes", "files"), [(10_000, 1), (80, 3), (1, 5)])
def test_tensors_come_back_from_any_number_of_files(tmp_path: Path, shard_bytes: int, files: int) -> None:
    written = write_model_folder(
        tmp_path / "out", tensors=TENSORS, documents=DOCUMENTS, shard_bytes=shard_bytes
    )
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    found = find_model_folder(str(tmp_path / "out"))
    assert len(found.weights) == files
    tensors = found.tensors()
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert found.sha256.keys() == {"config.json", "tokenizer.json", *found.weights}
    assert found.tokenizer == {"tokenizer.json": "{}"}


def test_the_library_reads_the_index(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "out", tensors=TENSORS, documents=DOCUMENTS, shard_bytes=80)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["e"] == "model-00003-of-00003.safetensors"


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
@pytest.mark.timeout(20)
def test_a_pickle_is_refused_without_being_opened(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "theirs")
    os.mkfifo(path / name)  # whoever opens it waits for ever
    with pytest.raises(CheckpointError, match=rf"only {name}, a pickle, which was not opened"):
        find_model_folder(str(path))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="read from safetensors, and there is none"):
        find_model_folder(str(path))
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: is missing"):
        find_model_folder(str(path))
    (path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: is not a JSON object"):
        find_model_folder(str(path))
    (path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: is not JSON"):
        find_model_folder(str(path))
    with pytest.raises(CheckpointError, match="is no folder, and no name that"):
        find_model_folder(str(path / "config.json"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "is no safetensors file beside it"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "is no safetensors file beside it"),
        ('{"weight_map": {"a": 1}}', "names '1', which is no safetensors file"),
        ('{"weight_map": {"a": "b.safetensors"}}', r"b\.safetensors: is missing"),
    ],
)
def test_an_index_that_misleads_is_refused(tmp_path: Path, index: str, message: str) -> None:
    path = folder(tmp_path / "theirs", model__safetensors__index__json=index)
    with pytest.raises(CheckpointError, match=message):
        find_model_folder(str(path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    write_model_folder(tmp_path / "out", tensors=TENSORS, documents=DOCUMENTS, shard_bytes=80)
    found = find_model_folder(str(tmp_path / "out"))
    first, second = (tmp_path / "out" / name for name in found.weights[:2])
    save_tensors({"a": torch.zeros(1)}, second)
    with pytest.raises(CheckpointError, match="has a, which another file has too"):
        found.tensors()
    first.write_bytes(first.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is not safetensors"):
        found.tensors()


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_model_folder(tmp_path / "out", tensors=TENSORS, documents=DOCUMENTS | {"config.json": {1, 2}})
    assert [*tmp_path.iterdir()] == []
