"""The options of a training: its recipe, its processes, its adapters."""

from typing import Annotated

import typer


def settings_by_key(pairs: list[str] | None) -> dict[str, str]:
    """`["training.steps=500"]` as {"training.steps": "500"}. Wrong usage if one is not KEY=VALUE."""
    settings = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE, as in training.steps=500")
        settings[key.strip()] = value.strip()
    return settings


def _checked_settings(pairs: list[str] | None) -> list[str] | None:
    settings_by_key(pairs)
    return pairs


PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="bigram, course, pocket, baby, gpt2 or modern. \\[default: pocket]",
        show_default=False,
    ),
]
DepthOption = Annotated[
    int | None,
    typer.Option(
        "--depth",
        help="Layers of the preset modern, from which width, batch, steps and rates follow. \\[default: 12]",
        show_default=False,
    ),
]
_PROCESSES = "Several processes"
ProcessesOption = Annotated[
    int,
    typer.Option(
        "--nproc",
        rich_help_panel=_PROCESSES,
        help="Processes that train together on this machine, one a GPU.",
    ),
]
NodesOption = Annotated[
    int, typer.Option("--nodes", rich_help_panel=_PROCESSES, help="Machines that train together.")
]
NodeOption = Annotated[
    int,
    typer.Option(
        "--node",
        rich_help_panel=_PROCESSES,
        help="This machine's number among them; 0 is the one that tells and saves.",
    ),
]
RendezvousOption = Annotated[
    str | None,
    typer.Option(
        "--rendezvous",
        metavar="HOST:PORT",
        rich_help_panel=_PROCESSES,
        help="A free port of machine 0, where all of them meet.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        callback=_checked_settings,
        help="A setting on top of the preset, e.g. training.steps=500. May be repeated.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    str | None,
    typer.Option("--resume", help="Run id to go on with, from its last checkpoint.", show_default=False),
]
_LORA = "LoRA"
LoraOption = Annotated[
    int | None,
    typer.Option(
        "--lora",
        metavar="RANK",
        rich_help_panel=_LORA,
        help="Learn adapters of this rank, such as 8, and nothing else. \\[default: all weights learn]",
        show_default=False,
    ),
]
LoraAlphaOption = Annotated[
    float | None,
    typer.Option(
        "--lora-alpha",
        rich_help_panel=_LORA,
        help="Over the rank: how much of the adapters is added. \\[default: twice the rank]",
        show_default=False,
    ),
]
LoraTargetsOption = Annotated[
    str | None,
    typer.Option(
        "--lora-targets",
        rich_help_panel=_LORA,
        help="Matrices with adapters, by commas: attention, feed_forward, head, or one of a part's. "
        "\\[default: attention.query,attention.value]",
        show_default=False,
    ),
]
