"""The prefix of one attention layer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Around, argument_names


class InFront(Around):
    """softmax(q [P_K; K]ᵀ) [P_V; V]: attention with T keys and values in front of its own.

    They take no part in the positions of the model: real tokens keep theirs, and a rotary
    embedding does not turn the prefix.

    The attention is handed something that looks like its cache. What it updates is the real cache,
    where there is one; what it gets back has the prefix in front. So the cache holds real tokens
    only, and its length, a change of beams and a static one are as they were.
    """

    def __init__(self, attention: nn.Module, length: int):
        super().__init__()
        self.length = length
        # other kernels are told by the mask which tokens of a row are of one sequence
        self.needs = ("one-sequence",) if runs_flash(attention) else ()
        self.names = argument_names(attention)
        inner = attention.modules()
        self.causal = next((bool(m.is_causal) for m in inner if hasattr(m, "is_causal")), True)
        self.config = getattr(attention, "config", None)

    def states(self) -> tuple[Tensor, Tensor]:
        """Return P_K and P_V, [T, heads x head width] each."""
        raise NotImplementedError

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the attention with the prefix in front of its keys and values."""
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        hidden, mask, kept = given[self.names[0]], given.get("attention_mask"), None
        if mask is not None:
            # an additive mask lets pass with 0, others with 1
            value = 0 if mask.is_floating_point() and mask.dim() > 2 else 1
            mask = F.pad(mask, (self.length, 0), value=value)
        elif self._leaves_causality_to_the_kernel(hidden, given.get("is_causal")):
            kept = hidden.shape[1]
            mask = hidden.new_ones(kept, self.length + kept, dtype=torch.bool)
            mask = mask.tril(self.length)[None, None]
        given["attention_mask"] = mask
        given["past_key_values"] = _Cache(given.get("past_key_values"), *self.states(), kept)
        return call(**given)

    def _leaves_causality_to_the_kernel(self, hidden: Tensor, is_causal: bool | None) -> bool:
        """Tell whether no mask means that a token sees those before it, as counted from key 0.

        torch's own kernel counts so; flash attention counts from the last key, which is right with
        a prefix, and the eager one always gets a mask.
        """
        causal = self.causal if is_causal is None else is_causal
        kernel = getattr(self.config, "_attn_implementation", None)
        return causal and kernel == "sdpa" and hidden.shape[1] > 1


class Learned(InFront):
    """A prefix of free keys and values; they start as N(0, 1), as an embedding table does."""

    def __init__(self, attention: nn.Module, length: int, key_width: int, value_width: int):
        super().__init__(attention, length)
        self.prefix_key = nn.Parameter(torch.zeros(length, key_width))
        self.prefix_value = nn.Parameter(torch.zeros(length, value_width))

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the prefix."""
        self.prefix_key.normal_()
        self.prefix_value.normal_()

    def states(self) -> tuple[Tensor, Tensor]:
        """Return P_K and P_V, [T, heads x head width] each."""
        return self.prefix_key, self.prefix_value


class Encoder(nn.Module):
    """tanh(E W₁ + b₁), [T, h]: what all layers share of the re-parametrisation."""

    def __init__(self, length: int, width: int, inner: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width))
        self.down = nn.Linear(width, inner)

    def forward(self) -> Tensor:
        """Return the inner vectors."""
        return torch.tanh(self.down(self.embedding))


class Projected(InFront):
    """[P_K; P_V] = tanh(E W₁ + b₁) W₂ + b₂ (Li & Liang 2021, section 4.3).

    The paper's W₂ has the columns of all layers; each layer holds its own of them here.
    """

    def __init__(
        self, attention: nn.Module, length: int, key_width: int, value_width: int, *,
        encoder: Encoder,
    ):  # fmt: skip
        super().__init__(attention, length)
        self.encoder = encoder
        inner = encoder.down.out_features
        self.up_key = nn.Linear(inner, key_width)
        self.up_value = nn.Linear(inner, value_width)

    def states(self) -> tuple[Tensor, Tensor]:
        """Return P_K and P_V, [T, heads x head width] each."""
        # the layers of one model may be on several devices
        inner = self.encoder().to(self.up_key.weight.device)
        return self.up_key(inner), self.up_value(inner)


class _Cache:
    """Stands for the cache of one attention layer, and puts a prefix in front of what it gives."""

    def __init__(self, cache: Any, key: Tensor, value: Tensor, kept: int | None):
        # a decoder's layer has one cache for itself and one for what it reads of the encoder
        self.cache = getattr(cache, "self_attention_cache", cache)
        self.key = key
        self.value = value
        self.kept = kept

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Update the cache; return all keys and values, [B, heads, T + L, head width]."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, *args, **kwargs)
        if self.kept is not None:  # a static cache gives empty places after the last token
            key, value = key[:, :, : self.kept], value[:, :, : self.kept]
        return _joined(self.key, key), _joined(self.value, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


def _joined(prefix: Tensor, states: Tensor) -> Tensor:
    """Put a prefix [T, heads x width] in front of states [B, heads, L, width]."""
    rows, heads, _, width = states.shape
    front = prefix.to(states).view(-1, heads, width).transpose(0, 1)
    return torch.cat([front.expand(rows, -1, -1, -1), states], dim=2)


def runs_flash(attention: nn.Module) -> bool:
    """Tell whether an attention runs a kernel that computes windows and sequences by itself."""
    return "flash" in str(getattr(getattr(attention, "config", None), "_attn_implementation", ""))
