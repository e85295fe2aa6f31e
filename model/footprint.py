"""Owns how much memory a training takes on its device, before it is begun.

Weights, gradients and optimizers are counted. What the backward pass needs of the forward pass is measured, on one and two
windows in networks of one and two layers: it grows with the windows, with the layers, and with both.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from model.config import Recipe
from model.device import autocast, choose_device, choose_precision
from model.network import build_network, empty_network
from model.optimizers import Optimizers


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of a training. Those of activations are of one device, the rest of all that share it."""

    weights: int
    gradients: int
    optimizer: int
    constant_activations: int  # such as weights in bfloat16
    window_activations: int
    window_logits: int  # in float32

    def bytes(self, windows: int, *, shared_by: int = 1) -> int:
        """What a device holds at the highest, when so many windows have gone through the network together: then the logits are
        there, and soon their gradient. `shared_by` devices hold a part each of weights, gradients and optimizer."""
        held = (self.weights + self.gradients + self.optimizer) // shared_by
        return held + self.constant_activations + windows * (self.window_activations + 2 * self.window_logits)


def footprint(recipe: Recipe) -> Footprint:
    """The footprint of a recipe. Computes forward passes of a window or two on the recipe's device."""
    network = empty_network(recipe.network)
    weights = sum(_bytes(weight) for weight in network.parameters())
    optimizer = Optimizers(network, recipe.training).expected()
    table = recipe.network.kind == "bigram"
    least, most = (1, 1) if table else (1, 2)
    # f(windows, layers) = a + b windows + c layers + d windows layers, from its four corners.
    corner = {
        (windows, layers): _saved_bytes(recipe, windows, layers)
        for windows in (1, 2)
        for layers in (least, most)
    }
    of_window = {layers: corner[2, layers] - corner[1, layers] for layers in (least, most)}
    constant = {layers: corner[1, layers] - of_window[layers] for layers in (least, most)}
    more = recipe.network.layers - 1
    return Footprint(
        weights=weights,
        gradients=weights,
        optimizer=sum(_bytes(tensor) for tensor in optimizer.values()),
        constant_activations=constant[least] + more * (constant[most] - constant[least]),
        window_activations=of_window[least] + more * (of_window[most] - of_window[least]),
        window_logits=4 * recipe.network.block_size * recipe.network.vocabulary_size,
    )


def _saved_bytes(recipe: Recipe, windows: int, layers: int) -> int:
    """What a forward pass leaves in memory for the backward pass, beside the weights; each piece of memory counts once."""
    device = choose_device(recipe.training.device)
    config = replace(recipe.network, layers=layers)
    network = build_network(config, seed=0).to(device).train()
    ids = torch.zeros(windows, config.block_size, dtype=torch.int64, device=device)
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    saved = dict[int, Tensor]()  # kept, so that no piece of memory is given to another

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    precision = choose_precision(device, recipe.training.precision, network=config)
    with saved_tensors_hooks(pack, lambda tensor: tensor), autocast(device, precision):
        loss = functional.cross_entropy(network(ids).flatten(0, 1), ids.flatten())
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in own)
    del loss
    return found


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
