"""What there is to read: the catalogue of corpora by name, and how each of them gets onto this disk."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from storage.errors import CorpusError
from storage.files import link_or_copy, named_errors, sha256_file, write_json
from storage.forms import InvalidUtf8, Normalisation, Reading, is_plain_text
from storage.known_files import KNOWN_FILES, KnownFiles, RemoteSignature
from storage.network import is_remote, shown
from storage.shards import Shard, find_shards
from storage.workspace import Workspace
from tasks.quality import QualityConfig
from tasks.stdlib_docs import pack_stdlib_docs
from tasks.tokenizers import bpe_size, tokenizer_path
from tasks.watch import Watch

Layout = Literal["python", "text", "archive of shards"]
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A corpus that can be asked for by name. `layout` says what the URL gives: one text, or a tar.xz of shards."""

    name: str
    what: str
    licence: str
    layout: Layout
    bytes: int = 0
    url: str = ""
    sha256: str = ""
    val_fraction: float = 0.1
    shards: int = 1
    documents: int = 0
    text_bytes: int = 0

    @property
    def file_name(self) -> str:
        """The name of the downloaded file."""
        return self.url.rsplit("/", 1)[-1]


CATALOGUE = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            name="stdlib-docs",
            what="the documentation inside Python itself; needs no download",
            licence="PSF-2.0",
            layout="python",
        ),
        CatalogueEntry(
            name="wizard-of-oz",
            what="Dorothy and the Wizard in Oz, the course's first text",
            licence="public domain",
            layout="text",
            bytes=237_733,
            text_bytes=237_733,
            url="https://raw.githubusercontent.com/Infatoshi/fcc-intro-to-llms/62fea5d/wizard_of_oz.txt",
            sha256="563fc0f0faf22236b612e61ad5c49e09e15484cbaa4271625485c6bfd9991741",
        ),
        CatalogueEntry(
            name="tiny-shakespeare",
            what="40,000 lines of Shakespeare, of char-rnn and nanoGPT",
            licence="public domain",
            layout="text",
            bytes=1_115_394,
            text_bytes=1_115_394,
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
        CatalogueEntry(
            name="openwebtext",
            what="8,013,769 web pages in 20,610 shards, 39.8 GB of text",
            licence="CC0-1.0 (the packaging; the pages have their own)",
            layout="archive of shards",
            bytes=12_880_027_468,
            url="https://zenodo.org/records/3834942/files/openwebtext.tar.xz",
            sha256="9fe39d154c5bc67da8c359415372b79510eb1e2edb0d035fe4f7fc3a732b9336",
            val_fraction=0.0005,  # nanoGPT's
            shards=20_610,
            documents=8_013_769,
            text_bytes=39_769_494_896,
        ),
    )
}

