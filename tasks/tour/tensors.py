"""Tensors: shapes, products, softmax, cross-entropy, and the slopes that training follows."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from model.device import choose_device, device_name
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Words


def embedded_twice(ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """A row for each id: looked up, and as a product with ones and zeros."""
    one_hot = functional.one_hot(ids, len(table)).float()
    return table[ids], one_hot @ table


def cross_entropy_by_hand(scores: Tensor, right: int) -> Tensor:
    """How surprised a network is by the right answer, in nats."""
    shares = scores.exp() / scores.exp().sum()  # softmax
    return -shares[right].log()


def slope_by_hand(scores: Tensor, right: int, place: int) -> float:
    """How the surprise changes if one score grows by a little."""
    little = torch.zeros_like(scores)
    little[place] = 1e-4
    more = cross_entropy_by_hand(scores + little, right)
    return float((more - cross_entropy_by_hand(scores - little, right)) / 2e-4)


def walk(ground: Ground) -> Iterator[Sight]:
    """From a row of ids to a slope."""
    ids = torch.from_numpy(ground.tokenizer.encode("hello").astype("int64"))
    yield Words(
        "A tensor is a table of numbers with any number of directions; its shape says how long each is."
    )
    yield Printed(f"hello -> {ids}\nshape {list(ids.shape)}, {ids.dtype}")
    yield Words(
        "A network knows each character by a row of numbers, which it learns. To look rows up is to multiply by ones and zeros, "
        "so a slope can flow back into the table:"
    )
    yield Code.of(embedded_twice)
    table = torch.randn(ground.tokenizer.vocabulary_size, 4, generator=torch.Generator().manual_seed(0))
    looked_up, multiplied = embedded_twice(ids, table)
    yield Printed(_numbers(looked_up))
    yield Facts(
        values={
            "shape": f"[5] ids, [{len(table)}, 4] table -> {list(looked_up.shape)}",
            "largest difference of the two": float((looked_up - multiplied).abs().max()),
        }
    )
    yield from _surprise()
    device = choose_device("auto")
    yield Facts(title="Where tensors are computed here", values={str(device): device_name(device)})


def _surprise() -> Iterator[Sight]:
    scores, right = torch.tensor([2.0, 1.0, 0.1], dtype=torch.float64, requires_grad=True), 1
    yield Words(
        "A network answers with a score for each id. Softmax makes shares of them, which add up to 1; the loss is how surprising "
        "the right one was: nothing if its share was 1, and ln(n) if all n ids had the same."
    )
    yield Code.of(cross_entropy_by_hand)
    yield Printed(
        f"scores {scores.tolist()} -> shares {_numbers(scores.softmax(0))}, right is number {right}"
    )
    loss = functional.cross_entropy(scores[None], torch.tensor([right]))
    yield Facts(
        values={
            "by hand": cross_entropy_by_hand(scores, right).item(),
            "PyTorch's cross_entropy": loss.item(),
            "if all three were equal, ln(3)": math.log(3),
        }
    )
    yield Words(
        "Which way to turn each score? PyTorch walks the computation backwards; by hand, one tries a little of each:"
    )
    loss.backward()
    by_hand = torch.tensor([slope_by_hand(scores.detach(), right, place) for place in range(3)])
    assert scores.grad is not None
    yield Printed(f"backward: {_numbers(scores.grad)}\nby hand:  {_numbers(by_hand)}")
    yield Words(
        "Training is this, for millions of numbers: a small step against the slope, again and again (AdamW)."
    )


def _numbers(tensor: Tensor) -> str:
    rows = tensor.detach() if tensor.dim() == 2 else tensor.detach()[None]
    return "\n".join("  ".join(f"{value:7.4f}" for value in row) for row in rows.tolist())
