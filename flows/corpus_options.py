"""The options of what a data set is made of, and how."""

from typing import Annotated, Literal

import typer

from flows.options import size_in_bytes
from storage.store import Store


def _checked_size(text: str | None) -> str | None:
    size_in_bytes(text)
    return text


def _checked_store(address: str | None) -> str | None:
    try:
        return Store.at(address).address if address else address
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


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
EngineOption = Annotated[
    Literal["threads", "dask", "ray"],
    typer.Option(
        "--engine",
        help="Where shards are read and encoded, to the same bytes: processes of this machine, or a cluster's.",
    ),
]
EngineAddressOption = Annotated[
    str | None,
    typer.Option(
        "--engine-address",
        metavar="ADDRESS",
        help="A running cluster, such as tcp://host:8786 or host:6379. \\[default: one is started here, and ended]",
        show_default=False,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="BRICKROAD_STORE",
        callback=_checked_store,
        metavar="ADDRESS",
        help="What machines without a common file system share: s3://bucket/prefix, gs://bucket/prefix or a folder. What is there is "
        "not made again, and what is made goes there.",
        show_default=False,
    ),
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
