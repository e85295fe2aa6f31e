"""Owns the way between GPT-2 as Hugging Face's library has it and our GPT: the same numbers, under other names.

Theirs is transformers' `GPT2LMHeadModel`. It keeps its matrices as [in, out], queries, keys and values in one of them, and has every
bias there can be: where our network has none, theirs is 0.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from model.config import Activation, NetworkConfig
from model.network import check_tensors, empty_network

#: Their name of a part of a layer, and ours.
_PARTS: Final = {
    "ln_1": "attention_norm",
    "attn.c_proj": "attention.projection",
    "ln_2": "feed_forward_norm",
    "mlp.c_fc": "feed_forward.expand",
    "mlp.c_proj": "feed_forward.projection",
}
_OUTSIDE_LAYERS: Final = {
    "wte.weight": "embedding.token.weight",
    "wpe.weight": "embedding.position.weight",
    "ln_f.weight": "norm.weight",
    "ln_f.bias": "norm.bias",
}
_PREFIX: Final = "transformer."
_HEAD: Final = "lm_head.weight"
#: Old files hold the causal mask as well, which is nothing that was learnt.
_MASKS: Final = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
_QUERY_KEY_VALUE: Final = ("query", "key", "value")

_THEIR_ACTIVATION: Final[Mapping[Activation, str]] = {
    "relu": "relu",
    "gelu": "gelu_new",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu_squared": "relu2",
}
_OUR_ACTIVATION: Final = {theirs: ours for ours, theirs in _THEIR_ACTIVATION.items()} | {
    "gelu_pytorch_tanh": "gelu"
}
#: What config.json may not say otherwise; what it does not say is so.
_FIXED: Final[Mapping[str, Any]] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "layer_norm_epsilon": 1e-5,
    "quantization_config": None,
}
_DROPOUTS: Final = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def is_gpt2_shaped(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a `GPT2LMHeadModel` can compute what a network with these tensors does. A head of its own has no bias there."""
    head_bias = tensors.get("network.head.bias")
    return (
        config.kind == "gpt"
        and config.norm == "pre"
        and config.norm_kind == "layer"
        and config.positions == "learned"
        and not config.query_key_norm
        and not config.logit_soft_cap
        and config.documents == "joined"
        and (head_bias is None or not head_bias.any())
    )


def gpt2_fields(config: NetworkConfig) -> dict[str, Any]:
    """What config.json says of the shape of a network that `is_gpt2_shaped`."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocabulary_size,
        "n_positions": config.block_size,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "activation_function": _THEIR_ACTIVATION[config.activation],
        "layer_norm_epsilon": _FIXED["layer_norm_epsilon"],
        "tie_word_embeddings": config.tied_head,
    } | dict.fromkeys(_DROPOUTS, config.dropout)


def network_config(fields: Mapping[str, Any]) -> NetworkConfig:
    """The shape that a config.json of GPT-2's family asks for, with every bias. ValueError for what our GPT cannot do."""
    if fields.get("model_type") != "gpt2":
        raise ValueError(f"model_type is {fields.get('model_type')!r}; only gpt2 is read")
    for name, value in _FIXED.items():
        if fields.get(name, value) != value:
            raise ValueError(f"{name} is {fields[name]!r}; only {value!r} can be computed here")
    width = _whole_number(fields, "n_embd", 768)
    if fields.get("n_inner") not in (None, 4 * width):
        raise ValueError(f"n_inner is {fields['n_inner']!r}; only four times n_embd can be computed here")
    activation = fields.get("activation_function", "gelu_new")
    if activation not in _OUR_ACTIVATION:
        known = ", ".join(_OUR_ACTIVATION)
        raise ValueError(f"activation_function is {activation!r}; only {known} can be computed here")
    is_tied = fields.get("tie_word_embeddings", True)
    if not isinstance(is_tied, bool):
        raise ValueError(f"tie_word_embeddings is {is_tied!r}; it must be true or false")
    return NetworkConfig(
        vocabulary_size=_whole_number(fields, "vocab_size", 50257),
        block_size=_whole_number(fields, "n_positions", 1024),
        layers=_whole_number(fields, "n_layer", 12),
        heads=_whole_number(fields, "n_head", 12),
        width=width,
        dropout=_dropout(fields),
        activation=_OUR_ACTIVATION[activation],
        bias=True,
        query_key_value_bias=True,
        tied_head=is_tied,
    )


