"""Models to Hugging Face's library and back: the same logits, the same text, the same ids; and what cannot be read is said."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from servers import files_below, hub_server
from tiny_data import build_plainly, tiny_documents

from model.bpe import END_OF_TEXT
from model.config import PRESETS, Recipe, preset, recipe_to_dict, with_settings
from model.generation import generate
from model.network import build_network
from model.sampling import Sampling
from model.tokenizer import CharTokenizer
from storage.checkpoints import load_tensors, read_checkpoint, save_checkpoint
from storage.errors import CheckpointError, NetworkError
from storage.workspace import Workspace
from tasks.evaluation import evaluate_checkpoint
from tasks.hugging_face import export_model, import_model
from tasks.loading import load_model
from tasks.registry import find_model
from tasks.tokenizers import gpt2_json, load_tokenizer, train_bpe

ROOT = Path(__file__).parent.parent.parent
TINY = {
    "network.block_size": "24",
    "network.width": "16",
    "network.layers": "2",
    "network.heads": "2",
}
#: Ours that GPT-2's class computes; of the others two more kinds than there are presets.
RECIPES: dict[str, dict[str, str]] = {name: {} for name in PRESETS} | {
    "gpt2-with-biases": {"network.bias": "true", "network.query_key_value_bias": "true"},
    "gpt2-squared": {"network.activation": "relu_squared", "network.tied_head": "false"},
}
GPT2_SHAPED = {"pocket", "baby", "gpt2", "gpt2-with-biases", "gpt2-squared"}


def tiny_recipe(name: str, vocabulary_size: int) -> Recipe:
    chosen = name.partition("-")[0]
    sizes = {"network.block_size": "24"} if chosen == "bigram" else TINY
    recipe = preset(chosen, vocabulary_size=vocabulary_size)
    return with_settings(recipe, sizes | RECIPES[name] | {"training.device": "cpu"})


def facts_of(recipe: Recipe, **others: Any) -> dict[str, Any]:
    return {
        "run_id": None,
        "recipe": recipe_to_dict(recipe),
        "dataset": None,
        "dataset_digest": None,
        "val_loss": None,
        "brickroad": "0.0",
    } | others


def saved(folder: Path, name: str, tokenizer_json: str | None = None, **facts: Any) -> Path:
    """A checkpoint of a network with weights of all kinds that differ: 0 and 1 would hide a swap."""
    text = tokenizer_json or CharTokenizer([*"abcdefgh \n<|>é東"]).to_json()
    recipe = tiny_recipe(name, load_tokenizer(text).vocabulary_size)
    network = build_network(recipe.network, seed=1)
    generator = torch.Generator().manual_seed(2)
    tensors = {
        f"network.{part}": tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for part, tensor in network.state_dict().items()
    }
    facts = facts_of(recipe, **facts)
    return save_checkpoint(folder / name, step=3, tensors=tensors, facts=facts, tokenizer_json=text).path


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """Checkpoints of every shape, what was exported of them, and what a stranger found there."""

    checkpoints: dict[str, Path]
    folders: dict[str, Path]
    found: dict[str, Any]
    own_modules: list[str]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("hugging-face")
    checkpoints = {name: saved(root / "checkpoints", name) for name in RECIPES}
    folders = {name: root / name for name in RECIPES}
    for name, path in checkpoints.items():
        export_model(path, folders[name], Workspace.at(root))
    results = root / "results.json"
    environment = {
        "PATH": os.environ["PATH"],
        "HF_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    command = [
        sys.executable,
        "-I",
        ROOT / "tests" / "support" / "loads_exports.py",
        results,
        *folders.values(),
    ]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(results.read_text())
    return Exports(
        checkpoints=checkpoints, folders=folders, found=told["models"], own_modules=told["own_modules"]
    )


def test_nothing_of_brickroad_is_needed(exports: Exports) -> None:
    assert exports.own_modules == []


@pytest.mark.parametrize("name", RECIPES)
@torch.inference_mode()
def test_a_stranger_gets_our_logits_loss_and_text(exports: Exports, name: str) -> None:
    loaded, found = load_model(exports.checkpoints[name]), exports.found[name]
    assert (found["class"] == "GPT2LMHeadModel") == (name in GPT2_SHAPED)
    logits = loaded.network.cpu()(torch.arange(8)[None])[0]
    assert logits.std() > 0.1, "of logits that are all alike, nothing would follow"
    assert (logits - torch.tensor(found["logits"])).abs().max() < 1e-4
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.arange(1, 8))
    assert found["loss"] == pytest.approx(float(loss), abs=1e-4)
    ours = [*range(4), *generate(loaded.network, range(4), tokens=8, sampling=Sampling(temperature=0))]
    end = loaded.tokenizer.end_of_text
    theirs = found["written"]
    assert theirs == (ours[: ours.index(end) + 1] if end in ours else ours)
    assert found["in_training_too"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_cards_example_writes(exports: Exports, name: str) -> None:
    assert exports.found[name]["shown"].startswith("The ")
    front = (exports.folders[name] / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("by", ["brickroad", "transformers"])
def test_what_comes_back_is_the_same_to_the_bit(
    exports: Exports, workspace: Workspace, name: str, by: str
) -> None:
    folder = exports.folders[name] if by == "brickroad" else Path(f"{exports.folders[name]}-again")
    imported = import_model(str(folder), workspace, name="back")
    before, after = read_checkpoint(exports.checkpoints[name]), read_checkpoint(imported.checkpoint)
    expected, found = load_tensors(before, network_only=True), load_tensors(after, network_only=True)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[part], found[part]) for part in expected)
    assert after.facts["recipe"] == before.facts["recipe"]
    assert after.tokenizer_json() == before.tokenizer_json()


def test_own_code_is_the_repositorys_but_for_imports(exports: Exports) -> None:
    folder = exports.folders["modern"]
    names = {path.name for path in folder.glob("*.py")}
    assert {"modeling_brickroad.py", "configuration_brickroad.py", "network.py", "attention.py"} <= names
    for name in names - {"modeling_brickroad.py", "configuration_brickroad.py"}:
        ours = (ROOT / "model" / name).read_text().replace("\nfrom model.", "\nfrom .")
        assert (folder / name).read_text() == ours
    assert not [*exports.folders["gpt2"].glob("*.py")]


def test_the_card_tells_data_licence_losses_and_recipe(tmp_path: Path, workspace: Workspace) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_documents()))
    dataset = build_plainly(corpus, workspace)
    trained_on = {"dataset": dataset.reference, "dataset_digest": dataset.manifest.digest, "val_loss": 2.5}
    path = saved(tmp_path / "checkpoints", "pocket", dataset.tokenizer_json(), **trained_on)
    export_model(path, tmp_path / "out", workspace)
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["dataset_digest"] == dataset.manifest.digest
    metrics = {one["type"]: one["value"] for one in matter["model-index"][0]["results"][0]["metrics"]}
    assert metrics["loss"] == 2.5
    val = dataset.manifest.val
    assert metrics["bits_per_byte"] == pytest.approx(2.5 * val.tokens / val.text_bytes / 0.693147, rel=1e-4)
    assert dataset.manifest.sources[0].sha256 in body
    assert "Licence of the texts: not known" in body
    assert '"learning_rate": 0.004' in body
    assert str(tmp_path) not in text


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path, workspace: Workspace) -> None:
    course, bigram = (saved(tmp_path / "checkpoints", name) for name in ("course", "bigram"))
    out = tmp_path / "out"
    export_model(course, out, workspace)
    exported = export_model(bigram, out, workspace)
    assert {path.name for path in out.iterdir()} == {path.name for path in exported.files}
    (out / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"out: is there and holds notes\.txt; choose another"):
        export_model(course, out, workspace)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a config\.json that brickroad did not write"):
        export_model(course, tmp_path / "theirs", workspace)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is no folder"):
        export_model(course, tmp_path / "file", workspace)
    assert not [*tmp_path.glob(".*.partial")]


def random_gpt2(folder: Path, tokenizer_json: str, *, dtype: str = "float32", **options: Any) -> Any:
    """A model that transformers made and saved, with its tokenizer beside it as the library spells it."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": size}
    save = {"max_shard_size": options.pop("max_shard_size", "1GB")}
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape | options, bos_token_id=0, eos_token_id=0)
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    theirs = theirs.to(getattr(torch, dtype)).eval()
    theirs.save_pretrained(folder, **save)
    tokenizer.save(str(folder / "tokenizer.json"))
    return theirs


