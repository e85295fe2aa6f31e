"""The stops of the tour, in the order of the course."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.tour.ground import Ground
from tasks.tour.sights import Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A place on the tour: what one asks for it by, and what it is about."""

    name: str
    title: str

    def walk(self, ground: Ground) -> Iterator[Sight]:
        """What there is to see, as it happens."""
        module = importlib.import_module(f"tasks.tour.{self.name.replace('-', '_')}")
        sights: Iterator[Sight] = module.walk(ground)
        return sights


STOPS = tuple(
    Stop(name=name, title=title)
    for name, title in (
        ("characters", "Characters and encoders: a text becomes numbers, and a text again"),
        ("tensors", "Tensors: tables of numbers that know where they came from"),
        ("bigram", "The bigram: which character follows which, counted and learnt"),
        ("batches", "Blocks and batches: what a network is asked, and how it is marked"),
        ("attention", "Attention: each place gathers what it needs from those before it"),
        ("gpt", "The GPT: blocks of attention and thought, trained on real text"),
        ("losses", "Loss curves: learning rates, activations, and learning by heart"),
        ("openwebtext", "OpenWebText: text in .xz, read with little memory"),
        ("memmap", "Memory maps: a data set larger than memory, and its way back to the text"),
        ("finetune", "Fine-tuning: a trained model learns something else, and what it forgets"),
        ("quantization", "Quantization: the same weights in eight bits, and in four"),
        ("accumulation", "Gradient accumulation: a large batch in little memory"),
        ("hugging-face", "Hugging Face: our model in everybody's format, and back"),
    )
)


def chosen_stops(names: list[str]) -> list[Stop]:
    """The stops of these names in the order of the course; of none, all. ValueError for a name that is none."""
    if unknown := set(names) - {stop.name for stop in STOPS}:
        raise ValueError(
            f"no stop is called {min(unknown)!r}; there are {', '.join(stop.name for stop in STOPS)}"
        )
    return [stop for stop in STOPS if not names or stop.name in names]
