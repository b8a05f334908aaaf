"""Columns on disk: parquet files, and folders that the library datasets saved."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from peftcore import DataError
from peftcore_train.data.lines import Found
from peftcore_train.data.rows import Row

#: What ``save_to_disk`` writes into the folder of one split.
_STATE = "state.json"


def parquet(path: Path) -> Found:
    """Read a parquet file; rows count from 1."""
    library = _library("pyarrow.parquet", path, extra="parquet")
    try:
        rows = library.read_table(path).to_pylist()
    except Exception as error:
        yield _unreadable(path.name, error)
        return
    yield from _rows(rows, path.name, str(path.parent))


def is_saved(folder: Path) -> bool:
    """Tell whether ``save_to_disk`` of the library datasets wrote a folder, with one split."""
    return (folder / _STATE).is_file()


def saved(folder: Path) -> Found:
    """Read a folder that ``save_to_disk`` wrote; class labels are told by name."""
    library = _library("datasets", folder, extra="datasets")
    try:
        data = library.load_from_disk(str(folder))
        names = {
            column: feature.names
            for column, feature in data.features.items()
            if isinstance(feature, library.ClassLabel)
        }
        rows = data.with_format(None).to_list()
    except Exception as error:
        yield _unreadable(folder.name, error)
        return
    yield from _rows(rows, folder.name, str(folder), names)


def _rows(
    rows: Sequence[dict[str, Any]], name: str, folder: str, names: Mapping[str, Sequence[str]] = {}
) -> Iterator[Row]:
    for number, values in enumerate(rows, 1):
        for column, labels in names.items():
            label = values[column]
            # the test split of many data sets has -1 for a label that is kept secret
            if isinstance(label, int) and 0 <= label < len(labels):
                values[column] = labels[label]
        yield Row(values, f"{name}:{number}", folder)


def _library(module: str, path: Path, *, extra: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise DataError(
            f"{path}: reading it needs {extra}: pip install 'peftcore-train[{extra}]'"
        ) from None


def _unreadable(name: str, error: Exception) -> DataError:
    lines = str(error).strip().splitlines()
    reason = (lines[0] if lines else type(error).__name__).rstrip(".")
    return DataError(f"{name}: not readable: {reason}.")
