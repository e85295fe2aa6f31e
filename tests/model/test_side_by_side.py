"""Networks measured by turns: the losses are those of an evaluation, window by window."""

import numpy as np
import pytest

from model.config import NetworkConfig
from model.evaluation import evaluate, final_report
from model.network import build_network
from model.quantization import quantize_network
from model.side_by_side import Contender, Measured, measure_losses, measure_writing

CONFIG = NetworkConfig(vocabulary_size=37, block_size=8, layers=1, heads=2, width=32)


def measured(contenders: dict[str, Contender], tokens: np.ndarray) -> dict[str, Measured]:
    *_, last = measure_losses(contenders, tokens, end_of_text=0)
    assert last.measured is not None
    assert last.tokens_done == last.tokens_total == len(tokens)
    return dict(last.measured)


@pytest.mark.parametrize("count", [1, 8, 9, 24, 30])
def test_losses_are_those_of_an_evaluation(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.side_by_side.LOGITS_PER_BATCH", 2 * 8 * 37)  # two windows a batch
    tokens = np.random.default_rng(0).integers(0, 37, count).astype(np.uint16)
    network = build_network(CONFIG, seed=0)
    contenders = {
        "float32": Contender(network=network),
        "bfloat16": Contender(network=network, precision="bfloat16"),
        "int8": Contender(network=quantize_network(network, "int8")),
    }
    found = measured(contenders, tokens)
    for name, contender in contenders.items():
        exact = final_report(
            evaluate(
                contender.network, tokens, end_of_text=0, text_bytes=2 * count, precision=contender.precision
            )
        )
        assert found[name].loss == pytest.approx(exact.loss, rel=1e-5)
        assert found[name].bits_per_byte(2 * count) == pytest.approx(exact.bits_per_byte, rel=1e-5)
        assert found[name].tokens_per_second > 0
        assert found[name].window_tokens.tolist() == [8] * (count // 8) + ([count % 8] if count % 8 else [])
        assert found[name].window_nats.shape == found[name].window_tokens.shape
    assert found["bfloat16"].loss != found["float32"].loss != found["int8"].loss


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        next(
            measure_losses(
                {"one": Contender(network=build_network(CONFIG, seed=0))},
                np.array([], np.uint16),
                end_of_text=0,
            )
        )


def test_writing_is_measured_for_each() -> None:
    network = build_network(CONFIG, seed=0)
    rates = measure_writing(
        {"a": Contender(network=network), "b": Contender(network=network)}, [1, 2], tokens=3
    )
    assert set(rates) == {"a", "b"}
    assert min(rates.values()) > 0
