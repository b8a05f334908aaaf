"""The 18 classes of quaternary symmetry, after Sledzieski et al. 2023."""

import torch
from torch import Tensor

from peftcore import DataError

#: What each of the 18 classes holds; the last takes every other name.
SYMMETRIES: tuple[tuple[str, ...], ...] = (
    *((f"C{n}",) for n in range(1, 7)),
    tuple(f"C{n}" for n in range(7, 10)),
    tuple(f"C{n}" for n in range(10, 18)),
    *((f"D{n}",) for n in range(2, 6)),
    tuple(f"D{n}" for n in range(6, 13)),
    ("H",),
    ("O",),
    ("T",),
    ("I",),
    (),
)

_CLASS = {name: number for number, names in enumerate(SYMMETRIES) for name in names}


def symmetry_class(name: str) -> int:
    """Return the class, 0 to 17, of one symmetry such as ``C2``."""
    return _CLASS.get(name, len(SYMMETRIES) - 1)


def symmetry_target(label: str, *, released: bool = False) -> Tensor:
    """Return the target, [18], of a label such as ``C2`` or ``C2 D3``.

    Args:
        label: names of symmetries with blanks between them.
        released: add up names of one class as the released code does, so that ``C7 C8`` gives 2;
            otherwise a target is 0 or 1.

    Raises:
        DataError: the label is empty.
    """
    names = label.split()
    if not names:
        raise DataError("a symmetry label is empty; write at least one, such as C1.")
    target = torch.zeros(len(SYMMETRIES))
    for name in names:
        target[symmetry_class(name)] += 1
    return target if released else target.clamp(max=1)
