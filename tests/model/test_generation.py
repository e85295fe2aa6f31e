"""Sampling does what its settings say, repeats by seed, and disturbs nobody; a cache and neighbours change nothing."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.cache import KeyValueCache
from model.config import NetworkConfig
from model.generation import Generation, generate
from model.network import LanguageModel, build_network
from model.sampling import Sampler, Sampling

CONFIG = NetworkConfig(vocabulary_size=30, block_size=8, layers=1, heads=2, width=32, dropout=0.5)
GREEDY = Sampling(temperature=0.0)


class Fixed(LanguageModel):
    """Always the same probabilities: 0.5, 0.3, 0.15, 0.05."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(kind="bigram", vocabulary_size=4, block_size=8))
        self.probabilities = torch.nn.Parameter(torch.tensor([0.3, 0.5, 0.05, 0.15]))

    def forward(self, ids: torch.Tensor, cache: KeyValueCache | None = None) -> torch.Tensor:
        return self.probabilities.log().expand(*ids.shape, 4)


def shares(**settings: Any) -> dict[int, float]:
    counts = Counter(generate(Fixed(), [0], tokens=2_000, sampling=Sampling(**settings)))
    return {token: count / 2_000 for token, count in counts.items()}


def test_temperature_1_samples_what_the_network_believes() -> None:
    assert shares(temperature=1.0) == pytest.approx({0: 0.3, 1: 0.5, 2: 0.05, 3: 0.15}, abs=0.04)


def test_temperature_sharpens_and_flattens() -> None:
    assert shares(temperature=0.5)[1] > 0.6
    assert shares(temperature=100.0)[2] > 0.2
    assert shares(temperature=0.0) == {1: 1.0}


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    assert set(shares(temperature=1.0, top_k=2)) == {0, 1}
    assert set(shares(temperature=1.0, top_k=99)) == {0, 1, 2, 3}
    assert set(shares(temperature=1.0, top_p=0.01)) == {1}
    assert set(shares(temperature=1.0, top_p=0.9)) == {0, 1, 3}
    assert set(shares(temperature=1.0, top_p=1.0)) == {0, 1, 2, 3}


def test_min_p_keeps_what_is_near_the_likeliest() -> None:
    assert set(shares(temperature=1.0, min_p=0.0)) == {0, 1, 2, 3}
    assert set(shares(temperature=1.0, min_p=0.2)) == {0, 1, 3}  # at least 0.2 x 0.5
    assert set(shares(temperature=1.0, min_p=1.0)) == {1}


def test_the_repetition_penalty_is_ctrls_and_spares_what_separates_texts() -> None:
    logits = torch.tensor([2.0, -1.0, 1.9, 0.0])
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=1.2), never_penalised=3)
    assert sampler.choose(logits) == 0
    assert sampler.choose(logits) == 2, "2.0 / 1.2 is below 1.9"
    assert sampler.choose(logits) == 0, "both are penalised now"
    below = Sampler(Sampling(temperature=0, repetition_penalty=2.0), never_penalised=3)
    below.see([0])
    assert below.choose(torch.tensor([-1.0, -1.5, -9.0, -9.0])) == 1, "a score below 0 gets lower, not higher"
    spared = Sampler(Sampling(temperature=0, repetition_penalty=9.0), never_penalised=3)
    assert [spared.choose(torch.tensor([0.1, 0.2, 0.3, 1.0])) for _ in range(3)] == [3, 3, 3]


def test_extreme_temperatures_are_no_trouble() -> None:
    large = torch.tensor([1e30, 3e30, -1e30])
    for temperature in (1e-320, 1e-30, 1e-4):
        assert Sampler(Sampling(temperature=temperature)).choose(large) == 1
    assert 0 <= Sampler(Sampling(temperature=1e300)).choose(large) <= 2


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_told(broken: float) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"highest score is .* take an earlier checkpoint"):
            Sampler(Sampling(temperature=temperature)).choose(torch.tensor([0.0, broken]))


NETWORKS = {
    "bigram": NetworkConfig(kind="bigram", vocabulary_size=30, block_size=8),
    "post-norm": replace(CONFIG, norm="post", query_key_value_bias=True, bias=True, tied_head=False),
    "pre-norm, explicit attention": replace(CONFIG, layers=2, attention="explicit"),
    "rotary": replace(CONFIG, layers=2, positions="rotary"),
    "modern": replace(
        CONFIG, layers=2, positions="rotary", query_key_norm=True, norm_kind="rms", logit_soft_cap=15.0
    ),
    "documents apart": replace(CONFIG, layers=2, documents="apart", end_of_text=3),
    "odd context": replace(CONFIG, layers=2, block_size=7),
    "context of one": replace(CONFIG, block_size=1),
}


class Listened(Generation):
    """Keeps the scores that each id was chosen by."""

    def _read(self) -> torch.Tensor:
        scores = super()._read()
        for row, logits in zip(self._rows, scores, strict=True):
            self.heard.setdefault(row.number, []).append(logits)
        return scores

    heard: dict[int, list[torch.Tensor]]


