"""Pickles of arrays, read without running anything that they name."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy._core import multiarray, numeric

from peftcore import DataError
from peftcore_train.progress import going_over

_MB = 1_000_000


def _latin1(text: str, encoding: str) -> bytes:
    """Return bytes as pickles of the protocols 0 to 2 hold them; no other codec is run."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the codec {encoding!r}")
    return text.encode("latin1")


#: What a pickle of arrays names, in files of numpy 1 and 2; nothing here takes a callable.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", multiarray._reconstruct),
            ("multiarray", "scalar", multiarray.scalar),
            ("numeric", "_frombuffer", numeric._frombuffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    """Knows numpy's arrays and Python's own containers, and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what makes an array.

        Raises:
            UnpicklingError: the pickle names anything else, whatever it is.
        """
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to things outside of the file."""
        raise pickle.UnpicklingError("a reference to something outside of it")


class _Read(io.RawIOBase):
    """A file that says how much of it is left to read."""

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        self._bytes = self._told = 0
        whole = range(path.stat().st_size // _MB)
        self._left = going_over(whole, f"reading {path.name}", unit="MB")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as a buffer holds, or those that are left."""
        found = self._file.readinto(buffer) or 0
        self._bytes += found
        while self._told <= self._bytes // _MB:
            self._told += 1
            next(self._left, None)
        return found

    def close(self) -> None:
        """Close the file, and what is said of it."""
        self._left.close()
        self._file.close()
        super().close()


def unpickled(path: Path) -> Any:
    """Return the arrays and containers of a pickle.

    Raises:
        DataError: it names anything but arrays, which is not looked up and not run; or it is
            damaged.
    """
    try:
        with io.BufferedReader(_Read(path), _MB) as file:
            return _Unpickler(file).load()
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path.name} names {error}, which is neither an array nor a list of some. Nothing of"
            " it was run; take the data from a file that you trust."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}.") from None
    except Exception as error:  # a damaged pickle raises whatever it likes
        raise DataError(f"{path.name} is no pickle that can be read: {error}.") from None
