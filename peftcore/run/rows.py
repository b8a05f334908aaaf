"""Which adapter serves each row of a batch, and taking rows out of what a module is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError

#: Arguments of these types hold no rows.
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, nn.Module)


class Rows:
    """Which adapter serves each row, as tensors on the device of the batch.

    Args:
        index: number of the adapter of each row, -1 for the bare base.
        buffers: gives the buffers of the model.
    """

    def __init__(self, index: Sequence[int], buffers: Callable[[], Iterable[Tensor]]):
        self.index = torch.tensor(index)
        self._buffers = buffers
        self._made: dict[tuple[int, torch.device], tuple[Tensor, list[Tensor]]] = {}
        self._whole: dict[tuple[int, torch.device], Tensor] = {}

    def of(self, x: Tensor, batch: int | None) -> tuple[Tensor, list[Tensor]]:
        """Return ([B] index, rows of each group, those without an adapter first).

        Args:
            x: what runs through a module; its first axis is the rows, or several for each of them.
            batch: number of rows of the model's call, where that is known.

        Raises:
            AttachError: the rows of x are not those of the batch.
        """
        count = x.shape[0] if x.dim() else 1
        key = (count, x.device)
        if batch is not None and count != batch:
            self._check_axis(x, batch)
        if key not in self._made:
            times, rest = divmod(count, len(self.index))
            if rest or not times:
                raise AttachError(
                    f"{len(self.index)} adapters are routed, but a call has {count} rows: the batch"
                    " is of another size, or the model computes something here once for all rows."
                )
            index = self.index.repeat_interleave(times).to(x.device)
            top = int(self.index.max())
            groups = [(index == i).nonzero()[:, 0] for i in range(-1, top + 1)]
            self._made[key] = (index, groups)
        return self._made[key]

    def whole(self, count: int, device: torch.device) -> Tensor:
        """Return the numbers of all rows; one tensor for each size of a batch."""
        key = (count, device)
        if key not in self._whole:
            self._whole[key] = torch.arange(count, device=device)
        return self._whole[key]

    @cached_property
    def constants(self) -> frozenset[int]:
        """Ids of the buffers of the model, which are no part of a batch."""
        return frozenset(map(id, self._buffers()))

    @staticmethod
    def _check_axis(x: Tensor, batch: int) -> None:
        if x.shape[0] % batch:
            raise AttachError(
                f"a module is given {x.shape[0]} rows where the model's call has {batch}, so that"
                " they cannot have adapters of their own there: its first axis is not the rows of"
                " the batch, or it computes something once for all of them. Leave it out with"
                " exclude, or activate one adapter at a time."
            )
        if x.dim() > 2 and x.shape[1] == batch:
            raise AttachError(
                f"a module is given a tensor of {tuple(x.shape)} where the model's call has {batch}"
                " rows, which may be its first axis or its second. If the model takes [tokens,"
                " rows, features], build it with rows first; if not, route another number of rows."
            )


def can_be_picked(
    values: Any, x: Tensor, batch: int, constants: frozenset[int], heads: set[int]
) -> bool:
    """Tell whether :func:`picked` takes the rows of a batch, and nothing else, out of arguments.

    Where it cannot be told whether the first axis of a tensor is rows, because tokens or heads are
    as many, or where rows may be inside something else, it is no.

    Args:
        values: the arguments.
        x: what runs through the module.
        batch: number of rows of the model's call.
        constants: ids of tensors that are no part of a batch.
        heads: numbers of heads that the module tells of.
    """
    count = x.shape[0]
    unclear = {*x.shape[1:-1], *heads}
    for value in _leaves(values):
        if not isinstance(value, Tensor):
            return False
        if value is x or value.dim() == 0 or is_constant(value, constants):
            continue
        first = value.shape[0]
        if first == count and first in unclear:
            return False
        if first != count and first > 1 and first % batch == 0:
            return False
    return True


def is_constant(value: Tensor, constants: frozenset[int]) -> bool:
    """Tell whether a tensor is a parameter or buffer of the model, or a part of one."""
    known = (value, value._base) if value._is_view() else (value,)
    return any(isinstance(v, nn.Parameter) or id(v) in constants for v in known)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield tensors, and what may hold rows in a way that is not known."""
    if type(value) in (tuple, list):
        for part in value:
            yield from _leaves(part)
    elif type(value) is dict:
        yield from _leaves(list(value.values()))
    elif not isinstance(value, _PLAIN):
        yield value


def picked(value: Any, rows: Tensor, count: int, constants: frozenset[int]) -> Any:
    """Take some rows of every tensor that has one entry for each row of the batch."""
    if isinstance(value, Tensor):
        of_rows = value.dim() > 0 and value.shape[0] == count and not is_constant(value, constants)
        return value[rows] if of_rows else value
    if type(value) in (tuple, list):
        return type(value)(picked(v, rows, count, constants) for v in value)
    if type(value) is dict:
        return {k: picked(v, rows, count, constants) for k, v in value.items()}
    return value


def heads_of(module: nn.Module) -> set[int]:
    """Return the numbers of heads that a module, its parts and their configurations tell of."""
    found: set[int] = set()
    for part in module.modules():
        for told in (part, part.__dict__.get("config")):
            settings: Mapping[str, Any] = getattr(told, "__dict__", {})
            found |= {v for k, v in settings.items() if "head" in k and isinstance(v, int)}
    return found


def together(outs: list[tuple[Tensor, Any]], count: int) -> Any:
    """Put what a module returned for each group of rows together.

    Args:
        outs: the rows of each group, with what was returned for them.
        count: number of all rows.

    Raises:
        AttachError: it holds something that is not of the rows, and differs.
    """
    first = outs[0][1]
    if isinstance(first, Tensor):
        return _joined([(rows, part) for rows, part in outs], count)
    if isinstance(first, tuple | list):
        columns = zip(*(part for _, part in outs), strict=True)
        groups = [r for r, _ in outs]
        return type(first)(
            together(list(zip(groups, column, strict=True)), count) for column in columns
        )
    if first is None:
        return None
    raise AttachError(
        f"rows cannot be routed through a module that returns {type(first).__name__}. Run the rows"
        " of each adapter by themselves, with activate."
    )


def _joined(outs: list[tuple[Tensor, Tensor]], count: int) -> Tensor:
    first = outs[0][1]
    if not all(part.dim() and part.shape[0] == len(rows) for rows, part in outs):
        if all(part.shape == first.shape and torch.equal(part, first) for _, part in outs):
            return first
        raise AttachError(
            f"rows cannot be routed through a module that returns a tensor of {tuple(first.shape)},"
            f" which is not of its {len(outs[0][0])} rows and differs from adapter to adapter."
            " Run the rows of each adapter by themselves, with activate."
        )
    if len({part.shape[1:] for _, part in outs}) > 1:
        raise AttachError(
            "rows of one batch came out in unequal lengths: some of their adapters add tokens."
            " Give such rows batches of their own."
        )
    whole = first.new_empty(count, *first.shape[1:])
    for rows, part in outs:
        whole = whole.index_copy(0, rows, part.to(whole.dtype))
    return whole
