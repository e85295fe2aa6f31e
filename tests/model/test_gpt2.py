"""GPT-2's names and layout, and ours: what is translated comes back the same, and what does not fit is named."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import NetworkConfig, preset
from model.gpt2 import (
    gpt2_fields,
    gpt2_tensors,
    is_gpt2_shaped,
    network_config,
    network_tensors,
    without_unused_biases,
)
from model.network import build_network

TINY = NetworkConfig(vocabulary_size=20, block_size=8, layers=2, heads=2, width=8)
SHAPES = [
    TINY,
    replace(TINY, bias=True),
    replace(TINY, query_key_value_bias=True),
    replace(TINY, tied_head=False, activation="relu_squared"),
    replace(TINY, activation="sigmoid", dropout=0.1),
    replace(TINY, bias=True, tied_head=False),
]


def tensors_of(config: NetworkConfig) -> dict[str, Tensor]:
    """Weights that differ everywhere, but for a head's bias, which is 0 at first."""
    generator = torch.Generator().manual_seed(3)
    return {
        f"network.{name}": torch.randn(tensor.shape, generator=generator) * (name != "head.bias")
        for name, tensor in build_network(config, seed=1).state_dict().items()
    }


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_there_and_back_is_the_same_to_the_bit(config: NetworkConfig) -> None:
    tensors = tensors_of(config)
    assert is_gpt2_shaped(config, tensors)
    theirs = gpt2_tensors(config, tensors)
    asked = network_config(gpt2_fields(config))
    back, found = without_unused_biases(asked, network_tensors(asked, theirs), once=config)
    assert back == config
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_biases_that_were_learnt_since_are_kept() -> None:
    theirs = gpt2_tensors(TINY, tensors_of(TINY))
    theirs["transformer.h.1.attn.c_attn.bias"][3] = 1.0
    asked = network_config(gpt2_fields(TINY))
    back, found = without_unused_biases(asked, network_tensors(asked, theirs), once=TINY)
    assert (back.bias, back.query_key_value_bias) == (False, True)
    assert found["network.blocks.1.attention.query.bias"][3] == 1.0


def test_no_two_tensors_share_memory() -> None:
    theirs = gpt2_tensors(TINY, tensors_of(TINY))
    asked = network_config(gpt2_fields(TINY))
    for tensors in (theirs, network_tensors(asked, theirs)):
        assert all(tensor.is_contiguous() for tensor in tensors.values())
        places = [tensor.untyped_storage().data_ptr() for tensor in tensors.values()]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", ["bigram", "course", "modern"])
def test_what_gpt2_cannot_compute_is_told_apart(name: str) -> None:
    assert not is_gpt2_shaped(preset(name, vocabulary_size=20).network, {})


def test_a_head_with_a_bias_is_no_gpt2() -> None:
    config = replace(TINY, bias=True, tied_head=False)
    tensors = tensors_of(config)
    tensors["network.head.bias"][0] = 1.0
    assert not is_gpt2_shaped(config, tensors)


def test_names_of_older_files_are_read() -> None:
    tensors = tensors_of(TINY)
    theirs = gpt2_tensors(TINY, tensors)
    asked = network_config(gpt2_fields(TINY))
    older = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}
    older["h.0.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    older["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    older["lm_head.weight"] = older["wte.weight"].clone()
    found = network_tensors(asked, older)
    assert torch.equal(found["network.embedding.token.weight"], tensors["network.embedding.token.weight"])
    older["lm_head.weight"][0, 0] += 1
    with pytest.raises(ValueError, match=r"lm_head\.weight is not wte\.weight"):
        network_tensors(asked, older)


def test_weights_that_are_no_floats_are_refused() -> None:
    theirs = gpt2_tensors(TINY, tensors_of(TINY))
    theirs["transformer.wpe.weight"] = theirs["transformer.wpe.weight"].to(torch.int8)
    with pytest.raises(ValueError, match=r"tensor wpe\.weight is of torch\.int8; only floating-point"):
        network_tensors(network_config(gpt2_fields(TINY)), theirs)
