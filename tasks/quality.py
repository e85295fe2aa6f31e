"""Which documents of a corpus are left out, and why: steps that are all off by default, and what they depend on."""

import unicodedata
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from storage.files import sha256_file
from storage.shards import find_shards
from tasks.languages import LANGUAGES, language_recipe

Step = Literal[
    "too short",
    "too long",
    "too few letters",
    "other language",
    "test text",
    "exact duplicate",
    "near duplicate",
]
#: In this order: a document is counted by the first step that drops it.
STEPS: tuple[Step, ...] = get_args(Step)

_SHOWN: dict[str, str] = {
    "too short": "document{} too short",
    "too long": "document{} too long",
    "too few letters": "document{} with too few letters",
    "other language": "document{} in another language",
    "test text": "document{} with words of a test text",
    "exact duplicate": "exact duplicate{}",
    "near duplicate": "near duplicate{}",
}

SHINGLE_WORDS = 5
SIGNATURE_NUMBERS = 128
SIGNATURE_SEED = 1
# Of pairs that are just as similar as asked for, so many meet in a band and are compared; of more similar ones, more.
_CANDIDATES_FOUND = 0.99
LEAST_SIMILARITY = 0.5  # below, nearly everything would have to be compared with everything
_FORMAT = 1  # of what is compared: another one makes another data set


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """What drops documents before tokenizers are learnt and applied. Nothing does by default.

    `drop_exact_duplicates` keeps the first of documents with the same bytes. `drop_near_duplicates` is a similarity, the
    Jaccard index of the sets of 5 neighbouring words, at and above which a later document is dropped in favour of an
    earlier one that stays. Lengths are in characters (code points). `languages` are ISO 639-1 codes; none means all.
    `minimum_letters` is the least share of a document's characters that are letters, marks, digits or blanks of any
    script. `decontaminate` names files of test texts, in any form that a corpus may have: a document that shares
    `decontamination_words` neighbouring words with one of them is dropped, as GPT-3 did at first (Brown et al. 2020,
    arXiv:2005.14165, appendix C; there later the passage alone, and none that more than 10 documents share).
    """

    drop_exact_duplicates: bool = False
    drop_near_duplicates: float | None = None
    minimum_characters: int | None = None
    maximum_characters: int | None = None
    languages: tuple[str, ...] = ()
    minimum_letters: float | None = None
    decontaminate: tuple[str, ...] = ()
    decontamination_words: int = 13

    def __post_init__(self) -> None:
        similarity, letters = self.drop_near_duplicates, self.minimum_letters
        if similarity is not None and not LEAST_SIMILARITY <= similarity <= 1:
            raise ValueError(
                f"drop_near_duplicates is {similarity}; it is a similarity from {LEAST_SIMILARITY} to 1, such as 0.8"
            )
        if letters is not None and not 0 <= letters <= 1:
            raise ValueError(f"minimum_letters is {letters}; it is a share from 0 to 1, such as 0.8")
        self._check_lengths()
        if unknown := sorted(set(self.languages) - LANGUAGES):
            raise ValueError(
                f"languages has {unknown[0]!r}; give two-letter codes of ISO 639-1, such as 'en' or 'de'"
            )
        if self.decontamination_words < 1:
            raise ValueError(
                f"decontamination_words is {self.decontamination_words}; GPT-3 took 13, and 1 is the least"
            )

    def _check_lengths(self) -> None:
        shortest, longest = self.minimum_characters, self.maximum_characters
        if shortest is not None and shortest < 1:
            raise ValueError(f"minimum_characters is {shortest}; 1 leaves out empty documents alone")
        if longest is not None and longest < (shortest or 1):
            raise ValueError(f"maximum_characters is {longest}; it is at least minimum_characters, and 1")

    @property
    def is_on(self) -> bool:
        """Whether any document may be dropped."""
        return any(getattr(self, one.name) != one.default for one in fields(self) if one.name != _WORDS)

    @property
    def looks_at_words(self) -> bool:
        """Whether the words of documents are compared with others."""
        return bool(self.decontaminate) or self.drop_near_duplicates is not None

    def recipe(self) -> dict[str, Any]:
        """What goes into fingerprints: the steps that are on, the bytes of the test texts, and versions that matter.

        Reads the files of test texts. Raises CorpusError if there are none where `decontaminate` points.
        """
        chosen = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != one.default and one.name != _WORDS
        }
        if not chosen:
            return {}
        chosen["format"] = _FORMAT
        if self.languages:
            chosen |= {"languages": sorted(set(self.languages)), "language_recipe": language_recipe()}
        if self.decontaminate:
            chosen |= {_WORDS: self.decontamination_words, "decontaminate": sorted(set(self._test_sha256()))}
        if self.drop_near_duplicates is not None:
            sizes = [SHINGLE_WORDS, SIGNATURE_NUMBERS, SIGNATURE_SEED]
            chosen |= {"rensa": version("rensa"), "signature": sizes}
        if self.looks_at_words or self.minimum_letters is not None:
            chosen["unicode"] = unicodedata.unidata_version
        return chosen

    def _test_sha256(self) -> list[str]:
        return [
            sha256_file(Path(shard.location)) for place in self.decontaminate for shard in find_shards(place)
        ]


_WORDS = "decontamination_words"


def in_words(step: str, documents: int) -> str:
    """What a step left out, for a person: `330 near duplicates`."""
    plural = "" if documents == 1 else "s"
    return f"{documents:,} {_SHOWN[step].format(plural)}"


def bands_for(similarity: float) -> tuple[int, int]:
    """(bands, numbers a band) of a signature: as many numbers as leave 99 % of pairs of this similarity one equal band.

    With b bands of r numbers, a pair of similarity s has one with the probability 1 - (1 - s^r)^b (Leskovec, Rajaraman,
    Ullman, Mining of Massive Datasets, section 3.4.2).
    """
    for rows in range(SIGNATURE_NUMBERS, 1, -1):
        bands = SIGNATURE_NUMBERS // rows
        if 1 - (1 - similarity**rows) ** bands >= _CANDIDATES_FOUND:
            return bands, rows
    return SIGNATURE_NUMBERS, 1
