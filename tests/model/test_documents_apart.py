"""Documents of one window that do not see one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import NetworkConfig, preset, recipe_from_dict, recipe_to_dict, with_settings
from model.network import LanguageModel, build_network
from model.training import Training

END = 9
CONFIG = NetworkConfig(
    vocabulary_size=10, block_size=12, layers=2, heads=2, width=16, documents="apart", end_of_text=END
)
KINDS = {
    "sdpa": CONFIG,
    "explicit": replace(CONFIG, attention="explicit"),
    "rotary": replace(CONFIG, positions="rotary"),
    "post-norm": replace(CONFIG, norm="post"),
}


def sharp(config: NetworkConfig) -> LanguageModel:
    network = build_network(config, seed=1).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8)
    return network


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_before_a_document_does_not_matter_to_it(kind: str) -> None:
    network = sharp(KINDS[kind])
    one = torch.tensor([[1, 2, 3, 4, END, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]])
    other = one.clone()
    other[:, :4] = torch.tensor([8, END, 2, 0])
    changed = (network(one) - network(other)).abs().amax(dim=2)
    assert changed[0, 4:].max() < 1e-5, "behind the end of text all is as before"
    assert changed[0, :4].max() > 1e-2
    assert changed[1, 4:].max() > 1e-2, (
        "a row without an end of text is one document, and the other has one now"
    )


@torch.inference_mode()
def test_a_document_is_read_as_if_it_stood_alone_where_only_distances_count() -> None:
    network = sharp(KINDS["rotary"])
    together = network(torch.tensor([[1, 2, END, 4, 5, END, 6]]))
    torch.testing.assert_close(together[:, 2:5], network(torch.tensor([[END, 4, 5]])), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[:, 5:], network(torch.tensor([[END, 6]])), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_both_kernels_agree_and_a_window_of_one_document_is_as_joined() -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 10, (5, 12)))
    torch.testing.assert_close(sharp(KINDS["sdpa"])(ids), sharp(KINDS["explicit"])(ids), atol=1e-4, rtol=1e-4)
    alone = ids % END  # no end of text
    joined = sharp(replace(CONFIG, documents="joined"))
    torch.testing.assert_close(sharp(CONFIG)(alone), joined(alone), atol=1e-4, rtol=1e-4)
    assert (sharp(CONFIG)(ids) - joined(ids)).abs().max() > 1e-2


def test_it_trains_and_gradients_stay_within_a_document() -> None:
    recipe = with_settings(
        preset("pocket", vocabulary_size=10),
        {"network.width": "16", "network.heads": "2", "network.block_size": "12", "training.steps": "3"}
        | {"network.documents": "apart", "network.end_of_text": str(END), "training.batch_size": "4"},
    )
    tokens = np.random.default_rng(0).integers(0, 10, 500).astype(np.uint16)
    losses = [report.train_loss for report in Training(recipe, tokens, dataset_digest="d").steps()]
    assert np.isfinite(losses).all()
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    network = sharp(CONFIG)
    hidden = torch.zeros(1, 6, 16, requires_grad=True)
    handle = network.embedding.register_forward_hook(lambda _, __, output: output + hidden)  # type: ignore[union-attr, arg-type]
    network(torch.tensor([[1, 2, END, 3, 4, 5]]))[0, 5].sum().backward()
    handle.remove()
    assert hidden.grad is not None
    assert hidden.grad[0, :2].abs().max() == 0
    assert hidden.grad[0, 2:].abs().amax(dim=1).min() > 0


def test_it_must_be_known_what_parts_them() -> None:
    with pytest.raises(ValueError, match=r"network\.end_of_text, which parts them, is not set"):
        build_network(replace(CONFIG, end_of_text=-1), seed=0)
    with pytest.raises(ValueError, match=r"network\.end_of_text 10 is no id"):
        replace(CONFIG, end_of_text=10)


def test_recipes_from_before_there_was_a_choice_have_documents_joined() -> None:
    values = recipe_to_dict(preset("pocket", vocabulary_size=10))
    del values["network"]["documents"], values["network"]["end_of_text"]
    assert recipe_from_dict(values).network.documents == "joined"
