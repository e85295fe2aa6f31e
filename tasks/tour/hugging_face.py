"""Hugging Face: the tour's GPT in the layout that the library transformers reads, and read back from it."""

import json
from collections.abc import Iterator

import torch

from model.gpt2 import gpt2_tensors
from model.network import predicting
from tasks.hugging_face import export_model, import_model
from tasks.loading import LoadedModel, load_model
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Table, Words


def walk(ground: Ground) -> Iterator[Sight]:
    """Out, and in again."""
    yield Words(
        "Hugging Face's transformers is what most people load models with. A model there is a folder: a config, a tokenizer, and weights "
        "as safetensors, a format that is data alone and cannot run code when it is read. Our GPT is GPT-2 under other names:"
    )
    yield Code.of(gpt2_tensors)
    out = ground.folder / "hugging-face"
    exported = export_model(ground.gpt.path, out, ground.workspace)
    yield Table(header=("file", "bytes"), rows=[(file.name, file.stat().st_size) for file in exported.files])
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    shown = ("model_type", "n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "activation_function")
    yield Facts(title="config.json", values={name: config[name] for name in shown if name in config})
    yield Words("Anybody can load it, without this repository:")
    yield Printed(_LOADING.format(out=out))
    imported = import_model(str(out), ground.workspace, name=f"tour-{ground.gpt.path.parent.name[:8]}")
    yield Words(
        "And back: brickroad import-hf reads such folders, GPT-2's own too. The scores of the two on a text of the val split:"
    )
    ids = torch.from_numpy(ground.dataset.token_file("val").open()[:100].astype("int64"))[None]
    ours, theirs = (_scores(model, ids) for model in (ground.model, load_model(imported.checkpoint)))
    yield Facts(
        values={
            "parameters": imported.parameters,
            "largest difference of scores": float((ours - theirs).abs().max()),
        }
    )
    yield Words(
        "The road goes on: brickroad run lays all of it at once, brickroad up shows what it did, docs/ladder.md has larger models."
    )


_LOADING = """from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("{out}")
model = AutoModelForCausalLM.from_pretrained("{out}")
ids = tokenizer("The ", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100)[0]))"""


def _scores(model: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    with predicting(model.network):
        return model.network(ids)
