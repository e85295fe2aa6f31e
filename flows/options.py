"""The options that commands of every kind share, declared once."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def size_in_bytes(text: str | None) -> int | None:
    """`2GB`, `500 MB`, `1.5g` or a plain number as bytes. Wrong usage if it is anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a size such as 2GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        envvar="BRICKROAD_WORKSPACE",
        help="Folder that holds everything. \\[default: ./workspace]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, words to stderr.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show where an error comes from, and Prefect's log.")
]
ModelArgument = Annotated[str, typer.Argument(help="Run id, name/version, name@alias, or checkpoint folder.")]
DatasetArgument = Annotated[str, typer.Argument(help="Data set: name, name@digest or path.")]
MeasuredDatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Data set to measure on. \\[default: the one it was trained on]",
        show_default=False,
    ),
]
SplitOption = Annotated[Literal["train", "val"], typer.Option("--split", help="train or val.")]
