"""Characters and encoders: code points, UTF-8, the course's encoder, ours with bytes for what is rare, and pairs of bytes."""

from collections.abc import Iterator

from model.tokenizer import CharTokenizer
from tasks.tokenizers import load_tokenizer, train_bpe
from tasks.tour.ground import Ground
from tasks.tour.sights import Code, Facts, Printed, Sight, Table, Words

_OZ = "Oz: é 魔 🧙"
_PAIRS = 1_000


class CourseEncoder:
    """The course's: a number for each character that the text has."""

    def __init__(self, text: str) -> None:
        self.characters = sorted(set(text))
        self.number_of = {c: i for i, c in enumerate(self.characters)}

    def encode(self, text: str) -> list[int]:
        return [self.number_of[character] for character in text]

    def decode(self, numbers: list[int]) -> str:
        return "".join(self.characters[number] for number in numbers)


def walk(ground: Ground) -> Iterator[Sight]:
    """From bytes to pairs of bytes."""
    yield Words(
        "A network computes with numbers, so a text must become numbers first. A computer has some already: every "
        "character has a number in Unicode, its code point, and UTF-8 spells that in one to four bytes."
    )
    rows = [(c, f"U+{ord(c):04X}", c.encode().hex(" "), len(c.encode())) for c in _OZ if c != " "]
    yield Table(header=("character", "code point", "UTF-8, hex", "bytes"), rows=rows)
    yield from _course(ground)
    yield from _ours(ground)
    yield from _pairs(ground)


def _course(ground: Ground) -> Iterator[Sight]:
    yield Words("The course numbers the characters that its book has, and no others:")
    yield Code.of(CourseEncoder)
    encoder = CourseEncoder(ground.text)
    numbers = encoder.encode("hello")
    yield Printed(f"{len(encoder.characters)} characters\nhello -> {numbers} -> {encoder.decode(numbers)}")
    try:
        encoder.encode("魔")
    except KeyError as error:
        yield Words(f"What the book has not, it cannot read: 魔 is a KeyError, {error}.")


def _ours(ground: Ground) -> Iterator[Sight]:
    tokenizer = ground.tokenizer
    assert isinstance(tokenizer, CharTokenizer), "the tour's data set is one of characters"
    ids = tokenizer.encode(_OZ)
    yield Words(
        "Ours numbers the frequent characters, the most frequent first, and has an id for each of the 256 bytes: what is "
        "rare is spelt in bytes, so that every text there is can be encoded. The last id ends a document."
    )
    yield Printed(f"{_OZ} -> {ids.tolist()}\n-> {tokenizer.decode(ids)}")
    first = "".join(c if c.isprintable() else "·" for c in tokenizer.characters[:20])
    yield Facts(
        values={
            "characters with an id": len(tokenizer.characters),
            "ids in all": tokenizer.vocabulary_size,
            "the first of them": repr(first),
            "bytes an id": tokenizer.dtype.itemsize,
        }
    )


def _pairs(ground: Ground) -> Iterator[Sight]:
    yield Words(
        f"Fewer and longer pieces make a text shorter for the network. GPT-2 begins with bytes, and joins the pair that is "
        f"most frequent, again and again. Here are {_PAIRS:,} ids learnt from this corpus:"
    )
    pairs = load_tokenizer(train_bpe([ground.text], _PAIRS))
    sentence = next((line for line in ground.text.splitlines() if len(line) > 40), ground.text[:60])[:60]
    yield Printed("|".join(pairs.decode([token]) for token in pairs.encode(sentence).tolist()))
    counts = {
        "UTF-8 bytes": len(ground.text.encode()),
        "characters": len(ground.tokenizer.encode(ground.text)),
        f"pairs, {_PAIRS:,} ids": len(pairs.encode(ground.text)),
    }
    yield Facts(title=f"The first {len(ground.text):,} characters of the corpus, in", values=counts)
    yield Words("Build one with: brickroad dataset build CORPUS --tokenizer char, gpt2 or bpe:4000.")
