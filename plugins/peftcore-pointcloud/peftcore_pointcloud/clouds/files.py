"""One cloud, from a file of its own or from a file of many."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from peftcore import DataError, nearest
from peftcore_pointcloud.clouds.unpickling import unpickled

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

#: Between the name of a file of many clouds and the number of one of them.
MARK = "#"
_MESH_POINTS, _MESH_SEED = 10_000, 0


def cloud_at(reference: str, folder: str, where: str) -> Tensor:
    """Return the points of a cloud, [N, 3], in single precision; normals are left out.

    Args:
        reference: a path, for a file of many clouds with the number of one: ``train.h5#17``.
        folder: the folder from which the path counts.
        where: the row, for messages.

    Raises:
        DataError: there is no such cloud, it is damaged, has no points, or some that are no
            numbers.
    """
    name, _, number = reference.partition(MARK)
    path = Path(folder, Path(name).expanduser())
    if not path.is_file():
        near = (p.name for p in path.parent.glob("*")) if path.parent.is_dir() else ()
        raise DataError(f"{where}: {path}: no such file.{nearest(path.name, near)}")
    suffix = path.suffix.lower()
    if suffix in MANY:
        values = _numbered(path, number, where)
    elif suffix in SINGLE:
        values = SINGLE[suffix](path, where)
    else:
        raise DataError(f"{where}: the suffix of {path.name} is none of {', '.join(KNOWN)}.")
    return _checked(values, reference, where)


def _checked(values: "NDArray[Any]", reference: str, where: str) -> Tensor:
    if values.dtype.kind not in "fiu" or values.ndim != 2 or values.shape[1] < 3:
        raise DataError(
            f"{where}: {reference} is of shape {values.shape} and type {values.dtype}; a cloud is a"
            " table of numbers with x, y and z first."
        )
    if not len(values):
        raise DataError(f"{where}: {reference} has no points.")
    points = torch.from_numpy(values[:, :3].astype("float32"))
    if not bool(torch.isfinite(points).all()):
        first = int((~torch.isfinite(points).all(1)).nonzero()[0])
        raise DataError(
            f"{where}: point {first + 1} of {reference} has coordinates that are no numbers:"
            f" {points[first].tolist()}."
        )
    return points


# --- files of many clouds ----------------------------------------------------------------------


def _numbered(path: Path, number: str, where: str) -> "NDArray[Any]":
    if path.suffix.lower() in (".h5", ".hdf5"):
        data = opened(path)["data"]
        found: NDArray[Any] = data[_place(number, len(data), path, where)]
        return found
    part, _, number = number.rpartition("/")
    clouds, _ = pickled(path, part)
    return clouds[_place(number, len(clouds), path, where)]


def _place(number: str, count: int, path: Path, where: str) -> int:
    if not number.isdecimal() or int(number) >= count:
        raise DataError(
            f"{where}: {path.name} holds {count} clouds, of which {number!r} is none. Write"
            f" {path.name}{MARK}0 for the first."
        )
    return int(number)


@lru_cache(maxsize=16)
def _h5(path: Path, size: int, changed: int, process: int) -> "h5py.File":
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path.name} is no h5 file that can be read: {error}.") from None
    data, label = file.get("data"), file.get("label")
    if not isinstance(data, h5py.Dataset) or not isinstance(label, h5py.Dataset):
        has = ", ".join(file) or "nothing"
        raise DataError(
            f"{path.name} has no data sets data and label; an h5 of clouds holds data, [n, points,"
            f" 3], and label, [n]. It holds: {has}."
        )
    if data.ndim != 3 or data.shape[2] < 3 or 0 in data.shape or len(label) != len(data):
        raise DataError(
            f"{path.name}: data is of shape {data.shape} and label of shape {label.shape}; clouds"
            " are data, [n, points, 3], with points, and label, [n]."
        )
    return file


def opened(path: Path) -> "h5py.File":
    """Return an h5 file of clouds, which stays open; clouds are read when they are asked for.

    Raises:
        DataError: it is no such file.
    """
    found = path.stat()
    # a process that was forked must not read through the handle of its parent
    return _h5(path, found.st_size, found.st_mtime_ns, os.getpid())


def pickled(path: Path, part: str = "") -> "tuple[list[NDArray[Any]], list[Any]]":
    """Return the clouds and labels of a released pickle, which is in memory as a whole.

    Args:
        path: a file of [list of clouds, list of labels], or of few-shot parts.
        part: ``train`` or ``test`` of few-shot parts.

    Raises:
        DataError: it is neither, or holds more than arrays.
    """
    found = path.stat()
    content = _pickle(path, found.st_size, found.st_mtime_ns)
    if isinstance(content, dict) and part in content:
        items = content[part]
        if all(isinstance(item, tuple) and len(item) == 3 for item in items):
            return [item[0] for item in items], [int(item[2]) for item in items]
    if isinstance(content, list) and len(content) == 2 and len(content[0]) == len(content[1]):
        return content[0], [int(getattr(label, "flat", [label])[0]) for label in content[1]]
    raise DataError(
        f"{path.name} is neither [clouds, labels] nor few-shot parts of (cloud, number, label)."
    )


@lru_cache(maxsize=4)
def _pickle(path: Path, size: int, changed: int) -> Any:
    return unpickled(path)


# --- files of one cloud ------------------------------------------------------------------------


def _text(path: Path, where: str) -> "NDArray[Any]":
    import numpy as np

    lines = path.read_text("utf-8", errors="replace").replace(",", " ").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if lines and lines[0].strip().isdecimal():
        lines = lines[1:]  # the number of points
    if not lines:
        return np.zeros((0, 3), "float32")
    try:
        found: NDArray[Any] = np.loadtxt(lines, dtype="float32", ndmin=2, comments=None)
    except ValueError as error:
        for number, line in enumerate(lines, 1):
            if len(line.split()) != len(lines[0].split()):
                raise DataError(
                    f"{where}: row {number} of {path.name} has {len(line.split())} numbers and the"
                    f" first one {len(lines[0].split())}."
                ) from None
        raise DataError(f"{where}: {path.name} is no table of numbers: {error}.") from None
    return found


def _numpy(path: Path, where: str) -> "NDArray[Any]":
    import numpy as np

    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{where}: {path.name} is no array that can be read: {error}.") from None
    return found


def _mesh(path: Path, where: str) -> "NDArray[Any]":
    """Return points of the surface of a mesh, always the same ones."""
    # seconds of imports
    from torch_geometric.io import read_off
    from torch_geometric.transforms import SamplePoints

    try:
        mesh = read_off(str(path))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_MESH_SEED)
            points: Tensor = SamplePoints(_MESH_POINTS)(mesh).pos
    except Exception as error:
        raise DataError(f"{where}: {path.name} is no mesh that can be read: {error}.") from None
    return points.numpy()


#: Readers of files of one cloud, by suffix.
SINGLE: dict[str, "Callable[[Path, str], NDArray[Any]]"] = {
    **dict.fromkeys((".txt", ".xyz", ".pts", ".csv"), _text),
    ".npy": _numpy,
    ".off": _mesh,
}
#: Suffixes of files of many clouds.
MANY = (".h5", ".hdf5", ".dat", ".pkl")
KNOWN = (*SINGLE, *MANY)
