"""Networks are causal, start the same everywhere, and load strictly."""

import math
from dataclasses import replace

import pytest
import torch

from model.config import NetworkConfig, preset
from model.network import Gpt, build_network, network_from, parameter_count

TINY = NetworkConfig(vocabulary_size=50, block_size=16, layers=2, heads=2, width=32)
COURSE = preset("course", vocabulary_size=50).network
BIGRAM = preset("bigram", vocabulary_size=50).network


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("config", [TINY, replace(TINY, attention="explicit"), COURSE, BIGRAM])
def test_no_position_sees_what_comes_after_it(config: NetworkConfig) -> None:
    network = build_network(config, seed=1).eval()
    ids = some_ids(2, config.block_size)
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % 50
    before, after = network(ids), network(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_a_gpt_uses_its_whole_context_and_a_bigram_only_the_last_token() -> None:
    ids = some_ids(1, 8)
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % 50
    for config, looks_back in ((TINY, True), (COURSE, True), (BIGRAM, False)):
        network = build_network(config, seed=1).eval()
        assert torch.allclose(network(ids)[:, -1], network(changed)[:, -1]) != looks_back


def test_the_two_attentions_make_the_same_network() -> None:
    ids = some_ids(2, 16)
    fused = build_network(TINY, seed=1)
    explicit = build_network(replace(TINY, attention="explicit"), seed=1)
    torch.testing.assert_close(fused(ids), explicit(ids), atol=1e-5, rtol=1e-5)


def test_first_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_network(TINY, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.token.weight"], other["embedding.token.weight"])


def test_first_weights_are_those_of_gpt2() -> None:
    network = build_network(replace(TINY, layers=8, width=256, bias=True), seed=1)
    weights = network.state_dict()
    assert weights["blocks.0.attention.query.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    for name in ("attention.projection", "feed_forward.projection"):
        deviation = weights[f"blocks.0.{name}.weight"].std().item()
        assert deviation == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
        assert not weights[f"blocks.0.{name}.bias"].any()
    assert (weights["norm.weight"] == 1).all()


MODERN = preset("modern", vocabulary_size=50, depth=1).network


@pytest.mark.parametrize("config", [TINY, COURSE, BIGRAM, MODERN])
def test_an_untrained_network_is_almost_uniform(config: NetworkConfig) -> None:
    logits = build_network(config, seed=1).eval()(some_ids(4, config.block_size))
    assert logits.shape == (4, config.block_size, 50)
    assert logits.logsumexp(-1).sub(math.log(50)).abs().max() < 0.2


def test_parameter_counts_are_those_of_the_papers() -> None:
    gpt2 = replace(preset("gpt2", vocabulary_size=50257).network, bias=True, query_key_value_bias=True)
    with torch.device("meta"):
        assert parameter_count(Gpt(gpt2)) == 124_439_808  # GPT-2 small
    tied, untied = build_network(TINY, seed=1), build_network(replace(TINY, tied_head=False), seed=1)
    assert parameter_count(untied) - parameter_count(tied) == 50 * 32
    assert parameter_count(build_network(BIGRAM, seed=1)) == 50 * 50


def test_capped_scores_stay_below_the_cap() -> None:
    network = build_network(replace(TINY, logit_soft_cap=2.0), seed=1).eval()
    plain = build_network(TINY, seed=1).eval()
    with torch.no_grad():
        for one in (network, plain):
            one.embedding.token.weight *= 100  # type: ignore[union-attr, operator]
        ids = some_ids(2, 9)
        torch.testing.assert_close(network(ids), 2 * (plain(ids) / 2).tanh())
    assert plain(ids).abs().max() > 2 >= network(ids).abs().max()


def test_the_modern_network_has_no_positions_to_learn_and_no_norms() -> None:
    modern = preset("modern", vocabulary_size=50, depth=2).network
    names = [name for name, _ in build_network(modern, seed=1).named_parameters()]
    assert names[:1] == ["embedding.token.weight"] and names[-1:] == ["head.weight"]
    assert all(name.startswith("blocks.") for name in names[1:-1])
    assert not [name for name in names if "norm" in name or "bias" in name or "position" in name]


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens do not fit the network's context of 16"):
        build_network(TINY, seed=1)(some_ids(1, 17))


def test_a_network_comes_back_from_its_tensors() -> None:
    network = build_network(TINY, seed=1).eval()
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    again = network_from(TINY, tensors | {"optimizer.x.step": torch.zeros(())})
    assert not again.training
    assert torch.equal(again(some_ids(1, 9)), network(some_ids(1, 9)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network.norm.weight": None}, "network.norm.weight is missing"),
        ({"network.extra": torch.zeros(1)}, "network.extra is not expected"),
        (
            {"network.norm.weight": torch.zeros(7)},
            r"network.norm.weight has the shape \[7\], expected \[32\]",
        ),
    ],
)
def test_tensors_of_another_network_are_refused_by_name(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors = {f"network.{name}": tensor for name, tensor in build_network(TINY, seed=1).state_dict().items()}
    changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        network_from(TINY, changed)
