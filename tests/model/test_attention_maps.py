"""The maps are the weights that attention used: they add up to 1, see no future, and give what the network gives."""

import pytest
import torch

from model.attention_maps import attention_maps
from model.config import NetworkConfig
from model.network import build_network

GPT = NetworkConfig(vocabulary_size=19, block_size=12, layers=2, heads=3, width=24, dropout=0.5)


@pytest.mark.parametrize("attention", ["sdpa", "explicit"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_rows_are_shares_of_the_past(attention: str, positions: str) -> None:
    config = NetworkConfig(
        vocabulary_size=19,
        block_size=12,
        layers=2,
        heads=3,
        width=24,
        attention=attention,
        positions=positions,
    )
    maps = attention_maps(build_network(config, seed=1), torch.arange(10))
    assert maps.shape == (2, 3, 10, 10)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 10))
    assert not maps.triu(diagonal=1).any()


def test_they_are_what_the_first_layer_gathers_by() -> None:
    network = build_network(GPT, seed=1).eval()
    ids = torch.arange(10)
    part = network.blocks[0].attention
    gathered: list[torch.Tensor] = []
    hook = part.projection.register_forward_pre_hook(lambda _, inputs: gathered.append(inputs[0]))
    values: list[torch.Tensor] = []
    part.value.register_forward_hook(lambda _, inputs, output: values.append(output))
    maps = attention_maps(network, ids)
    hook.remove()
    value = values[0][0].view(10, 3, 8).transpose(0, 1)  # [heads, T, d]
    torch.testing.assert_close((maps[0] @ value).transpose(0, 1).reshape(10, 24), gathered[0][0])


def test_the_network_is_as_it_was() -> None:
    network = build_network(GPT, seed=1).train()
    ids = torch.arange(10)
    ways = [block.attention.attend for block in network.blocks]
    attention_maps(network, ids)
    assert [block.attention.attend for block in network.blocks] == ways
    assert network.training


def test_a_network_without_attention_has_no_maps() -> None:
    table = build_network(NetworkConfig(kind="bigram", vocabulary_size=19), seed=1)
    assert attention_maps(table, torch.arange(10)).shape == (0, 0, 10, 10)