def written(
    network: LanguageModel, prompts: list[list[int]], seeds: list[int], *, tokens: int = 40, **others: Any
) -> tuple[dict[int, list[int]], dict[int, list[torch.Tensor]]]:
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in seeds]
    generation = Listened(network, prompts, tokens=[tokens] * len(prompts), samplings=samplings, **others)
    generation.heard = {}
    ids: dict[int, list[int]] = {row: [] for row in range(len(prompts))}
    for row, token in generation:
        ids[row].append(token)
    return ids, generation.heard


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_cache_changes_nothing_however_long_the_text_gets(kind: str) -> None:
    network = build_network(NETWORKS[kind], seed=1)
    for prompt in ([3], [1, 2, 3], list(range(8)), list(range(20))):
        cached, scores = written(network, [prompt], [5])
        plain, plain_scores = written(network, [prompt], [5], cached=False)
        assert cached == plain
        for own, expected in zip(scores[0], plain_scores[0], strict=True):
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_rows_write_what_they_would_alone(kind: str) -> None:
    network = build_network(NETWORKS[kind], seed=1)
    prompts, seeds = [[3], [1, 2, 3], [4, 4, 4], list(range(20)), [7] * 8], [1, 2, 3, 2, 1]
    together, scores = written(network, prompts, seeds, stop_id=29)
    assert len({len(ids) for ids in together.values()}) > 1, "they end at different times"
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        alone, scores_alone = written(network, [prompt], [seed], stop_id=29)
        assert together[row] == alone[0]
        for own, expected in zip(scores[row], scores_alone[0], strict=True):
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


def test_a_row_is_ended_by_its_own_limit_or_from_outside() -> None:
    network = build_network(CONFIG, seed=1)
    generation = Generation(network, [[1], [2], [3]], tokens=[2, 9, 0], samplings=[Sampling()] * 3)
    counts: Counter[int] = Counter()
    for row, _ in generation:
        counts[row] += 1
        if counts[1] == 5:
            generation.end(1)
    assert counts == {0: 2, 1: 5}


def test_a_cache_is_cast_as_its_network_and_refuses_what_does_not_fit() -> None:
    network = build_network(replace(CONFIG, positions="rotary"), seed=1).bfloat16().eval()
    cache = network.empty_cache(2)
    with torch.inference_mode():
        first = network(torch.tensor([[1, 2], [3, 4]]), cache)
        network(torch.tensor([[5], [6]]), cache)
        assert cache.layers[0].keys.dtype == first.dtype == torch.bfloat16
        assert first.shape == (2, 1, 30)
        with pytest.raises(ValueError, match="9 tokens do not fit the network's context of 8"):
            network(torch.zeros(2, 6, dtype=torch.int64), cache)
        with pytest.raises(ValueError, match="3 rows of ids do not fit a cache of 2 rows"):
            network(torch.zeros(3, 1, dtype=torch.int64), cache)


def test_a_seed_repeats_and_the_global_generator_is_left_alone() -> None:
    network = build_network(CONFIG, seed=1).train()
    state = torch.get_rng_state()
    first, again, other = (
        list(generate(network, [1, 2], tokens=20, sampling=Sampling(seed=seed))) for seed in (5, 5, 6)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training


def test_it_streams_and_goes_on_beyond_the_context() -> None:
    network = build_network(CONFIG, seed=1)
    stream = generate(network, list(range(20)), tokens=30, sampling=GREEDY)
    assert isinstance(next(stream), int)
    assert len(list(stream)) == 29
    cropped = list(generate(network, list(range(12, 20)), tokens=30, sampling=GREEDY))
    assert cropped == list(generate(network, list(range(20)), tokens=30, sampling=GREEDY))


def test_the_stop_id_ends_the_text_and_is_not_part_of_it() -> None:
    written = list(generate(Fixed(), [0], tokens=500, sampling=Sampling(temperature=1.0), stop_id=2))
    assert 2 not in written
    assert len(written) < 500
    assert list(generate(Fixed(), [0], tokens=0)) == []


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ([], 1, "the prompt is empty; start from the end-of-text id"),
        ([4], 1, "outside the network's vocabulary of 4"),
        ([-1], 1, "outside"),
        ([0.5], 1, "outside"),
        ([0], -1, "tokens is -1"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused_at_once(
    prompt: list[float], tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(Fixed(), prompt, tokens=tokens)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": math.nan}, "min_p is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_rows_that_begin_later_write_what_they_would_alone() -> None:
    network = build_network(replace(CONFIG, layers=2), seed=1)
    prompts, samplings = (
        [[3], [1, 2, 3], [7] * 12],
        [Sampling(temperature=1.0, seed=seed) for seed in (1, 2, 3)],
    )
    generation = Generation(network)
    assert list(generation) == []
    ids: dict[int, list[int]] = {}
    for prompt, sampling in zip(prompts, samplings, strict=True):
        row = generation.begin(prompt, tokens=30, sampling=sampling)
        ids[row] = []
        for number, token in generation.step():
            ids[number].append(token)
        generation.begin([5], tokens=9, sampling=sampling)  # a neighbour, given up in the middle of a step
        for number, token in generation.step():
            generation.end(row + 1)
            ids.setdefault(number, []).append(token)
    for number, token in generation:
        ids[number].append(token)
    assert sorted(ids) == [0, 2, 4], "a row that was ended writes no more"
    for row, prompt, sampling in zip((0, 2, 4), prompts, samplings, strict=True):
        assert ids[row] == list(generate(network, prompt, tokens=30, sampling=sampling))
    with pytest.raises(ValueError, match="the prompt is empty"):
        generation.begin([], tokens=1, sampling=GREEDY)
