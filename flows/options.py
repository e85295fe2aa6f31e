"""The options that several commands share, declared once."""

import re
from pathlib import Path
from typing import Annotated, Literal

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


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def size_in_bytes(text: str | None) -> int | None:
    """`2GB`, `500 MB`, `1.5g` or a plain number as bytes. Wrong usage if it is anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a size such as 2GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def _checked_size(text: str | None) -> str | None:
    size_in_bytes(text)
    return text


def _checked_settings(pairs: list[str] | None) -> list[str] | None:
    settings_by_key(pairs)
    return pairs


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

CorpusArgument = Annotated[
    str,
    typer.Argument(
        help="Folder, file or glob: shards, archives of shards, JSON lines, Parquet, text, as they are or in "
        ".xz, .zst, .gz; the same at https://, s3://, gs://, hf://; or a name: stdlib-docs, wizard-of-oz, tiny-shakespeare, openwebtext."
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="Name of the data set. \\[default: the corpus's]", show_default=False),
]
TokenizerOption = Annotated[
    str,
    typer.Option("--tokenizer", help="How text becomes numbers: char, gpt2, bpe:SIZE, or a tokenizer.json."),
]
ValFractionOption = Annotated[
    float | None,
    typer.Option(
        "--val-fraction",
        help="Share of documents to validate on. \\[default: the catalogue's, else 0.1 of one text, 0.02 of anything else]",
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
ColumnOption = Annotated[
    str,
    typer.Option("--text-column", help="The column of Parquet, or field of JSON lines, that holds the text."),
]
_QUALITY = "Quality steps, all off by default"
NormalisationOption = Annotated[
    Literal["none", "hugging-face"],
    typer.Option(
        "--normalisation",
        metavar="HOW",
        rich_help_panel=_QUALITY,
        help="none, or hugging-face: blanks as its OpenWebText has them (no two empty lines together, none at either end).",
    ),
]
ExactDuplicatesOption = Annotated[
    bool,
    typer.Option(
        "--drop-exact-duplicates",
        rich_help_panel=_QUALITY,
        help="Keep the first of documents with the same text.",
    ),
]
NearDuplicatesOption = Annotated[
    float | None,
    typer.Option(
        "--drop-near-duplicates",
        metavar="SIMILARITY",
        rich_help_panel=_QUALITY,
        help="Keep the first of documents this similar (Jaccard index of 5 neighbouring words), such as 0.8.",
        show_default=False,
    ),
]
MinimumCharactersOption = Annotated[
    int | None,
    typer.Option(
        "--minimum-characters", rich_help_panel=_QUALITY, help="Drop shorter documents.", show_default=False
    ),
]
MaximumCharactersOption = Annotated[
    int | None,
    typer.Option(
        "--maximum-characters", rich_help_panel=_QUALITY, help="Drop longer documents.", show_default=False
    ),
]
MinimumLettersOption = Annotated[
    float | None,
    typer.Option(
        "--minimum-letters",
        metavar="SHARE",
        rich_help_panel=_QUALITY,
        help="Drop documents with a smaller share of letters, digits and blanks, of any script.",
        show_default=False,
    ),
]
LanguageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--language",
        metavar="CODE",
        rich_help_panel=_QUALITY,
        help="Keep documents in this language, such as en. May be repeated.",
        show_default=False,
    ),
]
DecontaminateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--decontaminate",
        metavar="PATH",
        rich_help_panel=_QUALITY,
        help="Drop documents that share 13 neighbouring words with these test texts: a file or folder in any form that a corpus may have. May be repeated.",
        show_default=False,
    ),
]
DecontaminationWordsOption = Annotated[
    int,
    typer.Option(
        "--decontamination-words", rich_help_panel=_QUALITY, help="How many neighbouring words that takes."
    ),
]
SplitOption = Annotated[Literal["train", "val"], typer.Option("--split", help="train or val.")]
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
    typer.Option("--workers", help="Processes to work with. \\[default: one a CPU]", show_default=False),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        callback=_checked_size,
        help="Memory for all processes together, such as 2GB; sets how many work, and on how much.",
        show_default=False,
    ),
]
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
ModelArgument = Annotated[str, typer.Argument(help="Run id, name/version, name@alias, or checkpoint folder.")]

DatasetArgument = Annotated[str, typer.Argument(help="Data set: name, name@digest or path.")]

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
