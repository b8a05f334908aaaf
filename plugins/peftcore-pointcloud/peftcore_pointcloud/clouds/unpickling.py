"""Pickles of arrays, read without running anything that they name."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy._core import multiarray, numeric

from peftcore import DataError


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


def unpickled(path: Path) -> Any:
    """Return the arrays and containers of a pickle.

    Raises:
        DataError: it names anything but arrays, which is not looked up and not run; or it is
            damaged.
    """
    try:
        with path.open("rb") as file:
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