@pytest.fixture(scope="module")
def own_bpe() -> str:
    return train_bpe(tiny_documents(), 300)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_shard_size": "20KB"},
        {"tie_word_embeddings": False},
        {"activation_function": "relu"},
        {"dtype": "bfloat16"},
    ],
    ids=str,
)
@torch.inference_mode()
def test_their_gpt2_gives_the_same_logits_here(
    tmp_path: Path, workspace: Workspace, own_bpe: str, options: dict[str, Any]
) -> None:
    theirs = random_gpt2(tmp_path / "theirs", own_bpe, **options)
    assert len([*(tmp_path / "theirs").glob("*.safetensors")]) > 1 or "max_shard_size" not in options
    imported = import_model(str(tmp_path / "theirs"), workspace)
    assert imported.name == "theirs"
    loaded = load_model(find_model("theirs", workspace).path)
    ids = torch.randint(0, imported.vocabulary_size, (2, 32))
    expected = theirs.float()(ids).logits
    assert expected.std() > 0.1
    assert (loaded.network.cpu()(ids) - expected).abs().max() < 1e-4
    assert loaded.tokenizer.fingerprint == load_tokenizer(own_bpe).fingerprint
    assert "".join(loaded.write("the road", tokens=5))


def test_an_imported_model_is_evaluated_where_its_tokenizer_was_used(
    tmp_path: Path, workspace: Workspace, tiny_corpus: Path, own_bpe: str
) -> None:
    random_gpt2(tmp_path / "theirs", own_bpe)
    path = import_model(str(tmp_path / "theirs"), workspace).checkpoint
    (tmp_path / "tokenizer.json").write_text(own_bpe)
    dataset = build_plainly(tiny_corpus, workspace, tokenizer=str(tmp_path / "tokenizer.json"))
    assert evaluate_checkpoint(path, dataset.reference, workspace).tokens == dataset.manifest.val.tokens
    with pytest.raises(ValueError, match="was not trained here; say with --dataset"):
        evaluate_checkpoint(path, None, workspace)


