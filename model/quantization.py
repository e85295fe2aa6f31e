"""Owns networks whose matrices are kept in 8 or 4 bits a number: how they are rounded, looked up and multiplied with.

Weights alone are rounded; what flows through the network stays in floating point. Norms, biases and learned positions are kept
as they are.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import NetworkConfig
from model.network import LanguageModel, empty_network, initialise, load_tensors

QuantizationKind = Literal["int8", "int4"]

GROUP: Final = 32  # numbers that share a scale in int4: of 32, 64 and 128 the one that lost least
# PyTorch's kernels for a CPU take their time row by row: up to so many rows they are faster than to make floating point numbers
# of the matrix and multiply with those, at widths 128 to 768 by 1.2 to 10 times; at 16 they are not.
_KERNEL_ROWS: Final = 8
_KERNEL_COLUMNS: Final = 32  # a multiple of them, or int8's reads beyond its memory: seen with 33
_KERNEL_TILE: Final = 16  # PyTorch packs rows of int4 by so many


class Int8Matrix(nn.Module):
    """A matrix of so many rows and columns in 8 bits a number, and a scale a row.

    Symmetric: q = round(w / s), s = max |w| / 127 over the row ("absmax", Dettmers et al. 2022, arXiv:2208.07339, section 2.1;
    a scale for each output channel after Krishnamoorthi 2018, arXiv:1806.08342, section 2.2). No number is further than s / 2
    from what it was.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = _constant(rows, columns, dtype=torch.int8)
        self.scale = _constant(rows, dtype=torch.bfloat16)

    @staticmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight float32 [rows, columns] -> its numbers int8 [rows, columns], and scales bfloat16 [rows]."""
        scale = _rounded_away(weight.abs().amax(dim=1) / 127)
        return _in_steps(weight, scale[:, None], least=-127, most=127), scale.bfloat16()

    def look_up(self, ids: Tensor) -> Tensor:
        """ids [...] -> these rows, float32 [..., columns]."""
        return self.weight[ids].float() * self.scale[ids].float()[..., None]

    def multiply(self, hidden: Tensor) -> Tensor:
        """hidden [..., columns] -> [..., rows]."""
        dtype = _arithmetic(hidden)
        if _suits_kernel(hidden):
            rows = hidden.reshape(-1, hidden.shape[-1]).bfloat16().contiguous()
            product = torch._weight_int8pack_mm(rows, self.weight, self.scale)
            return product.view(*hidden.shape[:-1], -1).to(dtype)
        return functional.linear(hidden.to(dtype), self.weight.to(dtype)) * self.scale.to(dtype)


class Int4Matrix(nn.Module):
    """A matrix of so many rows and columns in 4 bits a number, and a scale for each GROUP of a row.

    q = round(w / s) in -8 … 7, with s = m / -8, m the group's number that is furthest from 0, with its sign: all 16 steps are
    used, and the largest number is kept best (Q4_0 of github.com/ggml-org/llama.cpp, quantize_row_q4_0_ref in ggml-quants.c;
    groups after Shen et al. 2020, "Q-BERT", arXiv:1909.05840, section 3.2). No number is further than |s| / 2 from what it was,
    but those that are nearly as large as m and of the other sign: they are not further than |s|.

    A byte has a number of a group's first half in its low four bits, and that of its second half in the high ones. Rows are
    filled up with zeros to whole groups.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        groups = -(-columns // GROUP)
        self.columns = columns
        self.weight = _constant(rows, groups * GROUP // 2, dtype=torch.uint8)
        self.scale = _constant(rows, groups, dtype=torch.bfloat16)
        self._for_kernel: tuple[Tensor, Tensor] | None = None  # the same again as PyTorch's kernel wants it

    @staticmethod
    def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight float32 [rows, columns] -> bytes uint8 [rows, groups * GROUP / 2], and scales bfloat16 [rows, groups]."""
        filled = functional.pad(weight, (0, -weight.shape[1] % GROUP))
        groups = filled.view(len(weight), -1, GROUP)
        furthest = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
        scale = _rounded_away(furthest / -8)
        first, second = _in_steps(groups, scale, least=-8, most=7).chunk(2, dim=2)
        return ((first & 15) | (second << 4)).flatten(1).view(torch.uint8), scale[..., 0].bfloat16()

    def look_up(self, ids: Tensor) -> Tensor:
        """ids [...] -> these rows, float32 [..., columns]."""
        return self._numbers(self.weight[ids], self.scale[ids], torch.float32)

    def multiply(self, hidden: Tensor) -> Tensor:
        """hidden [..., columns] -> [..., rows]."""
        dtype = _arithmetic(hidden)
        if _suits_kernel(hidden):
            rows = hidden.reshape(-1, hidden.shape[-1]).bfloat16().contiguous()
            packed, scales = self._packed()
            product = torch._weight_int4pack_mm_for_cpu(rows, packed, GROUP, scales)
            return product[:, : len(self.weight)].view(*hidden.shape[:-1], -1).to(dtype)
        return functional.linear(hidden.to(dtype), self._numbers(self.weight, self.scale, dtype))

    def _numbers(self, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Bytes [..., groups * GROUP / 2] and scales [..., groups] -> numbers [..., columns]."""
        steps = _unpacked(weight).to(dtype) * scale.to(dtype)[..., None]
        return steps.flatten(-2)[..., : self.columns]

    def _packed(self) -> tuple[Tensor, Tensor]:
        """The matrix in the order that PyTorch's kernel for CPUs reads, made when it is first multiplied with few rows.

        The kernel takes 0 … 15 less 8, times a scale, plus a zero: [groups, rows, 2]; and whole tiles of rows.
        """
        if self._for_kernel is None:
            more = -len(self.weight) % _KERNEL_TILE
            steps = functional.pad(_unpacked(self.weight).flatten(1).int() + 8, (0, 0, 0, more))
            scale = functional.pad(self.scale, (0, 0, 0, more)).t()
            packed = torch._convert_weight_to_int4pack_for_cpu(steps, 1)
            self._for_kernel = packed, torch.stack([scale, torch.zeros_like(scale)], dim=2).contiguous()
        return self._for_kernel


class QuantizedLinear(nn.Module):
    """`nn.Linear` with a quantized matrix."""

    def __init__(self, matrix: Int8Matrix | Int4Matrix, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix = matrix
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        product = self.matrix.multiply(hidden)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class QuantizedEmbedding(nn.Module):
    """`model.network.TokenEmbedding` with a quantized matrix, a row a token."""

    def __init__(self, matrix: Int8Matrix | Int4Matrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> float32 [..., width]."""
        return self.matrix.look_up(ids)

    def scores(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> [..., vocabulary_size]."""
        return self.matrix.multiply(hidden)


_FORMS: Final[Mapping[str, type[Int8Matrix] | type[Int4Matrix]]] = {"int8": Int8Matrix, "int4": Int4Matrix}


def quantize_network(network: LanguageModel, kind: QuantizationKind) -> LanguageModel:
    """The network with its matrices in 8 or 4 bits, on the CPU, in eval mode; the one given stays as it is.

    Rounded are all matrices that tokens are multiplied with, and the tokens' own embedding, which is the head's matrix too where
    that is tied; of a bigram its table. ValueError for an unknown kind, a network that is quantized, or a weight that is no
    finite number.
    """
    if any(isinstance(module, Int8Matrix | Int4Matrix) for module in network.modules()):
        raise ValueError("the network is quantized already; quantize the one it was made from")
    form = _form(kind)
    matrices = {
        f"{name}.weight": name for name, module in network.named_modules() if _is_rounded(name, module)
    }
    tensors = {}
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"tensor {name} has a number that is not finite; choose an earlier checkpoint")
        if name in matrices:
            weight, scale = form.quantize(tensor.float().cpu())
            tensors[f"network.{matrices[name]}.matrix.weight"] = weight
            tensors[f"network.{matrices[name]}.matrix.scale"] = scale
        else:
            tensors[f"network.{name}"] = tensor.cpu()
    return quantized_network_from(network.config, kind, tensors)


def quantized_network_from(
    config: NetworkConfig, kind: QuantizationKind, tensors: Mapping[str, Tensor]
) -> LanguageModel:
    """As `model.network.network_from`, of a network that `quantize_network` has made. ValueError too for numbers of another
    kind."""
    network = empty_quantized_network(config, kind)
    initialise(network, layers=config.layers, seed=0)
    for name, own in network.state_dict().items():
        given = tensors.get(f"network.{name}", own)
        if given.dtype != own.dtype:
            raise ValueError(f"tensor network.{name} is of {given.dtype}, expected {own.dtype} for {kind}")
    load_tensors(network, tensors)
    return network.eval()


def empty_quantized_network(config: NetworkConfig, kind: QuantizationKind) -> LanguageModel:
    """The quantized network of a config on "meta": with shapes, and no numbers in them."""
    form, network = _form(kind), empty_network(config)
    for name, module in list(network.named_modules()):
        if _is_rounded(name, module):
            network.set_submodule(name, _quantized(module, form))
    return network


def bytes_of(network: nn.Module) -> int:
    """What the tensors of a network take, without a file's header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _form(kind: str) -> type[Int8Matrix] | type[Int4Matrix]:
    if kind not in _FORMS:
        raise ValueError(
            f"no quantization is called {kind!r}; there are {', '.join(get_args(QuantizationKind))}"
        )
    return _FORMS[kind]


def _is_rounded(name: str, module: nn.Module) -> bool:
    """Whether a module is kept in few bits: not the learned positions, a few rows which are added to all that there is."""
    return isinstance(module, nn.Linear | nn.Embedding) and not name.endswith("position")


def _quantized(module: nn.Module, form: Callable[[int, int], Int8Matrix | Int4Matrix]) -> nn.Module:
    with torch.device("meta"):
        if isinstance(module, nn.Linear):
            return QuantizedLinear(form(module.out_features, module.in_features), module.bias)
        assert isinstance(module, nn.Embedding)
        return QuantizedEmbedding(form(module.num_embeddings, module.embedding_dim))


def _constant(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """Numbers that are no one's to learn."""
    return nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)


def _rounded_away(scale: Tensor) -> Tensor:
    """float32 -> the nearest bfloat16 that is not smaller, as float32: then the largest number is within the steps."""
    return ((scale.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)


def _in_steps(numbers: Tensor, scale: Tensor, *, least: int, most: int) -> Tensor:
    """How many scales each number is, int8; 0 where all are 0."""
    return (numbers / scale.masked_fill(scale == 0, 1)).round().clamp(least, most).to(torch.int8)


def _unpacked(weight: Tensor) -> Tensor:
    """Bytes [..., groups * GROUP / 2] -> steps int8 [..., groups, GROUP]. Shifts of int8 keep the sign."""
    pairs = weight.view(torch.int8).view(*weight.shape[:-1], -1, GROUP // 2)
    return torch.cat([(pairs << 4) >> 4, pairs >> 4], dim=-1)


def _arithmetic(hidden: Tensor) -> torch.dtype:
    """What to multiply in: as `nn.Linear` would."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _suits_kernel(hidden: Tensor) -> bool:
    """Whether PyTorch's kernels, which take bfloat16, know no gradients and are made for a CPU, are the faster way."""
    columns = hidden.shape[-1]
    if columns % _KERNEL_COLUMNS or not 0 < hidden.numel() // columns <= _KERNEL_ROWS:
        return False
    return hidden.device.type == "cpu" and not hidden.requires_grad and _cpu_has_kernels()


@functools.cache
def _cpu_has_kernels() -> bool:
    """Whether they are more than a plain loop here."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")
