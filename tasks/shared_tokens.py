"""Tokens on their way through a store: from workers that have a workspace of their own, to the build that joins them.

What is sent is named by all that its bytes depend on (stored text, documents left out, tokenizer, split, program), with a record
that is written last. So a build that was killed, or another one, does not have it made again.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from storage.blocks import FileRange
from storage.documents.parts import DocumentPart
from storage.documents.rows import RowRange
from storage.files import crc32_file, fingerprint
from storage.store import Store
from storage.tokens import SPLIT_RULE, SPLITS, SplitFacts, TokenPart
from tasks.engines.site import program
from tasks.tokenizers import TokenizerFile

FOLDER = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """An object, and what proves that a file is the same."""

    key: str
    bytes: int
    crc32: int

    @classmethod
    def put(cls, path: Path, key: str, store: Store) -> Self:
        """Puts a file into the store."""
        store.put(path, key)
        return cls(key=key, bytes=path.stat().st_size, crc32=crc32_file(path))

    def bring(self, path: Path, store: Store) -> None:
        """Fetches the file to `path`."""
        store.fetch(self.key, path, size=self.bytes, checksum=self.crc32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentPart:
    """The tokens of a stored shard in the store, and the rows of its documents."""

    train: SplitFacts
    val: SplitFacts
    train_tokens: SentFile
    val_tokens: SentFile
    rows: SentFile

    @classmethod
    def put(cls, part: TokenPart, key: str, store: Store) -> Self:
        """Sends a part that was just made; the record goes last."""
        paths = {
            "train_tokens": part.train_tokens.path,
            "val_tokens": part.val_tokens.path,
            "rows": part.rows.path,
        }
        files = {name: SentFile.put(path, f"{key}.{name}", store) for name, path in paths.items()}
        sent = cls(train=part.train, val=part.val, **files)
        store.write(f"{key}.json", json.dumps(asdict(sent)).encode())
        return sent

    @classmethod
    def find(cls, key: str, store: Store) -> Self | None:
        """What was sent under that key, if it was sent whole."""
        content = store.read(f"{key}.json")
        if content is None:
            return None
        value: dict[str, Any] = json.loads(content)
        facts = {split: SplitFacts(**value[split]) for split in SPLITS}
        files = {name: SentFile(**value[name]) for name in ("train_tokens", "val_tokens", "rows")}
        return cls(**facts, **files)  # type: ignore[arg-type]  # each of the two is of one kind

    def bring(self, path: Path, store: Store) -> TokenPart:
        """The part here, as if it had been made here: files beside `path`, which go when they have been joined."""
        train, val, rows = (path.with_name(f"{path.name}.{name}") for name in (*SPLITS, "rows"))
        for sent, place in ((self.train_tokens, train), (self.val_tokens, val), (self.rows, rows)):
            sent.bring(place, store)
        return TokenPart(
            train=self.train,
            val=self.val,
            train_tokens=FileRange(path=train, start=0, bytes=self.train_tokens.bytes),
            val_tokens=FileRange(path=val, start=0, bytes=self.val_tokens.bytes),
            rows=RowRange(path=rows, start=0, count=self.train.documents + self.val.documents),
            is_transient=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTokens:
    """Where the tokens of one encoding are sent, and what a worker needs to make them beside the texts."""

    store: Store
    folder: str
    tokenizer: SentFile
    fast: SentFile | None

    @classmethod
    def of(cls, tokenizer: TokenizerFile, val_fraction: float, store: Store) -> Self:
        """Sends the tokenizer."""
        identity = [program(), tokenizer.fingerprint, tokenizer.encoder, val_fraction, SPLIT_RULE]
        folder = f"{FOLDER}/{fingerprint(identity)[:32]}"
        fast = tokenizer.fast_path
        return cls(
            store=store,
            folder=folder,
            tokenizer=SentFile.put(tokenizer.path, f"{folder}/tokenizer", store),
            fast=SentFile.put(fast, f"{folder}/fast", store) if fast.is_file() else None,
        )

    def bring_tokenizer(self, tokenizer: TokenizerFile) -> None:
        """Sees to it that the files of the tokenizer are here."""
        for sent, path in ((self.tokenizer, tokenizer.path), (self.fast, tokenizer.fast_path)):
            if sent and not (path.is_file() and path.stat().st_size == sent.bytes):
                sent.bring(path, self.store)

    def key(self, part: DocumentPart) -> str:
        """Under which the tokens of a part are, or will be."""
        if part.kept is None:
            return f"{self.folder}/{part.path.stem}"
        return f"{self.folder}/{part.path.stem}-{hashlib.sha256(part.kept.read_bytes()).hexdigest()[:32]}"

    def send_kept(self, part: DocumentPart) -> SentFile | None:
        """Sends word of which documents of a part stay, if some do not."""
        return SentFile.put(part.kept, f"{self.key(part)}.kept", self.store) if part.kept else None
