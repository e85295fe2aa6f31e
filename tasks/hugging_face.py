"""Models to Hugging Face's layout and back: what is GPT-2 in all but name becomes one, anything else takes its own code along."""

import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model.bpe import END_OF_TEXT, byte_level_json, is_gpt2_kind, json_of
from model.byte_fallback import byte_fallback_json, characters_of
from model.config import NetworkConfig, Recipe, TrainingConfig, recipe_from_dict, recipe_to_dict
from model.gpt2 import (
    gpt2_fields,
    gpt2_tensors,
    is_gpt2_shaped,
    network_config,
    network_tensors,
    without_unused_biases,
)
from model.network import network_from, parameter_count
from model.tokenizer import CharTokenizer, Tokenizer
from storage.checkpoints import (
    Checkpoint,
    Tensors,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from storage.errors import CheckpointError
from storage.hugging_face import OURS, ModelFolder, find_model_folder, write_model_folder
from storage.workspace import Workspace
from tasks import adapters
from tasks.model_card import model_card
from tasks.tokenizers import LibraryTokenizer, load_tokenizer

_OWN_MODEL_TYPE = "brickroad"
_CLASS = "BrickroadForCausalLM"
_MODELING, _CONFIGURATION = "modeling_brickroad", "configuration_brickroad"
_OWN_IMPORT = re.compile(r"^from (model|tasks\.exported)\.(\w+) import", re.MULTILINE)
#: Of a checkpoint's facts, what an export tells.
_TOLD = ("recipe", "run_id", "dataset", "dataset_digest", "tokenizer_fingerprint", "val_loss")
_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """A folder in Hugging Face's layout. With `needs_own_code` it loads with trust_remote_code=True alone."""

    path: Path
    files: list[Path]
    architecture: str
    needs_own_code: bool
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A checkpoint that was made of somebody's model; `name` is how commands refer to it."""

    name: str
    checkpoint: Path
    parameters: int
    vocabulary_size: int
    tokenizer_fingerprint: str
    sha256: dict[str, str]


def export_model(path: Path, out: Path, workspace: Workspace) -> ExportedModel:
    """Writes the model of a checkpoint folder in Hugging Face's layout to `out`, which may hold nothing but an earlier export.

    Raises CheckpointError or ValueError if it cannot be.
    """
    checkpoint = read_checkpoint(path)
    recipe = recipe_from_dict(checkpoint.facts["recipe"])
    if kind := checkpoint.facts.get("quantization"):
        raise ValueError(
            f"{path}: is quantized to {kind}, which is a form of ours; export the model it was made from"
        )
    tensors = adapters.network_tensors(checkpoint)
    parameters = parameter_count(network_from(recipe.network, tensors))  # all tensors are there, and fit
    tokenizer = load_tokenizer(checkpoint.tokenizer_json())
    is_gpt2 = is_gpt2_shaped(recipe.network, tensors)
    fields, code = (gpt2_fields(recipe.network), {}) if is_gpt2 else _own_form(recipe.network)
    card = model_card(
        checkpoint,
        recipe,
        workspace,
        parameters=parameters,
        needs_own_code=not is_gpt2,
        spells_in_bytes=isinstance(tokenizer, CharTokenizer),
    )
    documents = _configs(fields, checkpoint, tokenizer) | _tokenizer_documents(tokenizer, recipe.network)
    files = write_model_folder(
        out,
        tensors=gpt2_tensors(recipe.network, tensors) if is_gpt2 else tensors,
        documents=documents | code | {"README.md": card},
    )
    return ExportedModel(
        path=out.absolute(),
        files=files,
        architecture=fields["architectures"][0],
        needs_own_code=not is_gpt2,
        parameters=parameters,
    )


def _configs(fields: dict[str, Any], checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json, with what we know of the model, and generation_config.json."""
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.end_of_text)
    told = {name: checkpoint.facts.get(name) for name in _TOLD} | {"step": checkpoint.step}
    return {
        "config.json": fields | ends | {"dtype": "float32", OURS: told},
        "generation_config.json": ends | {"use_cache": fields["model_type"] != _OWN_MODEL_TYPE},
    }


def _own_form(network: NetworkConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """What config.json says, and the code that goes with it: our classes for the library, and the network's modules."""
    classes = {
        "AutoConfig": f"{_CONFIGURATION}.BrickroadConfig",
        "AutoModelForCausalLM": f"{_MODELING}.{_CLASS}",
    }
    fields = {
        "model_type": _OWN_MODEL_TYPE,
        "architectures": [_CLASS],
        "auto_map": classes,
        "network": asdict(network),
        "tie_word_embeddings": False,  # nothing that the library would have to tie: a tied head is no tensor here
    }
    return fields, own_code()


def own_code() -> dict[str, str]:
    """Our classes for Hugging Face's library, and all modules of `model/` that they need, as one flat folder by file name."""
    found, waiting = dict[str, str](), [("tasks.exported", _MODELING)]
    first = f"{_MODELING}.py"
    while waiting:
        package, module = waiting.pop()
        if f"{module}.py" not in found:
            text = (importlib.resources.files(package) / f"{module}.py").read_text(encoding="utf-8")
            waiting += _OWN_IMPORT.findall(text)
            found[f"{module}.py"] = _OWN_IMPORT.sub(r"from .\2 import", text)
    # Version 4 of the library takes along what the first file imports itself, and no more.
    others = sorted(name for name in found if f"from .{Path(name).stem} " not in found[first])
    named = [f"from .{Path(name).stem} import __name__ as _  # noqa\n" for name in others if name != first]
    found[first] += "\n# So that version 4 of the library takes these files along:\n" + "".join(named)
    return found


def _tokenizer_documents(tokenizer: Tokenizer, network: NetworkConfig) -> dict[str, Any]:
    """tokenizer.json as the library `tokenizers` reads it, and what to do with it: to each text what ours does."""
    text = byte_fallback_json(tokenizer) if isinstance(tokenizer, CharTokenizer) else tokenizer.to_json()
    fields = json.loads(text)
    if isinstance(tokenizer, LibraryTokenizer):  # which is told to add and cut off nothing
        fields |= dict.fromkeys(("post_processor", "truncation", "padding"))
        text = json_of(fields)
    vocabulary = fields["model"]["vocab"]
    if isinstance(vocabulary, list):  # of a unigram model: pairs of token and score, by id
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    tokens = vocabulary | {one["content"]: one["id"] for one in fields["added_tokens"]}
    end_of_text = next(token for token, number in tokens.items() if number == tokenizer.end_of_text)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": network.block_size,
        "split_special_tokens": True,  # a literal end-of-text in a text is text
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    } | dict.fromkeys(("bos_token", "eos_token", "pad_token"), end_of_text)
    return {"tokenizer.json": text, "tokenizer_config.json": settings}


def import_model(source: str, workspace: Workspace, *, name: str | None = None) -> ImportedModel:
    """Makes a checkpoint of a model in Hugging Face's layout: of GPT-2's family, or of our own exports; no code of it is run.

    Safe to run twice. Raises CheckpointError, NetworkError or ValueError if it cannot be read, or if another model has that name.
    """
    found = find_model_folder(source)
    chosen = name or Path(source.rstrip("/")).name
    if not _NAME.fullmatch(chosen) or chosen.startswith("."):
        raise ValueError(
            f"{chosen!r} cannot be a model's name; give one of letters, digits, . - _ with --name"
        )
    recipe, tensors = _read(found)
    tokenizer = load_tokenizer(_tokenizer_json(found))
    if tokenizer.vocabulary_size > recipe.network.vocabulary_size:
        raise ValueError(
            f"{found.path}: its tokenizer has {tokenizer.vocabulary_size:,} ids, and its network knows "
            f"{recipe.network.vocabulary_size:,}"
        )
    network = network_from(recipe.network, tensors)  # in float32, and all of them, whoever wrote them
    tensors = {f"network.{part}": tensor for part, tensor in network.state_dict().items()}
    checkpoint = _saved(chosen, source, found, recipe, tensors, tokenizer, workspace)
    return ImportedModel(
        name=chosen,
        checkpoint=checkpoint.path,
        parameters=parameter_count(network),
        vocabulary_size=recipe.network.vocabulary_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        sha256=found.sha256,
    )


def _saved(
    name: str,
    source: str,
    found: ModelFolder,
    recipe: Recipe,
    tensors: Tensors,
    tokenizer: Tokenizer,
    workspace: Workspace,
) -> Checkpoint:
    folder = workspace.checkpoints / name
    if folder.is_dir() and any(folder.glob("step-*")):
        earlier = latest_checkpoint(folder)
        if earlier.facts.get("imported", {}).get("sha256") != found.sha256:
            raise CheckpointError(f"{folder}: another model has that name; choose one with --name")
        return earlier
    facts = {
        "run_id": None,
        "recipe": recipe_to_dict(recipe),
        "dataset": None,
        "dataset_digest": None,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "val_loss": None,
        "imported": {"source": source, "sha256": found.sha256},
        "torch": version("torch"),
        "brickroad": version("brickroad"),
    }
    return save_checkpoint(folder, step=0, tensors=tensors, facts=facts, tokenizer_json=tokenizer.to_json())


def _read(found: ModelFolder) -> tuple[Recipe, Tensors]:
    """The network of a folder. ValueError names the folder and what cannot be read of it."""
    config = found.config
    try:
        earlier = _earlier_recipe(config.get(OURS))
        if config.get("model_type") == _OWN_MODEL_TYPE and earlier:
            return earlier, found.tensors()
        asked = network_config(config)
        tensors = network_tensors(asked, found.tensors())
        if not earlier:
            return Recipe(network=asked, training=TrainingConfig()), tensors
        network, tensors = without_unused_biases(asked, tensors, once=earlier.network)
        return Recipe(network=network, training=earlier.training), tensors
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from None


def _earlier_recipe(told: Any) -> Recipe | None:
    """The recipe that a model was exported with, if we exported it."""
    recipe = told.get("recipe") if isinstance(told, Mapping) else None
    return recipe_from_dict(recipe) if isinstance(recipe, Mapping) else None


def _tokenizer_json(found: ModelFolder) -> str:
    """The tokenizer of a folder as a data set would have it: the same vocabulary, the same fingerprint."""
    texts = found.tokenizer
    if not texts:
        raise ValueError(f"{found.path}: has no tokenizer.json, nor vocab.json and merges.txt")
    try:
        if "tokenizer.json" not in texts:
            vocabulary = json.loads(texts["vocab.json"])
            lines = [line for line in texts["merges.txt"].split("\n") if line and line[:9] != "#version:"]
            if not (own := _byte_level(vocabulary, lines)):
                raise ValueError(f"the ids of vocab.json have gaps, or {END_OF_TEXT} is not the last")
            return own
        text = texts["tokenizer.json"]
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{found.path}: its tokenizer cannot be read ({error})") from None
    if tokenizer := characters_of(fields):
        return tokenizer.to_json()
    if not is_gpt2_kind(fields):
        return text
    vocabulary, special = fields["model"]["vocab"], fields["added_tokens"][0]
    return _byte_level(vocabulary | {END_OF_TEXT: special["id"]}, fields["model"]["merges"]) or text


def _byte_level(vocabulary: dict[str, int], merges: list[str | list[str]]) -> str | None:
    """A tokenizer of GPT-2's kind in our spelling, so that the same one has the same fingerprint.

    None if it cannot be spelt so: end-of-text must be its last id, and no id before may be left out.
    """
    tokens = {token: number for token, number in vocabulary.items() if token != END_OF_TEXT}
    are_whole = all(type(number) is int for number in vocabulary.values())
    if not are_whole or {*tokens.values()} != {*range(len(tokens))}:
        return None
    if vocabulary.get(END_OF_TEXT, len(tokens)) != len(tokens):
        return None
    return byte_level_json(tokens, [one.split(" ") if isinstance(one, str) else one for one in merges])
