"""Our GPT with GPT-2's weights against Hugging Face's GPT-2: the same logits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from model.config import NetworkConfig, preset
from model.network import network_from

transformers = pytest.importorskip("transformers")

#: Their name of a part of a layer, and ours. Their matrices are stored the other way round, [in, out].
PARTS = {
    "ln_1": "attention_norm",
    "attn.c_proj": "attention.projection",
    "ln_2": "feed_forward_norm",
    "mlp.c_fc": "feed_forward.expand",
    "mlp.c_proj": "feed_forward.projection",
}


def translated(theirs: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """GPT-2's tensors by Hugging Face's names as ours, "network.…"."""
    theirs = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}
    ours = {
        "embedding.token.weight": theirs["wte.weight"],
        "embedding.position.weight": theirs["wpe.weight"],
        "norm.weight": theirs["ln_f.weight"],
        "norm.bias": theirs["ln_f.bias"],
    }
    for layer in range(layers):
        for kind in ("weight", "bias"):
            for their, our in PARTS.items():
                ours[f"blocks.{layer}.{our}.{kind}"] = theirs[f"h.{layer}.{their}.{kind}"].t()
            joined = theirs[f"h.{layer}.attn.c_attn.{kind}"].t().chunk(3)
            for our, tensor in zip(("query", "key", "value"), joined, strict=True):
                ours[f"blocks.{layer}.attention.{our}.{kind}"] = tensor
    return {f"network.{name}": tensor for name, tensor in ours.items()}


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
    shape = preset("gpt2", vocabulary_size=vocabulary_size).network
    ours = network_from(
        NetworkConfig(
            vocabulary_size=vocabulary_size,
            block_size=shape.block_size,
            layers=layers,
            heads=heads,
            width=width,
            activation=shape.activation,
            bias=True,
            query_key_value_bias=True,
        ),
        translated(load_file(tmp_path / "model.safetensors"), layers),
    )
    ids = torch.randint(0, vocabulary_size, (2, 64))
    expected, found = theirs(ids).logits, ours(ids)
    assert expected.std() > 0.1, "of logits that are all alike, nothing would follow"
    assert (found - expected).abs().max() < 1e-4
    their_loss = theirs(ids, labels=ids).loss
    our_loss = functional.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert (our_loss - their_loss).abs() < 1e-5
