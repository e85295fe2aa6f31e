"""brickroad export-hf and import-hf, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.command_line import app
from model.config import preset, recipe_to_dict, with_settings
from model.network import build_network
from model.tokenizer import CharTokenizer
from storage.checkpoints import save_checkpoint
from storage.workspace import Workspace

RUNNER = CliRunner()


@pytest.fixture
def model(workspace: Workspace) -> str:
    """The name of a model in the workspace that was never trained."""
    tokenizer = CharTokenizer([*"The road"[:7]])
    sizes = {"network.width": "8", "network.layers": "1", "network.heads": "1", "network.block_size": "16"}
    recipe = with_settings(preset("pocket", vocabulary_size=tokenizer.vocabulary_size), sizes)
    network = build_network(recipe.network, seed=0)
    save_checkpoint(
        workspace.checkpoints / "tiny",
        step=1,
        tensors={f"network.{name}": tensor for name, tensor in network.state_dict().items()},
        facts={"recipe": recipe_to_dict(recipe), "dataset": None, "dataset_digest": None, "val_loss": None} | {"brickroad": "0"},
        tokenizer_json=tokenizer.to_json(),
    )  # fmt: skip
    return "tiny"


def test_out_and_in_again(model: str, workspace: Workspace, tmp_path: Path) -> None:
    place = ["--workspace", str(workspace.root), "--json"]
    exported = RUNNER.invoke(app, ["export-hf", model, "--out", str(tmp_path / "out"), *place])
    assert exported.exit_code == 0, exported.output
    facts = json.loads(exported.stdout)
    assert facts["architecture"] == "GPT2LMHeadModel"
    assert {Path(file).name for file in facts["files"]} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    imported = RUNNER.invoke(app, ["import-hf", str(tmp_path / "out"), "--name", "again", *place])
    assert imported.exit_code == 0, imported.output
    assert json.loads(imported.stdout)["name"] == "again"
    texts = [
        json.loads(RUNNER.invoke(app, ["generate", name, "--prompt", "The", "--tokens", "9", *place]).stdout)[
            "text"
        ]
        for name in (model, "again")
    ]
    assert texts[0] == texts[1]


def test_a_pickle_is_one_line_and_exit_1(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    done = RUNNER.invoke(app, ["import-hf", str(tmp_path), "--workspace", str(workspace.root)])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "only pytorch_model.bin, a pickle, which was not opened" in done.stderr
