"""The errors of the disk: what was wrong, where, and the way out, in one line.

StorageError
  CorpusError        there is nothing to read where the caller pointed
  NetworkError       a file behind a network cannot be had, or not whole; it may be fine
  ShardError         one shard is truncated, corrupt, or not what it says; another may be fine
  DatasetError       token files are missing, damaged, or do not match their manifest
    NoSuchDatasetError   nothing of that name is here
  StoreError         an object of a store is missing, damaged, or not what its record says
  CheckpointError    a checkpoint is missing, damaged, or does not match its record
  JournalHeldError   another process that lives is writing this journal
"""

from typing import Any


class StorageError(Exception):
    """Root of everything that can be wrong with files. Its text is one line for the user."""


class CorpusError(StorageError):
    """Nothing to read: a missing folder, an empty one, no documents."""


class PlacedError(StorageError):
    """Something is wrong at one place: `place` names it and `reason` says why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason

    def __reduce__(self) -> tuple[type["PlacedError"], tuple[Any, ...]]:
        return type(self), (self.place, self.reason)


class NetworkError(PlacedError):
    """A file behind a network did not come, or not whole, after all tries. It says nothing about the file's content.

    `can_heal` tells whether another try, later, may have it.
    """

    def __init__(self, place: str, reason: str, can_heal: bool = False) -> None:
        super().__init__(place, reason)
        self.can_heal = can_heal

    def __reduce__(self) -> tuple[type["NetworkError"], tuple[Any, ...]]:
        return type(self), (self.place, self.reason, self.can_heal)


class ShardError(PlacedError):
    """One shard cannot be trusted; retrying cannot heal it."""


class Malformed(Exception):
    """Why a stream of bytes cannot be a shard; whoever knows its path makes a ShardError of it."""


class DatasetError(StorageError):
    """A data set is not there, is not finished, or its bytes do not match its manifest."""


class NoSuchDatasetError(DatasetError):
    """There is no data set of that name here; there may be one elsewhere."""


class StoreError(PlacedError):
    """An object of a store is not there, or not as it was recorded; fetching it again cannot heal it."""


class CheckpointError(StorageError):
    """A checkpoint is not there, is not finished, or its bytes do not match its record."""


class JournalHeldError(StorageError):
    """Another process, which lives, is writing or telling this journal."""
