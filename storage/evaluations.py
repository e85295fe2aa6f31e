"""What a network's predictions of a data set came to, kept by the bytes of both: the same question is answered once.

<folder>/<sha256 of the network's file>-<digest of the data set>.npz      numbers alone; no pickle
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from storage.files import atomic_file

EVALUATION_FORMAT: Final = 1
_FORMAT = "format_version"
_NAME_CHARACTERS: Final = 32

Arrays = dict[str, npt.NDArray[Any]]


def save_evaluation(
    folder: Path, network_sha256: str, dataset_digest: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Keeps the numbers of an evaluation; they appear only whole."""
    with atomic_file(_path(folder, network_sha256, dataset_digest)) as file:
        np.savez_compressed(file, allow_pickle=False, **{_FORMAT: np.array(EVALUATION_FORMAT)}, **arrays)


def read_evaluation(folder: Path, network_sha256: str, dataset_digest: str) -> Arrays | None:
    """The numbers of an evaluation, or None if there are none, or none that can be read: it is made anew then."""
    try:
        with np.load(_path(folder, network_sha256, dataset_digest), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile):
        return None
    return arrays if arrays.pop(_FORMAT, None) == EVALUATION_FORMAT else None


def _path(folder: Path, network_sha256: str, dataset_digest: str) -> Path:
    return folder / f"{network_sha256[:_NAME_CHARACTERS]}-{dataset_digest[:_NAME_CHARACTERS]}.npz"