def test_an_import_is_safe_to_run_twice_and_takes_nobodys_name(
    tmp_path: Path, workspace: Workspace, own_bpe: str
) -> None:
    for number, activation in enumerate(("relu", "tanh")):
        random_gpt2(tmp_path / str(number), own_bpe, activation_function=activation)
    first = import_model(str(tmp_path / "0"), workspace, name="one")
    assert import_model(str(tmp_path / "0"), workspace, name="one") == first
    with pytest.raises(CheckpointError, match="another model has that name; choose one with --name"):
        import_model(str(tmp_path / "1"), workspace, name="one")
    with pytest.raises(ValueError, match=r"'\.\./two' cannot be a model's name"):
        import_model(str(tmp_path / "1"), workspace, name="../two")
    assert read_checkpoint(first.checkpoint).facts["imported"]["sha256"] == first.sha256


@pytest.mark.parametrize("spelling", ["library", "old", "two files"])
def test_gpt2s_tokenizer_has_one_fingerprint_however_it_is_spelt(
    tmp_path: Path, workspace: Workspace, spelling: str
) -> None:
    random_gpt2(tmp_path, gpt2_json())
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    merges = [" ".join(pair) for pair in fields["model"]["merges"]]
    fields["model"]["merges"] = merges
    if spelling == "old":  # as openai-community/gpt2 has it
        (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    elif spelling == "two files":
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.json").write_text(json.dumps(fields["model"]["vocab"] | {END_OF_TEXT: 50256}))
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    imported = import_model(str(tmp_path), workspace, name="gpt2")
    assert imported.tokenizer_fingerprint == load_tokenizer(gpt2_json()).fingerprint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; only gpt2 is read"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True; only False"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True; only False"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'; only relu, gelu_new"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"n_inner": 40}, "n_inner is 40"),
        ({"n_layer": "2"}, "n_layer is '2'; it must be a whole number"),
        ({"n_layer": 10**9}, "n_layer is 1000000000, and there are 28 tensors in all"),
        ({"n_layer": 3}, r"tensor h\.2\.attn\.c_attn\.bias is missing"),
        ({"n_layer": 1}, r"tensor h\.1\.attn\.c_attn\.bias is not expected"),
        ({"n_positions": 31}, r"tensor wpe\.weight has the shape \[32, 16\], expected \[31, 16\]"),
        ({"attn_pdrop": 0.3}, "resid_pdrop, embd_pdrop, attn_pdrop are not one number"),
        ({"quantization_config": {}}, "quantization_config is {}; only None"),
        ({"vocab_size": 200}, r"tensor wte\.weight has the shape"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honoured_is_refused(
    tmp_path: Path, workspace: Workspace, own_bpe: str, changed: dict[str, Any], message: str
) -> None:
    random_gpt2(tmp_path, own_bpe)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=message) as error:
        import_model(str(tmp_path), workspace)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not workspace.checkpoints.exists()


def test_a_tokenizer_of_more_ids_than_the_network_is_refused(
    tmp_path: Path, workspace: Workspace, own_bpe: str
) -> None:
    random_gpt2(tmp_path, own_bpe)
    (tmp_path / "tokenizer.json").write_text(gpt2_json())
    with pytest.raises(ValueError, match="its tokenizer has 50,257 ids, and its network knows 300"):
        import_model(str(tmp_path), workspace)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json, nor vocab\.json"):
        import_model(str(tmp_path), workspace)


def test_a_name_on_the_hub_is_fetched_without_pickle_and_code(
    tmp_path: Path, workspace: Workspace, own_bpe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    theirs = tmp_path / "theirs"
    random_gpt2(theirs, own_bpe, max_shard_size="20KB")
    (theirs / "pytorch_model.bin").write_bytes(b"a pickle")
    (theirs / "modeling.py").write_text("raise SystemExit")
    with hub_server(files_below(theirs), monkeypatch, of_model=True) as server:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        fetched = import_model("owner/name", workspace)
        asked = " ".join(path for _, path, _ in server.asked)
        assert "model.safetensors.index.json" in asked
        assert "pytorch_model.bin" not in asked and "modeling.py" not in asked
        with pytest.raises(NetworkError, match="owner/other: no such folder here, and the Hugging Face hub"):
            import_model("owner/other", workspace)
    assert fetched.name == "name"
    assert fetched.sha256 == import_model(str(theirs), workspace, name="folder").sha256


def test_a_name_that_the_hub_does_not_give_is_one_line(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NetworkError, match="somebody/something: no such folder here, and") as error:
        import_model("somebody/something", workspace)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="is no folder, and no name that the Hugging Face hub"):
        import_model("./somebody/something", workspace)
