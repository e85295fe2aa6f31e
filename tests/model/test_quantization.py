"""Matrices in 8 and 4 bits: bounds of what rounding may change, sizes of whole networks, and both ways to multiply."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model import quantization
from model.config import NetworkConfig, preset
from model.generation import generate
from model.network import LanguageModel, build_network, empty_network, parameter_count
from model.quantization import (
    GROUP,
    Int4Matrix,
    Int8Matrix,
    QuantizationKind,
    bytes_of,
    empty_quantized_network,
    quantize_network,
    quantized_network_from,
)

KINDS: list[QuantizationKind] = ["int8", "int4"]
FORMS = [Int8Matrix, Int4Matrix]
SMALL = NetworkConfig(vocabulary_size=37, block_size=16, layers=2, heads=2, width=64)


def matrix_of(form: type[Int8Matrix] | type[Int4Matrix], weight: torch.Tensor) -> Int8Matrix | Int4Matrix:
    matrix = form(*weight.shape)
    with torch.no_grad():
        for own, numbers in zip((matrix.weight, matrix.scale), form.quantize(weight), strict=True):
            assert own.dtype == numbers.dtype
            own.copy_(numbers)
    return matrix


def rows_of(matrix: Int8Matrix | Int4Matrix) -> torch.Tensor:
    return matrix.look_up(torch.arange(len(matrix.weight)))


def steps_of(matrix: Int8Matrix | Int4Matrix, columns: int) -> torch.Tensor:
    """The size of a step for each number, [rows, columns]."""
    scale = matrix.scale.float().abs()
    if isinstance(matrix, Int8Matrix):
        return scale[:, None].expand(-1, columns)
    return scale.repeat_interleave(GROUP, dim=1)[:, :columns]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 100),
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-30, 0.02, 1.0, 1e30]),
)
@pytest.mark.parametrize("form", FORMS)
def test_no_number_is_further_than_half_a_step(
    form: type[Int8Matrix] | type[Int4Matrix], rows: int, columns: int, seed: int, size: float
) -> None:
    weight = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    weight[0] = 0
    matrix = matrix_of(form, weight)
    error, step = (rows_of(matrix) - weight).abs(), steps_of(matrix, columns)
    assert rows_of(matrix).shape == weight.shape
    assert (error[0] == 0).all(), "a row of zeros stays one"
    assert (error <= 1.001 * step).all()
    is_clipped = torch.zeros_like(weight, dtype=torch.bool)
    if isinstance(matrix, Int4Matrix):  # seven steps one way, eight the other
        sign = matrix.scale.float().repeat_interleave(GROUP, dim=1)[:, :columns].sign()
        is_clipped = weight * sign > 7.5 * step
    assert (error <= 0.501 * step)[~is_clipped].all()


def test_int4_uses_its_sixteen_steps_and_two_numbers_take_a_byte() -> None:
    weight = torch.linspace(-8, 7, 16).repeat(2)[None] * 0.25
    codes, scale = Int4Matrix.quantize(weight)
    assert codes.shape == (1, GROUP // 2) and codes.dtype == torch.uint8
    assert scale.item() == 0.25
    matrix = matrix_of(Int4Matrix, weight)
    torch.testing.assert_close(rows_of(matrix), weight, rtol=0, atol=0)


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 40])
@pytest.mark.parametrize("shape", [(7, 33), (300, 128), (48, 64), (5, 1), (16, 48)])
@pytest.mark.parametrize("form", FORMS)
def test_kernels_and_the_plain_way_agree(
    form: type[Int8Matrix] | type[Int4Matrix],
    shape: tuple[int, int],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(rows)
    matrix = matrix_of(form, 0.02 * torch.randn(shape, generator=generator))
    hidden = torch.randn(2, rows, shape[1], generator=generator)[0]  # rows may lie apart in memory
    product = matrix.multiply(hidden)
    exact = hidden.double() @ rows_of(matrix).double().T
    assert product.dtype == torch.float32
    largest = exact.abs().max().item()
    torch.testing.assert_close(product.double(), exact, rtol=0, atol=0.02 * largest)  # bfloat16 inside
    monkeypatch.setattr(quantization, "_cpu_has_kernels", lambda: False)
    torch.testing.assert_close(matrix.multiply(hidden).double(), exact, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("form", FORMS)
def test_under_autocast_it_multiplies_in_bfloat16_and_gradients_pass_to_what_came_before(
    form: type[Int8Matrix] | type[Int4Matrix],
) -> None:
    matrix = matrix_of(form, torch.randn(6, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert matrix.multiply(torch.randn(3, 64)).dtype == torch.bfloat16
        assert matrix.multiply(torch.randn(30, 64)).dtype == torch.bfloat16
    hidden = torch.randn(3, 64, requires_grad=True)
    torch.autograd.backward(matrix.multiply(hidden).sum())
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, rows_of(matrix).sum(dim=0).expand(3, -1))


@pytest.mark.parametrize(
    ("name", "vocabulary_size", "int8", "int4"),
    [("pocket", 300, 0.28, 0.17), ("baby", 300, 0.27, 0.16), ("gpt2", 50_257, 0.27, 0.16), ("modern", 50_257, 0.26, 0.15)],
)  # fmt: skip
def test_bytes_of_real_shapes(name: str, vocabulary_size: int, int8: float, int4: float) -> None:
    config = preset(name, vocabulary_size=vocabulary_size).network
    whole = 4 * parameter_count(empty_network(config))
    assert bytes_of(empty_network(config)) == whole
    assert bytes_of(empty_quantized_network(config, "int8")) <= int8 * whole
    assert bytes_of(empty_quantized_network(config, "int4")) <= int4 * whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, tied_head=False, bias=True, query_key_value_bias=True, norm="post"),
        replace(SMALL, positions="rotary", norm_kind="rms", query_key_norm=True, logit_soft_cap=15.0),
        replace(SMALL, width=22),
        NetworkConfig(kind="bigram", vocabulary_size=37),
    ],
    ids=["tied", "biases", "modern", "odd width", "bigram"],
)
def test_a_quantized_network_scores_nearly_alike_and_writes(
    config: NetworkConfig, kind: QuantizationKind
) -> None:
    network = bold(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    quantized = quantize_network(network, kind)
    assert not any(isinstance(module, nn.Linear) for module in quantized.modules())
    ids = torch.randint(37, (3, min(16, config.block_size)), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = quantized(ids), network.eval()(ids)
    error = (ours - theirs).square().mean().sqrt() / theirs.std()
    assert error < (0.02 if kind == "int8" else 0.3)
    written = list(generate(quantized, [1], tokens=20))
    assert written == list(generate(quantized, [1], tokens=20))
    assert len(written) == 20
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def bold(config: NetworkConfig) -> LanguageModel:
    """A network with weights large enough that its scores differ."""
    network = build_network(config, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter *= 5
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tensors_make_the_same_network(kind: QuantizationKind) -> None:
    quantized = quantize_network(bold(SMALL), kind)
    tensors = {f"network.{name}": tensor for name, tensor in quantized.state_dict().items()}
    again = quantized_network_from(SMALL, kind, tensors)
    ids = torch.arange(16)[None]
    with torch.inference_mode():
        assert torch.equal(quantized(ids), again(ids))
        assert torch.equal(quantized(ids[:, :2]), again(ids[:, :2]))
    assert not again.training
    assert all(
        not parameter.requires_grad for name, parameter in again.named_parameters() if "matrix" in name
    )
    wrong = tensors | {"network.embedding.token.matrix.weight": torch.zeros(37, 64)}
    with pytest.raises(
        ValueError, match=r"token\.matrix\.weight is of torch\.float32, expected torch\.u?int8"
    ):
        quantized_network_from(SMALL, kind, wrong)
    other: QuantizationKind = "int4" if kind == "int8" else "int8"
    with pytest.raises(ValueError, match="tensor network"):
        quantized_network_from(SMALL, other, tensors)


def test_what_cannot_be_quantized_is_refused() -> None:
    network = build_network(SMALL, seed=0)
    with pytest.raises(ValueError, match="no quantization is called 'int2'; there are int8, int4"):
        quantize_network(network, "int2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is quantized already"):
        quantize_network(quantize_network(network, "int8"), "int8")
    with torch.no_grad():
        network.get_parameter("blocks.1.attention.key.weight")[3, 4] = np.nan
    with pytest.raises(
        ValueError, match=r"blocks\.1\.attention\.key\.weight has a number that is not finite"
    ):
        quantize_network(network, "int4")
