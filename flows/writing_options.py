"""The options of what a model writes, and how it chooses."""

from typing import Annotated

import typer

PromptOption = Annotated[str, typer.Option("--prompt", help="Text to continue; empty starts a new document.")]
TokensOption = Annotated[int, typer.Option("--tokens", help="How many tokens to write at most.")]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", help="0 takes the likeliest each time; 1 is as learnt.")
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", help="Choose among the k likeliest only.", show_default=False)
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", help="Choose among the likeliest that have this share.", show_default=False),
]
MinPOption = Annotated[
    float | None,
    typer.Option(
        "--min-p",
        help="Choose among those at least this share as likely as the likeliest.",
        show_default=False,
    ),
]
PenaltyOption = Annotated[
    float,
    typer.Option(
        "--repetition-penalty",
        help="Makes what the text has already so many times less likely; 1 does not.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed writes the same text.")]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", help="End before this text. May be repeated.", show_default=False),
]
