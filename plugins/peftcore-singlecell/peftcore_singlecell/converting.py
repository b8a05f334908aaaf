"""Writing cells of any layout as an ``.h5ad`` by cells, in bounded memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import io
from scipy.sparse import csr_matrix

from peftcore import ConfigError, DataError, nearest
from peftcore_singlecell.layouts import Layout, Part


def write_cells(
    layout: Layout,
    output: Path,
    *,
    min_genes: int = 0,
    labels: dict[str, str] | None = None,
    tick: Callable[[float], Any] = lambda done: None,
) -> tuple[int, int]:
    """Write cells as an .h5ad whose matrix is stored by cells.

    Args:
        layout: the cells.
        output: a new file; it appears whole or not at all.
        min_genes: leave cells out that express fewer genes.
        labels: name of a cell to its type, which becomes ``celltype``.
        tick: called with how much is done, from 0 to 1.

    Returns:
        How many cells were written, and how many were left out.

    Raises:
        DataError: a cell has no label, or the layout is damaged.
        ConfigError: the file exists.
    """
    if output.exists():
        raise ConfigError(f"{output} exists; name a new file, or take this one away.")
    part_file = output.with_name(f".{output.name}.part")
    names: list[str] = []
    columns: dict[str, list[Any]] = {}
    left_out = 0
    try:
        with h5py.File(part_file, "w") as file:
            matrix = _begun(file, layout.genes)
            for part in layout.parts:
                kept = np.flatnonzero(part.counts.getnnz(1) >= min_genes)
                left_out += len(part.names) - len(kept)
                _take(part, kept, names, columns, labels)
                _append(matrix, part.counts[kept].astype(np.float32))
                tick(part.done)
            matrix.attrs["shape"] = np.array([len(names), len(layout.genes)])
            io.write_elem(file, "obs", table(names, columns))
        part_file.replace(output)
    finally:
        part_file.unlink(missing_ok=True)
    return len(names), left_out


def _begun(file: h5py.File, genes: Sequence[str]) -> h5py.Group:
    """Begin a file with an empty matrix, as anndata writes one."""
    nothing = csr_matrix((0, len(genes)), dtype=np.float32)
    io.write_elem(file, "/", anndata.AnnData(nothing, table([]), table(genes)))
    group = file["X"]
    for name, kind in (("data", "f4"), ("indices", "i4"), ("indptr", "i8")):
        del group[name]
        group.create_dataset(
            name, (int(name == "indptr"),), kind, maxshape=(None,), chunks=(65_536,)
        )
    return group


def _append(matrix: h5py.Group, rows: csr_matrix) -> None:
    before = len(matrix["data"])
    for name, values in (
        ("data", rows.data),
        ("indices", rows.indices),
        ("indptr", rows.indptr[1:] + before),
    ):
        held = matrix[name]
        end = len(held)
        held.resize((end + len(values),))
        held[end:] = values


def _take(
    part: Part, kept: Any, names: list[str], columns: dict[str, list[Any]], labels: Any
) -> None:
    """Add what is known of the cells that are kept."""
    found = {name: [values[i] for i in kept] for name, values in part.columns.items()}
    here = [part.names[i] for i in kept]
    if labels is not None:
        found["celltype"] = [_label_of(name, labels) for name in here]
    if names and found.keys() != columns.keys():
        raise DataError("the tables have other columns beside the genes than the first one.")
    names += here
    for name, values in found.items():
        columns.setdefault(name, []).extend(values)


def _label_of(name: str, labels: dict[str, str]) -> str:
    if name not in labels:
        raise DataError(f"--labels has no cell {name!r}.{nearest(name, list(labels)[:10_000])}")
    return labels[name]


def table(names: Sequence[str], columns: Mapping[str, Sequence[Any]] = {}) -> pd.DataFrame:
    """Return a table that anndata can write: texts are objects, and columns of them categories.

    anndata 0.12 writes none of the texts that pandas 3 makes by itself.
    """
    frame = pd.DataFrame(index=pd.Index(list(names), dtype=object))
    for name, values in columns.items():
        column = pd.Series(list(values), dtype=object)
        texts = sorted({value for value in values if isinstance(value, str)})
        if texts:
            kinds = pd.CategoricalDtype(pd.Index(texts, dtype=object))
            frame[name] = pd.Categorical(column, dtype=kinds)
        else:
            frame[name] = column.infer_objects().to_numpy()
    return frame


def read_labels(path: Path, cell: str | None, column: str | None) -> dict[str, str]:
    """Read a table of types: a column with the name of a cell, and one with its type.

    Raises:
        DataError: it has no such columns.
    """
    if not path.is_file():
        raise DataError(f"--labels {path}: no such file.")
    frame = pd.read_csv(path, sep="," if ".csv" in path.name else "\t", dtype=str)
    chosen = []
    for given, usual, option in (
        (cell, ("barcodes", "barcode", "cell"), "--cell-column"),
        (column, ("celltype", "label", "assigned_cluster"), "--label-column"),
    ):
        found = given if given is not None else next((u for u in usual if u in frame), None)
        if found is None or found not in frame:
            has = ", ".join(map(str, frame.columns))
            hint = nearest(found or "", [str(c) for c in frame.columns])
            raise DataError(
                f"{path.name} has no column {found or usual[0]!r}.{hint} Name it with {option}; it"
                f" has: {has}."
            )
        chosen.append(frame[found].tolist())
    return dict(zip(*chosen, strict=True))
