"""Rows of ``.h5ad``, the format of anndata: one for each observation; its matrix stays on disk."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
from anndata import io

from peftcore import DataError
from peftcore_train.data import Found, Row
from peftcore_train.progress import going_over


class Observation(Mapping[str, Any]):
    """The columns of one observation; a value is taken out of its column when it is asked for.

    Args:
        columns: name to values of all observations.
        number: which observation, from 0.
    """

    __slots__ = ("_columns", "number")

    def __init__(self, columns: Mapping[str, Any], number: int):
        self._columns = columns
        self.number = number

    def __getitem__(self, name: str) -> Any:
        column = self._columns[name]
        if isinstance(column, str):
            return column
        value = column[self.number]
        if isinstance(value, str):
            return value
        plain = value.item() if hasattr(value, "item") else value
        return None if plain is None or plain != plain else plain  # NaN stands for a missing value

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def h5ad(path: Path) -> Found:
    """Read the observations of a file; they count from 1, and their columns are those of ``obs``.

    Besides, ``cells`` is the name of the file and ``cell`` that of the observation, so that a row
    says where it is in the matrix.
    """
    try:
        frame = frame_of(path, "obs")
    except DataError as error:
        yield error
        return
    columns = {"cells": path.name, "cell": frame.index.astype(str).array}
    columns |= {str(name): frame[name].array for name in frame if name not in columns}
    folder = str(path.parent)
    for number in going_over(range(len(frame)), f"reading {path.name}", unit="observations"):
        yield Row(Observation(columns, number), f"{path.name}:{number + 1}", folder)


def frame_of(path: Path, name: str) -> Any:
    """Return ``obs`` or ``var`` of a file as a table of pandas; no matrix is read.

    Args:
        path: the file.
        name: ``obs``, ``var``, or ``raw/var``.

    Raises:
        DataError: the file is no .h5ad, is cut off, or lacks the table.
    """
    try:
        with h5py.File(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what older versions of the format had elsewhere
            if isinstance(file.get(name), h5py.Group):
                return io.read_elem(file[name])
            if isinstance(file.get("obs"), h5py.Dataset):
                return _of_old_file(path, name)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        raise DataError(f"{path.name}: not readable as .h5ad: {reason}.") from None
    raise DataError(f"{path.name}: not readable as .h5ad: it has no {name}.")


def _of_old_file(path: Path, name: str) -> Any:
    """Return a table of a file from before anndata 0.7, which keeps names of categories apart."""
    data = anndata.read_h5ad(path, backed="r")
    try:
        return data.raw.var if name == "raw/var" else getattr(data, name)
    finally:
        data.file.close()
