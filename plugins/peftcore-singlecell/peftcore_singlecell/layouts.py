"""Counts of cells as they are published: 10x's matrices and tables of CSV, a part at a time.

Zheng et al. 2017 (68,450 cells) is a folder of 10x with a table of labels; Baron et al. 2016 is a
table for each donor, with the cluster of each cell in it.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import pandas as pd
from anndata import io
from scipy.sparse import csr_matrix

from peftcore import DataError
from peftcore_singlecell.annotated import frame_of
from peftcore_singlecell.cells import Cells, is_by_genes, place_of, symbols_of

#: Cells of a part, and lines of a matrix that are read at once.
_CELLS, _LINES = 500, 2_000_000
_COLUMN = "celltype"


@dataclass(frozen=True)
class Part:
    """Some cells.

    Attributes:
        names: of the cells.
        counts: [cells, genes].
        columns: what is known of each cell besides, by column.
        done: how much of the whole is read with this part, from 0 to 1.
    """

    names: list[str]
    counts: csr_matrix
    columns: dict[str, list[Any]]
    done: float


@dataclass(frozen=True)
class Layout:
    """Cells that are read in parts.

    Attributes:
        genes: symbols.
        parts: the cells in order.
    """

    genes: list[str]
    parts: Iterator[Part]


def layout_of(place: Path, layer: str = "X") -> Layout:
    """Return the cells of a folder of 10x, of tables of CSV, or of an .h5ad.

    Raises:
        DataError: it is none of these.
    """
    if place.suffix == ".h5ad":
        return _annotated(place, layer)
    if place.is_dir() and _file(place, "matrix.mtx") is not None:
        return _tenx(place)
    tables = sorted(place.glob("*.csv*")) if place.is_dir() else [place]
    if tables and all(t.is_file() and t.name.endswith((".csv", ".csv.gz")) for t in tables):
        return _tables(tables)
    if not place.exists():
        raise DataError(f"{place}: no such file or folder.")
    raise DataError(
        f"{place} holds no cells that can be read: give an .h5ad, a folder of 10x (matrix.mtx,"
        " barcodes.tsv, and genes.tsv or features.tsv; gzip is read too), or tables of CSV with a"
        " row a cell."
    )


def _readable(name: str, parts: Iterator[Part]) -> Iterator[Part]:
    """Yield parts; what numpy, pandas and gzip say of a damaged file becomes a sentence."""
    try:
        yield from parts
    except (ValueError, EOFError, OSError, zlib.error) as error:
        lines = str(error).strip().splitlines()
        reason = (lines[-1] if lines else type(error).__name__).rstrip(".")
        raise DataError(f"{name}: not readable: {reason}.") from error


# --- 10x ---------------------------------------------------------------------------------------


def _tenx(folder: Path) -> Layout:
    """Read a matrix of genes by cells, sorted by cells, as Cell Ranger writes it."""
    matrix = _file(folder, "matrix.mtx")
    assert matrix is not None
    genes = [line[1] if len(line) > 1 else line[0] for line in _lines(folder, "genes", "features")]
    names = [line[0] for line in _lines(folder, "barcodes")]
    return Layout(genes, _readable(matrix.name, _of_triplets(matrix, len(genes), names)))


def _of_triplets(matrix: Path, genes: int, names: list[str]) -> Iterator[Part]:
    with _opened(matrix) as file:
        head, number = file.readline(), 1
        if not head.startswith("%%MatrixMarket matrix coordinate"):
            raise DataError(f"{matrix.name}:1: no matrix market file of coordinates.")
        line = "%"
        while line.startswith("%"):
            line, number = file.readline(), number + 1
        try:
            rows, columns, entries = map(int, line.split())
        except ValueError:
            raise DataError(f"{matrix.name}:{number}: no sizes of a matrix: {line!r}.") from None
        if (rows, columns) != (genes, len(names)):
            raise DataError(
                f"{matrix.name}:{number}: a matrix of {rows:,} genes and {columns:,} cells, but"
                f" {genes:,} genes and {len(names):,} cells are named beside it."
            )
        yield from _parts_of(file, matrix.name, number, (rows, columns, entries), names)


def _parts_of(
    file: IO[str], name: str, number: int, sizes: tuple[int, int, int], names: list[str]
) -> Iterator[Part]:
    """Yield cells whose entries are whole; those of the last one wait for the next lines."""
    genes, cells, entries = sizes
    kept = np.empty((0, 3))
    seen, begun = 0, 0
    read = pd.read_csv(file, sep=r"\s+", header=None, chunksize=_LINES, dtype=float)
    for chunk in read if entries else ():
        found = chunk.to_numpy()
        _check_entries(found, name, number + seen, (genes, cells))
        seen += len(found)
        found = np.concatenate([kept, found])
        if (np.diff(found[:, 1]) < 0).any():
            raise DataError(
                f"{name}: its entries are not sorted by cells, so that it cannot be read in parts."
                " Sort its lines by their second number."
            )
        last = seen == entries
        whole = cells if last else int(found[-1, 1]) - 1
        split = int(np.searchsorted(found[:, 1], whole + 1))
        for start in range(begun, whole, _CELLS):
            stop = min(start + _CELLS, whole)
            a, b = np.searchsorted(found[:split, 1], (start + 1, stop + 1))
            here = found[a:b]
            places = (here[:, 1].astype(int) - 1 - start, here[:, 0].astype(int) - 1)
            counts = csr_matrix((here[:, 2], places), shape=(stop - start, genes))
            yield Part(names[start:stop], counts, {}, stop / cells)
        kept, begun = found[split:], max(begun, whole)
    if seen != entries:
        raise DataError(f"{name}: {seen:,} entries of {entries:,}; the file is cut off.")


def _check_entries(found: Any, name: str, before: int, sizes: tuple[int, int]) -> None:
    inside = np.isfinite(found).all(1) & (found[:, :2] >= 1).all(1) & (found[:, :2] <= sizes).all(1)
    bad = np.flatnonzero(~inside | (found[:, 2] < 0))
    if len(bad):
        raise DataError(
            f"{name}:{before + int(bad[0]) + 1}: an entry of no gene or cell, or no count:"
            f" {found[bad[0]].tolist()}."
        )


def _lines(folder: Path, *stems: str) -> list[list[str]]:
    path = next((p for stem in stems if (p := _file(folder, f"{stem}.tsv")) is not None), None)
    if path is None:
        raise DataError(f"{folder} has no {' and no '.join(f'{stem}.tsv' for stem in stems)}.")
    with _opened(path) as file:
        return [line.rstrip("\r\n").split("\t") for line in file if line.strip()]


def _file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8")  # type: ignore[return-value]


# --- tables ------------------------------------------------------------------------------------

#: Columns of a table that are no genes, and what they are called in ``obs``.
_ABOUT = {"barcode": "barcode", "assigned_cluster": _COLUMN, _COLUMN: _COLUMN}


def _tables(paths: list[Path]) -> Layout:
    """Read tables with a row a cell: its name, what is known of it, and a count for each gene."""
    headers = [list(pd.read_csv(path, nrows=0).columns) for path in paths]
    genes = [name for name in headers[0][1:] if name not in _ABOUT]
    for path, header in zip(paths, headers, strict=True):
        if [name for name in header[1:] if name not in _ABOUT] != genes:
            raise DataError(
                f"{path.name}:1: other genes than {paths[0].name}, or in another order."
            )
    return Layout(genes, _readable(paths[0].parent.name, _of_tables(paths, genes)))


def _of_tables(paths: list[Path], genes: list[str]) -> Iterator[Part]:
    sizes = [path.stat().st_size for path in paths]
    for i, path in enumerate(paths):
        done, line = sum(sizes[: i + 1]) / sum(sizes), 2
        with pd.read_csv(path, chunksize=_CELLS, index_col=0) as chunks:
            for chunk in chunks:
                yield _of_chunk(chunk, genes, path.name, line, done)
                line += len(chunk)


def _of_chunk(chunk: pd.DataFrame, genes: list[str], name: str, line: int, done: float) -> Part:
    counts = chunk[genes].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~(np.isfinite(counts) & (counts >= 0)).all(1))
    if len(bad):
        raise DataError(f"{name}:{line + int(bad[0])}: a count is no number of 0 or more.")
    about = {new: chunk[old].tolist() for old, new in _ABOUT.items() if old in chunk}
    about["file"] = [name] * len(chunk)
    return Part([str(cell) for cell in chunk.index], csr_matrix(counts), about, done)


# --- anndata -----------------------------------------------------------------------------------


def _annotated(path: Path, layer: str) -> Layout:
    """Read a matrix by cells a part at a time; one by genes is turned as a whole."""
    frame = frame_of(path, "obs")
    with h5py.File(path) as file:
        by_genes = place_of(file, layer) if is_by_genes(file, layer) else ""
        turned = io.read_elem(file[by_genes]).tocsr() if by_genes else None
    cells = None if by_genes else Cells(path, layer)
    symbols = symbols_of(path, layer)

    def parts() -> Iterator[Part]:
        for start in range(0, len(frame), _CELLS):
            stop = min(start + _CELLS, len(frame))
            counts = turned[start:stop] if cells is None else _rows(cells, start, stop)
            here = frame.iloc[start:stop]
            columns = {str(name): here[name].tolist() for name in frame}
            yield Part([str(n) for n in here.index], counts, columns, stop / len(frame))

    return Layout(list(symbols), parts())


def _rows(cells: Cells, start: int, stop: int) -> csr_matrix:
    rows = [cells.row(number) for number in range(start, stop)]
    ends = np.cumsum([0, *(len(row.columns) for row in rows)])
    values = np.concatenate([row.values for row in rows])
    columns = np.concatenate([row.columns for row in rows])
    return csr_matrix((values, columns, ends), shape=(stop - start, len(cells.genes)))