DEFAULT_CORPUS = "stdlib-docs"
TEXT_VAL_FRACTION = 0.1  # of a single text: a book has some dozens of documents
SHARDS_VAL_FRACTION = 0.02  # of documents in any other form: enough, and an exact loss stays cheap


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusConfig:
    """What to build a data set from, and how. The defaults are the reference run, which works offline.

    `corpus` is a name of the catalogue, a folder, a file or a glob, here or at an address such as `s3://…`. `name` is the data set's, by default the corpus's.
    `tokenizer` is char, gpt2, bpe:SIZE or the path of a tokenizer.json. `val_fraction` is by default the catalogue's, else 0.1 of a single text and 0.02 of anything else. `character_coverage` is the share of all characters that
    get an id of their own; the rest are spelt in bytes. `workers` is by default the number of CPUs, or as
    many as the memory budget has room for. `quality` leaves documents out, `normalisation` changes their blanks; nothing does by default.
    """

    corpus: str = DEFAULT_CORPUS
    name: str | None = None
    tokenizer: str = "char"
    val_fraction: float | None = None
    character_coverage: float = 0.9999
    invalid_utf8: InvalidUtf8 = "refuse"
    text_column: str = "text"
    tolerate_bad_shards: int = 0
    limit_shards: int | None = None
    workers: int | None = None
    memory_budget_bytes: int | None = None
    normalisation: Normalisation = "none"
    quality: QualityConfig = field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        if self.tokenizer not in ("char", "gpt2") and not bpe_size(self.tokenizer):
            tokenizer_path(self.tokenizer)
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must be above 0 and below 1")
        if not 0 < self.character_coverage <= 1:
            raise ValueError(
                f"character_coverage is {self.character_coverage}; it must be above 0, at most 1"
            )
        if self.name is not None and (self.name.startswith(".") or not set(self.name).isdisjoint("/\\@\0")):
            raise ValueError(
                f"name {self.name!r} must be a plain file name without / \\ @, not starting with a dot"
            )
        if self.tolerate_bad_shards < 0:
            raise ValueError(f"tolerate_bad_shards is {self.tolerate_bad_shards}; it must be at least 0")
        for setting, value in (
            ("limit_shards", self.limit_shards),
            ("workers", self.workers),
            ("memory_budget_bytes", self.memory_budget_bytes),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{setting} is {value}; it must be at least 1")

    @property
    def chosen_val_fraction(self) -> float:
        """The share of documents that go to the val split."""
        if self.val_fraction is not None:
            return self.val_fraction
        if entry := CATALOGUE.get(self.corpus):
            return entry.val_fraction
        if is_remote(self.corpus):
            shards = find_shards(self.corpus)
            is_book = _is_one_file(self.corpus, shards) and is_plain_text(shards[0])
        else:
            is_book = Path(self.corpus).expanduser().is_file() and is_plain_text(find_shards(self.corpus)[0])
        return TEXT_VAL_FRACTION if is_book else SHARDS_VAL_FRACTION

    @property
    def reading(self) -> Reading:
        """How bytes become documents."""
        return Reading(
            invalid_utf8=self.invalid_utf8, text_column=self.text_column, normalisation=self.normalisation
        )

    @property
    def shown_corpus(self) -> str:
        """The corpus as it may be shown: an address without its secrets."""
        return shown(self.corpus) if is_remote(self.corpus) else self.corpus

    @property
    def chosen_name(self) -> str:
        """The name of the data set: as given, else the corpus's, else that of its folder or file."""
        if self.name or self.corpus in CATALOGUE:
            return self.name or self.corpus
        if is_remote(self.corpus):
            last = unquote(self.shown_corpus.rstrip("/").rpartition("/")[2])
        else:
            last = Path(self.corpus).expanduser().absolute().name
        stem = last.split(".")[0]
        letters = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")
        return letters or "corpus"


def locate_shards(config: CorpusConfig, workspace: Workspace) -> list[Shard]:
    """The shards of a corpus, in its order, fetched or packed first if it is known by name only.

    Raises CorpusError, in one line, if there is nothing to read or the network does not give it; NetworkError if it does not
    list a remote corpus.
    """
    place = config.corpus
    if not Path(place).expanduser().exists() and (entry := CATALOGUE.get(place)):
        place = str(_fetched(entry, workspace))
    return find_shards(place)[: config.limit_shards]


def decided(config: CorpusConfig, shards: list[Shard], workspace: Workspace) -> CorpusConfig:
    """The configuration with its val fraction, so that no later step looks into the corpus for it.

    Of a single remote file its form is remembered as long as it does not change.
    """
    if config.val_fraction is not None or not is_remote(config.corpus):
        return replace(config, val_fraction=config.chosen_val_fraction)
    if not _is_one_file(config.corpus, shards):
        return replace(config, val_fraction=SHARDS_VAL_FRACTION)
    shard, known = shards[0], KnownFiles(workspace.documents / KNOWN_FILES, "form")
    signature = RemoteSignature(shard.compressed_bytes, shard.version)
    if not (found := known.find(shard.location, signature)):
        found = [{"is_plain_text": is_plain_text(shard)}]
        known.remember(shard.location, signature, found)
        known.save()
    is_book = found[0]["is_plain_text"]
    return replace(config, val_fraction=TEXT_VAL_FRACTION if is_book else SHARDS_VAL_FRACTION)


def _is_one_file(address: str, shards: list[Shard]) -> bool:
    """Whether an address is that of a file, not of a folder or a pattern that has one."""
    return len(shards) == 1 and unquote(shown(address)).rpartition("/")[2] == shards[0].name


def refuse_incomplete(config: CorpusConfig, shards: int, documents: int) -> None:
    """Raises CorpusError if a corpus of the catalogue has not as many shards and documents as it is known to have.

    Asked for in part, or with tolerance for bad shards, it need not be whole.
    """
    entry = CATALOGUE.get(config.corpus)
    if entry is None or not entry.documents or config.limit_shards is not None or config.tolerate_bad_shards:
        return
    if (shards, documents) != (entry.shards, entry.documents):
        raise CorpusError(
            f"{config.corpus}: has {shards:,} shards with {documents:,} documents, and {entry.shards:,} with "
            f"{entry.documents:,} are known to be in it; fetch it again, or name its folder to build what is there"
        )


def catalogue_folder(entry: CatalogueEntry, workspace: Workspace) -> Path:
    """Where the shards of a downloaded corpus are, once it is here."""
    return workspace.corpora / entry.name


def _fetched(entry: CatalogueEntry, workspace: Workspace) -> Path:
    with workspace.lock("corpora"):
        if entry.layout == "python":
            return pack_stdlib_docs(workspace.corpora)
        folder = catalogue_folder(entry, workspace)
        if not (folder / "fetched.json").is_file():
            archive = download(entry, workspace.corpora)
            folder.mkdir(exist_ok=True)
            name = f"{entry.name}.txt" if entry.layout == "text" else entry.file_name
            link_or_copy(archive, folder / name)
            write_json(folder / "fetched.json", {"url": entry.url, "sha256": entry.sha256})
            archive.unlink()  # not before the record is there: killed in between, nothing is downloaded twice
        return folder


def download(entry: CatalogueEntry, folder: Path) -> Path:
    """Downloads a corpus, going on where an earlier try ended, and checks its sha256; returns the file.

    Raises CorpusError with the local way out if the network does not give it, or gives something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / entry.file_name
    unfinished = path.with_name(path.name + ".unfinished")
    if not path.is_file():
        try:
            with Watch(f"downloading {entry.name}", total=entry.bytes, unit="bytes") as watch:
                _download_rest(entry, unfinished, watch)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise CorpusError(
                f"{entry.name}: cannot be downloaded from {entry.url} ({reason}); run it again to go on, or fetch it "
                f"where there is a network, then: brickroad run PATH"
            ) from None
        if sha256_file(unfinished) != entry.sha256:
            unfinished.unlink()
            raise CorpusError(
                f"{entry.name}: {entry.url} gave other bytes than the catalogue's sha256; not used"
            )
        unfinished.rename(path)
    return path


def _download_rest(entry: CatalogueEntry, unfinished: Path, watch: Watch) -> None:
    have = unfinished.stat().st_size if unfinished.is_file() else 0
    if have >= entry.bytes:
        return
    request = urllib.request.Request(entry.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # nosec B310 # addresses of the catalogue alone, which are https; the bytes are checked by sha256
        continues = have > 0 and response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if continues else 0
        watch.advance(have)
        with unfinished.open("ab" if continues else "wb") as file:
            for chunk in _chunks(response):
                with named_errors(unfinished):
                    file.write(chunk)
                watch.advance(len(chunk))
                have += len(chunk)
                if have > entry.bytes:
                    return  # other bytes than the catalogue's: the checksum says so
    if have < entry.bytes:  # http.client takes a cut connection for the end
        raise ConnectionError(f"the connection ended at byte {have:,} of {entry.bytes:,}")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read(_CHUNK_BYTES):
        yield chunk
