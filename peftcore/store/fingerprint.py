"""A fingerprint of the base, so that an adapter is not put on another one unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.model.walk import base_modules

_SAMPLES = 16


def fingerprint(
    model: nn.Module, leave_out: Container[str], parked: Mapping[tuple[int, str], Tensor]
) -> dict[str, Any]:
    """Return names, shapes and a sampled digest of the base's parameters.

    Values are compared as bf16, so that a base loaded in fp32 and in bf16 are the same base.

    Args:
        model: the model, with or without adapters.
        leave_out: parameter names that the adapter brings itself.
        parked: (id of a module, name of a parameter) to the base's value, where an adapter has put
            its own into the module.
    """
    lines: list[str] = []
    samples: list[Tensor] = []
    numel = 0
    for path, module, _ in base_modules(model):
        for leaf, parameter in module._parameters.items():
            name = f"{path}.{leaf}" if path else leaf
            if parameter is None or name in leave_out:
                continue
            value = parked.get((id(module), leaf), parameter).detach()
            lines.append(f"{name}:{tuple(value.shape)}")
            numel += value.numel()
            samples.append(_sample(value))
    digest = hashlib.sha256()
    if samples:
        digest.update(torch.cat(samples).view(torch.int16).cpu().numpy().tobytes())
    return {
        "parameters": numel,
        "tensors": len(lines),
        "layout": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32],
        "values": digest.hexdigest()[:32],
    }


def _sample(value: Tensor) -> Tensor:
    flat = value.reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    return flat[::step][:_SAMPLES].to(torch.float32).to(torch.bfloat16)


def difference(saved: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in one phrase how two bases differ; an empty string where they do not."""
    if saved["layout"] != here["layout"]:
        return (
            f"its base has {saved['tensors']} tensors with {saved['parameters']:,} parameters,"
            f" this model has {here['tensors']} with {here['parameters']:,} (or other names)"
        )
    if saved["values"] != here["values"]:
        return "its base has the same shapes but other weights"
    return ""
