"""Models in Hugging Face's layout: a folder of config.json, safetensors and tokenizer.json, written whole, read without pickle.

The one door to their hub. A large model is in several files, and `model.safetensors.index.json` tells which tensor is where.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.checkpoints import Tensors, read_tensors, save_tensors
from storage.errors import CheckpointError, NetworkError
from storage.files import atomic_file, publish_folder, sha256_file, staged_folder, write_json

#: In a config.json of ours: what the library does not ask for.
OURS = "brickroad"
SHARD_BYTES = 5_000_000_000
_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"
_WRITTEN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|model\.safetensors\.index)\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|README\.md|[a-z_]+\.py"
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
#: What is fetched from the hub: no pickle, no code.
_FETCHED = (_CONFIG, "*.safetensors", _INDEX, _TOKENIZER, "vocab.json", "merges.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model that was found: its folder, config.json, and the sha256 of each file that it is read from, by name.

    `tokenizer` has the texts of tokenizer.json, or else of vocab.json and merges.txt; nothing if there are none.
    """

    path: Path
    config: dict[str, Any]
    weights: tuple[str, ...]
    tokenizer: dict[str, str]
    sha256: dict[str, str]

    def tensors(self) -> Tensors:
        """All tensors, on the CPU. Raises CheckpointError if one stands in two files."""
        found: Tensors = {}
        for name in self.weights:
            piece = read_tensors(self.path / name)
            if twice := found.keys() & piece.keys():
                raise CheckpointError(f"{self.path / name}: has {min(twice)}, which another file has too")
            found |= piece
        return found


def write_model_folder(
    folder: Path, *, tensors: Tensors, documents: Mapping[str, Any], shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Writes a model, which appears only whole: `tensors`, and `documents` by file name, texts or what becomes JSON.

    Returns the files. An earlier model of ours at `folder` gives way; anything else there is a CheckpointError.
    """
    _refuse_foreign(folder)
    with staged_folder(folder.absolute().parent) as stage:
        for name, content in documents.items():
            if isinstance(content, str):
                with atomic_file(stage / name) as file:
                    file.write(content.encode())
            else:
                write_json(stage / name, content)
        _write_weights(stage, tensors, shard_bytes)
        names = sorted(path.name for path in stage.iterdir())
        assert all(map(_WRITTEN.fullmatch, names)), names
        publish_folder(stage, folder.absolute(), is_done=lambda path: False)
    return [folder / name for name in names]


def _refuse_foreign(folder: Path) -> None:
    """CheckpointError unless nothing stands there, or nothing but what an earlier export wrote."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise CheckpointError(f"{folder}: is there, and is no folder; choose another with --out")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not names:
        return
    foreign = sorted(name for name in names if not _WRITTEN.fullmatch(name))
    if foreign or OURS not in _read_json(folder / _CONFIG):
        what = foreign[0] if foreign else "a config.json that brickroad did not write"
        raise CheckpointError(f"{folder}: is there and holds {what}; choose another folder with --out")


def _write_weights(folder: Path, tensors: Tensors, shard_bytes: int) -> None:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    width = len(shards)
    files = [f"model-{number:05d}-of-{width:05d}.safetensors" for number in range(1, width + 1)]
    for file, names in zip(files if width > 1 else [_WEIGHTS], shards, strict=True):
        # The library refuses files that do not say which framework's tensors they hold.
        save_tensors({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    if width > 1:
        place = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": place})


def find_model_folder(source: str) -> ModelFolder:
    """The model of a folder, or of a name on the hub, which is fetched (`brickroad[remote]`).

    Raises CheckpointError if it is incomplete, or has its weights only as pickle; NetworkError if the hub does not give it.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        if path.exists() or not _HUB_NAME.fullmatch(source) or source.startswith("."):
            raise CheckpointError(f"{source}: is no folder, and no name that the Hugging Face hub could have")
        path = _fetch(source)
    config, weights = _read_json(path / _CONFIG), _weight_files(path)
    tokenizer = next(
        (
            names
            for names in ((_TOKENIZER,), ("vocab.json", "merges.txt"))
            if all((path / name).is_file() for name in names)
        ),
        (),
    )
    return ModelFolder(
        path=path,
        config=config,
        weights=weights,
        tokenizer={name: _read_text(path / name) for name in tokenizer},
        sha256={name: sha256_file(path / name) for name in (_CONFIG, *weights, *tokenizer)},
    )


def _weight_files(folder: Path) -> tuple[str, ...]:
    if (folder / _WEIGHTS).is_file():
        return (_WEIGHTS,)
    if not (folder / _INDEX).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        found = (
            f"only {pickles[0]}, a pickle, which was not opened: it can run any code" if pickles else "none"
        )
        raise CheckpointError(
            f"{folder}: weights are read from safetensors, and there is {found}; save it again with transformers 5"
        )
    places = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{folder / _INDEX}: has no weight_map, which says what is where")
    names = {str(name) for name in places.values()}
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / _INDEX}: names {name!r}, which is no safetensors file beside it"
            )
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: is missing; {_INDEX} has tensors in it")
    return tuple(sorted(names))


def _fetch(name: str) -> Path:
    """The folder in Hugging Face's own cache that has the model's files."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{name}: no such folder; to fetch a model from the Hugging Face hub: pip install 'brickroad[remote]'"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FETCHED)))  # nosec B615 # the person chose the model; only JSON, text and safetensors are fetched, and none is run
    # Whatever the hub, its client or the network raise, and it is many kinds: nothing was fetched.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NetworkError(
            name, f"no such folder here, and the Hugging Face hub does not give it ({reason})"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; it belongs to a model in Hugging Face's layout") from None
