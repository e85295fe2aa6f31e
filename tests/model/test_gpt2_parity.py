"""Our GPT with GPT-2's weights against Hugging Face's GPT-2: the same logits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from model.config import preset
from model.gpt2 import network_config, network_tensors
from model.network import network_from

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("layers", "heads", "width", "vocabulary_size"), [(2, 4, 64, 100), (12, 12, 768, 50257)]
)
@torch.inference_mode()
def test_the_same_weights_give_the_same_logits(
    layers: int, heads: int, width: int, vocabulary_size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=layers, n_head=heads, n_embd=width, vocab_size=vocabulary_size, bos_token_id=0, eos_token_id=0
    )
    first = transformers.GPT2LMHeadModel(config)
    for parameter in first.parameters():  # norms and biases too: 1 and 0 would hide a swap
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    first.save_pretrained(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    shape = network_config(config.to_dict())
    assert shape.block_size == preset("gpt2", vocabulary_size=vocabulary_size).network.block_size
    ours = network_from(shape, network_tensors(shape, load_file(tmp_path / "model.safetensors")))
    ids = torch.randint(0, vocabulary_size, (2, 64))
    expected, found = theirs(ids).logits, ours(ids)
    assert expected.std() > 0.1, "of logits that are all alike, nothing would follow"
    assert (found - expected).abs().max() < 1e-4
    their_loss = theirs(ids, labels=ids).loss
    our_loss = functional.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert (our_loss - their_loss).abs() < 1e-5
