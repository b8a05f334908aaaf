"""A fingerprint of the base, so that an adapter is not put on another one unnoticed.

Of every row of every tensor two values are looked at, in columns that differ from row to row: a
row that was added, a block that was replaced and a low-rank change are all seen, and 7 billion
parameters take a fraction of the time in which they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

#: Blocks of rows whose sums are kept; the last one holds the end of the tensor alone.
_BLOCKS = 8
_TAIL = 64
#: Steps, prime, by which the columns go on from row to row.
_STEPS = (7919, 104_729)


class Fingerprint(BaseModel):
    """What is stored of a base.

    Attributes:
        parameters: number of its parameters, statistics of norms included.
        tensors: number of its tensors.
        layout: digest of their names and shapes.
        dtypes: digest of their dtypes.
        values: digest of the values looked at, in their own dtypes.
        sums: by tensor, the sum of these values in each block of rows, for comparing dtypes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    tensors: int
    layout: str
    dtypes: str
    values: str
    sums: dict[str, list[float]]


@dataclass(frozen=True)
class Looked:
    """The values looked at in one tensor.

    Attributes:
        values: [rows, 2], in the dtype of the tensor.
        dtype: that dtype.
    """

    values: Tensor
    dtype: torch.dtype

    def blocks(self) -> Iterator[Tensor]:
        """Yield the values of each block of rows, in double precision."""
        rows = len(self.values)
        tail = min(_TAIL, rows)
        wide = self.values.detach().to(torch.float64)
        head = wide[: rows - tail]
        if len(head):
            yield from head.tensor_split(min(_BLOCKS - 1, len(head)))
        yield wide[rows - tail :]


def fingerprint(tensors: Mapping[str, Tensor]) -> Fingerprint:
    """Return the fingerprint of a base.

    Args:
        tensors: its parameters and the statistics of its norms, by name.
    """
    lines, dtypes, sums, numel = [], [], {}, 0
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        lines.append(f"{name}:{tuple(tensor.shape)}")
        dtypes.append(str(tensor.dtype))
        numel += tensor.numel()
        if tensor.is_meta or not tensor.numel():
            continue
        found = look(tensor)
        digest.update(found.values.contiguous().view(torch.uint8).numpy().tobytes())
        if tensor.is_floating_point():
            sums[name] = [float(f"{block.sum().item():.6g}") for block in found.blocks()]
    return Fingerprint(
        parameters=numel,
        tensors=len(lines),
        layout=_short("\n".join(lines).encode()),
        dtypes=_short("\n".join(dtypes).encode()),
        values=digest.hexdigest()[:32],
        sums=sums,
    )


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def look(tensor: Tensor) -> Looked:
    """Look at two values of every row of a tensor, on the CPU."""
    rows = tensor.reshape(len(tensor), -1) if tensor.dim() > 1 else tensor.reshape(-1, 1)
    count, width = rows.shape
    if width == 1:
        return Looked(rows.expand(-1, 2).cpu(), tensor.dtype)
    number = torch.arange(count, device=tensor.device)
    columns = torch.stack([number * step % width for step in _STEPS], 1)
    return Looked(rows.gather(1, columns).cpu(), tensor.dtype)


def difference(saved: Fingerprint, here: Fingerprint, tensors: Mapping[str, Tensor]) -> str:
    """Say in one phrase how two bases differ; an empty string where they do not.

    Bases of other dtypes are the same where their sums agree within the rounding of the coarser.

    Args:
        saved: of the base that an adapter was trained on.
        here: of the base at hand.
        tensors: those of the base at hand.
    """
    if saved.layout != here.layout:
        return (
            f"its base has {saved.tensors} tensors with {saved.parameters:,} parameters,"
            f" this model has {here.tensors} with {here.parameters:,} (or other names)"
        )
    if saved.dtypes == here.dtypes and saved.values == here.values:
        return ""
    changed = [
        name for name, sums in saved.sums.items()
        if name in tensors and not _agree(sums, tensors[name], exact=saved.dtypes == here.dtypes)
    ]  # fmt: skip
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        rows = _rows(saved.sums[changed[0]], tensors[changed[0]])
        added = ". Rows that were added to an embedding belong into modules_to_save" if rows else ""
        differ = "differ" if more else "differs"
        return (
            "its base has the same shapes but other weights:"
            f" {changed[0]}{more} {differ}{rows}{added}"
        )
    if saved.dtypes == here.dtypes:
        return "its base has the same shapes but other weights"
    return ""


def changed_tensors(saved: Fingerprint, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors that two bases share by name and whose values differ.

    Args:
        saved: of the base that an adapter was trained on.
        tensors: those of the base at hand, which may have another head.
    """
    return [
        name for name, sums in saved.sums.items()
        if name in tensors and not _agree(sums, tensors[name], exact=False)
    ]  # fmt: skip


def _agree(sums: Sequence[float], tensor: Tensor, *, exact: bool) -> bool:
    return all(_close(s, block, exact=exact) for s, block in zip(sums, look(tensor).blocks()))  # noqa: B905


def _close(expected: float, block: Tensor, *, exact: bool) -> bool:
    here = block.sum().item()
    if exact:
        return float(f"{here:.6g}") == expected
    # each value may be off by the rounding of bf16, the coarsest dtype, in either direction
    noise = 2.0**-8 * float(block.square().sum().sqrt())
    return abs(here - expected) <= 1.5 * noise + 1e-5 * abs(expected) + 1e-12


def _rows(sums: Sequence[float], tensor: Tensor) -> str:
    """Say that only the end of a tensor differs, where that is so."""
    blocks = list(look(tensor).blocks())
    same = [_close(s, b, exact=False) for s, b in zip(sums, blocks)]  # noqa: B905
    alone = len(same) > 1 and all(same[:-1]) and not same[-1]
    return f" in the last {len(blocks[-1])} rows alone" if alone else ""


def described(found: Any) -> str:
    """Return what tells a base from others, for people."""
    return f"{found['parameters']:,} parameters, values {found['values'][:8]}"
