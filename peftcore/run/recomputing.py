"""Which checkpointed parts of a model a call is in, in their forward and in recomputation.

Torch tells a module nothing of that, so its own frames on the stack are asked; both kinds of
``torch.utils.checkpoint`` keep one object for a part, from its forward to its recomputation.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch.utils.checkpoint

_FILE = torch.utils.checkpoint.__file__
#: Attribute in which a part keeps what ran in it, by the holder of a model.
_RAN = "_peftcore_ran"


def parts() -> list[Any]:
    """Return the objects of the checkpointed parts around this call, innermost first."""
    found: list[Any] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == _FILE:
            part = _part(frame.f_locals)
            if part is not None and not any(part is other for other in found):
                found.append(part)
        frame = frame.f_back
    return found


def _part(names: dict[str, Any]) -> Any:
    if isinstance(names.get("ctx"), torch.autograd.function.BackwardCFunction):
        return names["ctx"]  # of reentrant checkpointing, forward and backward
    if "gen" in names:  # forward of the other kind
        frame = names["gen"].gi_frame
        return None if frame is None else frame.f_locals.get("new_frame")
    part = names.get("frame")  # its recomputation
    return part if isinstance(part, torch.utils.checkpoint._CheckpointFrame) else None


def in_backward() -> bool:
    """Tell whether this thread is inside a backward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def in_reentrant() -> bool:
    """Tell whether the backward pass that runs is that of one reentrantly checkpointed part."""
    return any(isinstance(part, torch.autograd.function.BackwardCFunction) for part in parts())


def kept(part: Any, key: object) -> Any:
    """Return what was kept for a model in a part; None where nothing was."""
    return getattr(part, _RAN, {}).get(id(key))


def keep(part: Any, key: object, value: Any) -> None:
    """Keep something for a model in a part."""
    if not hasattr(part, _RAN):
        setattr(part, _RAN, {})
    getattr(part, _RAN).setdefault(id(key), value)
