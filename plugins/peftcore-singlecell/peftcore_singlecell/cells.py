"""The matrix of an ``.h5ad``, row by row; no more than a block of it is ever in memory."""

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from peftcore import DataError, nearest
from peftcore_singlecell.annotated import frame_of

#: Rows that are read at once where one soon after another is asked for, and what soon is.
_BLOCK, _NEAR = 256, 16


@dataclass(frozen=True)
class Expression:
    """What one cell expresses.

    Attributes:
        columns: columns of the matrix that are not 0.
        values: what stands there.
    """

    columns: NDArray[np.int64]
    values: NDArray[np.float64]


class Cells:
    """One file, opened when its matrix is first read, and again in another process.

    The rows of sparse matrices are cut out of the arrays of the file, since scipy 1.17 no longer
    has what anndata's own indexing of them is built on.

    Args:
        path: the file.
        layer: ``X``, ``raw``, or the name of a layer.
        gene_column: column of ``var`` that holds symbols; its index, if not given.

    Attributes:
        path: the file.
        place: the same as a text, one for all rows.
        genes: symbols of the columns.

    Raises:
        DataError: it is no .h5ad, or has no such layer or column.
    """

    def __init__(self, path: Path, layer: str = "X", gene_column: str | None = None):
        self.path = path
        self.place = str(path)
        self.layer = layer
        names = frame_of(path, "obs").index.astype(str)
        self._names = names
        self._ambiguous = set(names[names.duplicated()]) if names.has_duplicates else set()
        self._process = -1
        self._file: Any = None
        self._first, self._last = 0, -1
        self._block: list[Expression] = []
        with h5py.File(path) as file:
            self._where = self._matrix_of(file)
        self.genes = symbols_of(path, layer, gene_column)

    def __len__(self) -> int:
        return len(self._names)

    def number(self, name: str, where: str) -> int:
        """Return which row a cell is.

        Raises:
            DataError: the file has no such cell, or several.
        """
        if name in self._ambiguous:
            raise DataError(
                f"{where}: {self.path.name} has the cell {name!r} more than once; make names unique"
                " with anndata's obs_names_make_unique()."
            )
        try:
            return int(self._names.get_loc(name))
        except KeyError:
            hint = nearest(name, self._names[:10_000])
            raise DataError(f"{where}: {self.path.name} has no cell {name!r}.{hint}") from None

    def row(self, number: int) -> Expression:
        """Return what a cell expresses; rows that are asked for in order are read in blocks."""
        if self._process != os.getpid():
            self._file, self._process, self._block = h5py.File(self.path), os.getpid(), []
        if self._first <= number < self._first + len(self._block):
            self._last = number
            return self._block[number - self._first]
        in_order, self._last = 0 < number - self._last <= _NEAR, number
        stop = min(number + _BLOCK, len(self)) if in_order else number + 1
        try:
            found = self._read(number, stop)
        except OSError as error:
            raise DataError(
                f"{self.path.name}:{number + 1}: the cell cannot be read; the file is damaged."
            ) from error
        if in_order:
            self._first, self._block = number, found
        return found[0]

    def _read(self, start: int, stop: int) -> list[Expression]:
        found = self._file[self._where]
        if isinstance(found, h5py.Dataset):
            return [_of_dense(row) for row in found[start:stop]]
        ends = found["indptr"][start : stop + 1].astype(np.int64)
        columns = found["indices"][ends[0] : ends[-1]]
        values = found["data"][ends[0] : ends[-1]]
        ends -= ends[0]
        return [
            Expression(columns[a:b].astype(np.int64), values[a:b].astype(np.float64))
            for a, b in pairwise(ends)
        ]

    def _matrix_of(self, file: Any) -> str:
        """Return where the matrix lies, and check that rows can be read out of it."""
        if not (place := place_of(file, self.layer)):
            has = [name for name in ("X", "raw") if place_of(file, name)]
            has += [str(name) for name in file.get("layers", ())]
            raise DataError(
                f"{self.path.name} has no layer {self.layer!r}.{nearest(self.layer, has)} It has:"
                f" {', '.join(has) or 'none'}."
            )
        if is_by_genes(file, self.layer):
            raise DataError(
                f"{self.path.name}: {self.layer} is stored by genes, so that each cell would be"
                f" searched for in all of it. Write it by cells: peftcore cells {self.path}"
                f" NEW.h5ad --layer {self.layer} --min-genes 0, and read that with"
                " task.layer: X."
            )
        found = file[place]
        rows = len(found) if isinstance(found, h5py.Dataset) else len(found["indptr"]) - 1
        if rows != len(self):
            raise DataError(
                f"{self.path.name}: {self.layer} has {rows:,} rows for {len(self):,} cells."
            )
        return place


def place_of(file: Any, layer: str) -> str:
    """Return where the matrix of a layer lies in an open file; nothing where there is none."""
    places = {"X": ("X",), "raw": ("raw/X", "raw.X")}.get(layer, (f"layers/{layer}",))
    return next((place for place in places if place in file), "")


def is_by_genes(file: Any, layer: str) -> bool:
    """Tell whether a layer is there and is stored by its columns."""
    found = file.get(place_of(file, layer)) if place_of(file, layer) else None
    attrs = {} if found is None else found.attrs
    kind = attrs.get("encoding-type", attrs.get("h5sparse_format", ""))
    return isinstance(found, h5py.Group) and str(kind) in ("csc_matrix", "csc")


def symbols_of(path: Path, layer: str, column: str | None = None) -> tuple[str, ...]:
    """Return the symbols of the columns of a layer.

    Args:
        path: the file.
        layer: as in :class:`Cells`.
        column: column of ``var`` that holds them; its index, if not given.

    Raises:
        DataError: there is no such column.
    """
    frame = frame_of(path, "raw/var" if layer == "raw" else "var")
    if column is None:
        return tuple(frame.index.astype(str))
    if column not in frame:
        names = [str(name) for name in frame]
        raise DataError(
            f"{path.name}: var has no column {column!r}.{nearest(column, names)} It has:"
            f" {', '.join(names) or 'none'}."
        )
    return tuple(frame[column].astype(str))


def _of_dense(row: Any) -> Expression:
    columns = np.flatnonzero(row)
    return Expression(columns.astype(np.int64), row[columns].astype(np.float64))
