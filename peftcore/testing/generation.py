"""Writing a few words from prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def prompts(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the first tokens of a batch as prompts of unequal lengths, padded left."""
    ids = batch["input_ids"][:, :5]
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def written(model: nn.Module, prompt: Mapping[str, Tensor], *, use_cache: bool) -> Tensor:
    """Return prompts with the four likeliest tokens after them."""
    generate: Any = model.generate
    ids: Tensor = generate(
        **prompt, max_new_tokens=4, do_sample=False, use_cache=use_cache, pad_token_id=0
    )
    return ids
