"""Stored text to token ids by workers that have a workspace of their own: the tokens come back through the store."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from storage.documents.parts import DocumentPart
from storage.files import PARTIAL_SUFFIX
from storage.tokens import TokenPart
from tasks.encode import PARTS_AT_ONCE, Encoding, PartToEncode, encode_parts
from tasks.shared_tokens import SentFile, SentPart, SharedTokens
from tasks.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class PartToSend:
    """A stored shard, and in the store which of its documents stay, if some do not."""

    part: DocumentPart
    kept: SentFile | None


def encode_afar(
    parts: Sequence[PartToEncode], encoding: Encoding, shared: SharedTokens, workers: Workers
) -> list[TokenPart]:
    """The tokens of stored texts, part by part: fetched, as soon as a worker has sent them, or because one did so before."""
    encoded: list[TokenPart] = []
    for start in range(0, len(parts), PARTS_AT_ONCE):
        some = parts[start : start + PARTS_AT_ONCE]
        sent = {each.number: SentPart.find(shared.key(each.part), shared.store) for each in some}
        missing = [each for each in some if not sent[each.number]]
        if missing:
            to_send = [PartToSend(part=each.part, kept=shared.send_kept(each.part)) for each in missing]
            made = workers.run(send_parts, to_send, encoding, shared, workers.resident_limit_bytes)
            sent |= {each.number: one for each, one in zip(missing, made, strict=True)}
        found = ((number, one) for number, one in sent.items() if one)
        encoded += [one.bring(encoding.folder / f"{number:06d}", shared.store) for number, one in found]
    return encoded


def send_parts(
    parts: Sequence[PartToSend], encoding: Encoding, shared: SharedTokens, resident_limit_bytes: int
) -> list[SentPart]:
    """The tokens of some stored shards, as a worker makes them and puts them into the store."""
    shared.bring_tokenizer(encoding.tokenizer)
    sent = []
    workspace = encoding.folder.parent.parent  # not its tokens: a build that begins there removes all of them
    with tempfile.TemporaryDirectory(dir=workspace, prefix=".", suffix=PARTIAL_SUFFIX) as folder:
        own = replace(encoding, folder=Path(folder))
        for each in parts:
            part = each.part
            if each.kept:
                each.kept.bring(own.folder / "kept", shared.store)
                part = replace(part, kept=own.folder / "kept")
            (tokens,) = encode_parts([PartToEncode(number=0, part=part)], own, resident_limit_bytes)
            sent.append(SentPart.put(tokens, shared.key(part), shared.store))
    return sent
