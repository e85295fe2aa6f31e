"""The options that several commands share, declared once."""

from pathlib import Path
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


WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        envvar="BRICKROAD_WORKSPACE",
        help="Folder that holds everything. [default: ./workspace]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, words to stderr.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show where an error comes from, and Prefect's log.")
]

CorpusArgument = Annotated[
    str,
    typer.Argument(
        help="Folder, file or glob of .xz shards or .txt files; or a name: stdlib-docs, wizard-of-oz, "
        "tiny-shakespeare, openwebtext."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="Name of the data set. [default: the corpus's]", show_default=False),
]
TokenizerOption = Annotated[str, typer.Option("--tokenizer", help="How text becomes numbers: char.")]
ValFractionOption = Annotated[
    float | None,
    typer.Option(
        "--val-fraction",
        help="Share of documents to validate on. [default: the catalogue's, else 0.1 of one file, 0.02 of many]",
        show_default=False,
    ),
]
CoverageOption = Annotated[
    float,
    typer.Option(
        "--character-coverage",
        help="Share of characters with an id of their own; the rest are spelt in bytes.",
    ),
]
InvalidOption = Annotated[
    str,
    typer.Option(
        "--invalid-utf8", help="refuse a shard with bytes that are not UTF-8, or replace them by U+FFFD."
    ),
]
TolerateOption = Annotated[
    int,
    typer.Option(
        "--tolerate-bad-shards", help="Leave out up to so many shards that cannot be trusted; each is named."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit-shards", help="Use the first so many shards only.", show_default=False)
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Threads to read with. [default: one a CPU]", show_default=False),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset", help="bigram, course, pocket, baby or gpt2. [default: pocket]", show_default=False
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
ModelArgument = Annotated[str, typer.Argument(help="Run id, name/version, name@alias, or checkpoint folder.")]

DatasetArgument = Annotated[str, typer.Argument(help="Data set: name, name@digest or path.")]