def _whole_number(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return value


def _dropout(fields: Mapping[str, Any]) -> float:
    shares = {fields.get(name, 0.1) for name in _DROPOUTS}
    if len(shares) > 1 or not isinstance(share := shares.pop(), int | float):
        raise ValueError(
            f"{', '.join(_DROPOUTS)} are not one number; make them equal: only training uses them"
        )
    return float(share)


def gpt2_tensors(config: NetworkConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network that `is_gpt2_shaped`, "network.…", by their names, in their layout. Each has memory of its own."""
    ours = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    theirs = {}
    for their, our in _OUTSIDE_LAYERS.items():
        theirs[_PREFIX + their] = ours[our] if our in ours else torch.zeros_like(ours["norm.weight"])
    for layer in range(config.layers):
        for their, our in _PARTS.items():
            weight, bias = _with_bias(ours, f"blocks.{layer}.{our}")
            theirs[f"{_PREFIX}h.{layer}.{their}.weight"], theirs[f"{_PREFIX}h.{layer}.{their}.bias"] = (
                weight.t(),
                bias,
            )
        parts = [_with_bias(ours, f"blocks.{layer}.attention.{our}") for our in _QUERY_KEY_VALUE]
        joined = f"{_PREFIX}h.{layer}.attn.c_attn"
        theirs[f"{joined}.weight"] = torch.cat([weight for weight, _ in parts]).t()
        theirs[f"{joined}.bias"] = torch.cat([bias for _, bias in parts])
    if not config.tied_head:
        theirs[_HEAD] = ours["head.weight"]
    return {name: _own(tensor) for name, tensor in theirs.items()}


def _with_bias(tensors: Mapping[str, Tensor], part: str) -> tuple[Tensor, Tensor]:
    """The weight of a part, and its bias or zeros."""
    weight, bias = tensors[f"{part}.weight"], tensors.get(f"{part}.bias")
    return weight, weight.new_zeros(weight.shape[0]) if bias is None else bias


def network_tensors(config: NetworkConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `gpt2_tensors`: "network.…" in float32, for a config of `network_config`.

    ValueError in one line names a tensor that is missing, unexpected, of another shape or not of floats.
    """
    given = {name.removeprefix(_PREFIX): tensor for name, tensor in theirs.items()}
    given = {name: tensor for name, tensor in given.items() if not _MASKS.fullmatch(name)}
    if config.tied_head and _HEAD in given and "wte.weight" in given:
        if not torch.equal(given[_HEAD], given["wte.weight"]):
            raise ValueError(f"tensor {_HEAD} is not wte.weight, though tie_word_embeddings is true")
        del given[_HEAD]
    _check(config, given)
    ours = {our: given[their] for their, our in _OUTSIDE_LAYERS.items()}
    for layer in range(config.layers):
        for kind in ("weight", "bias"):
            for their, our in _PARTS.items():
                ours[f"blocks.{layer}.{our}.{kind}"] = given[f"h.{layer}.{their}.{kind}"].t()
            joined = given[f"h.{layer}.attn.c_attn.{kind}"].t().chunk(3)
            for our, tensor in zip(_QUERY_KEY_VALUE, joined, strict=True):
                ours[f"blocks.{layer}.attention.{our}.{kind}"] = tensor
    if not config.tied_head:
        ours["head.weight"], ours["head.bias"] = given[_HEAD], torch.zeros(config.vocabulary_size)
    return {f"network.{name}": _own(tensor.float()) for name, tensor in ours.items()}


def _check(config: NetworkConfig, given: Mapping[str, Tensor]) -> None:
    """ValueError if these, without their prefix, are not the tensors of a GPT-2 of that shape."""
    if config.layers > len(given):  # before a network of that many layers is made
        raise ValueError(f"n_layer is {config.layers}, and there are {len(given)} tensors in all")
    own = empty_network(config).state_dict()
    expected = gpt2_tensors(config, {f"network.{name}": tensor for name, tensor in own.items()})
    check_tensors(given, {name.removeprefix(_PREFIX): tensor for name, tensor in expected.items()})
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise ValueError(f"tensor {name} is of {tensor.dtype}; only floating-point weights are read")


def without_unused_biases(
    config: NetworkConfig, tensors: Mapping[str, Tensor], *, once: NetworkConfig
) -> tuple[NetworkConfig, dict[str, Tensor]]:
    """A network that `once` had no biases of a kind, and for which they are all 0 still, without them again."""
    kept, found = config, dict(tensors)
    for field, names in _biases_by_field(tensors).items():
        if not getattr(once, field) and not any(tensors[name].any() for name in names):
            kept = replace(kept, **{field: False})  # type: ignore[arg-type]  # both are bool
            found = {name: tensor for name, tensor in found.items() if name not in names}
    return kept, found


def _biases_by_field(names: Iterable[str]) -> dict[str, set[str]]:
    """Names of biases by the field of the config that asks for them."""
    biases = {name for name in names if name.endswith(".bias")}
    inner = {name for name in biases if name.split(".")[-2] in _QUERY_KEY_VALUE}
    return {"query_key_value_bias": inner, "bias": biases - inner}


def _own(tensor: Tensor) -> Tensor:
    """In memory of its own, in order: neither a transposed view nor a part of another."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
