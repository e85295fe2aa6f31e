"""Loads exported models as a stranger does: offline, by Hugging Face's library alone. Run by itself, with `python -I`.

loads_exports.py RESULTS.json FOLDER…: what each folder's model gives for the first ids of its vocabulary, and its card's own example.
"""

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def looked_at(folder: Path) -> dict[str, object]:
    """Class, logits, loss, greedy text and saved copy of one model."""
    needs_code = "auto_map" in json.loads((folder / "config.json").read_text())
    options = {"trust_remote_code": True} if needs_code else {}
    network = AutoModelForCausalLM.from_pretrained(folder, **options)
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        output = network(ids, labels=ids)
        written = network.generate(ids[:, :4], max_new_tokens=8, do_sample=False)
    os.chdir(folder)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(re.search(r"```python\n(.*?)```", Path("README.md").read_text(), re.S)[1], {})
    again = folder.parent / f"{folder.name}-again"
    network.save_pretrained(again)
    AutoTokenizer.from_pretrained(folder, **options).save_pretrained(again)
    return {
        "class": type(network).__name__,
        "logits": output.logits[0].tolist(),
        "loss": float(output.loss),
        "written": written[0].tolist(),
        "parameters": network.num_parameters(),
        "shown": shown.getvalue(),
        "in_training_too": bool(torch.isfinite(network.train()(ids, labels=ids).loss)),
    }


if __name__ == "__main__":
    results, *folders = map(Path, sys.argv[1:])
    found = {folder.name: looked_at(folder) for folder in folders}
    own = {name.partition(".")[0] for name in sys.modules} & {"model", "tasks", "storage", "flows"}
    results.write_text(json.dumps({"models": found, "own_modules": sorted(own)}))
