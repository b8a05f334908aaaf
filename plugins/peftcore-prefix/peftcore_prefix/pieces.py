"""The prefix of one attention layer."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Around, LayerInfo, Site, trainable_dtype


class LearnedPrefix(Around):
    """softmax(q [P_K; K]ᵀ) [P_V; V]: attention with T learned keys and values in front.

    They take no part in the positions of the model: real tokens keep theirs, and a rotary
    embedding does not turn the prefix. They start as N(0, 1), as an embedding table does.

    The attention is handed something that looks like its cache. What it updates is the real cache,
    where there is one; what it gets back has the prefix in front. So the cache holds real tokens
    only, and its length, a change of beams and a static one are as they were.
    """

    def __init__(self, site: Site, length: int, key_width: int, value_width: int):
        super().__init__()
        self.length = length
        names = arguments_of(site.module)
        self.cache_at = names.index("past_key_values")
        self.mask_at = names.index("attention_mask")
        inner = site.module.modules()
        self.causal = next((bool(m.is_causal) for m in inner if hasattr(m, "is_causal")), True)
        self.config = getattr(site.module, "config", None)
        self._make(site.layer, key_width, value_width)

    def _make(self, layer: LayerInfo, key_width: int, value_width: int) -> None:
        self.prefix_key = nn.Parameter(torch.randn(self.length, key_width, **_made(layer)))
        self.prefix_value = nn.Parameter(torch.randn(self.length, value_width, **_made(layer)))

    def states(self) -> tuple[Tensor, Tensor]:
        """Return P_K and P_V, [T, heads x head width] each."""
        return self.prefix_key, self.prefix_value

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the attention with the prefix in front of its keys and values."""
        given = list(args)
        hidden = args[0] if args else next(iter(kwargs.values()))
        mask = _read("attention_mask", self.mask_at, given, kwargs)
        kept = None
        if mask is not None:
            # an additive mask lets pass with 0, others with 1
            value = 0 if mask.is_floating_point() and mask.dim() > 2 else 1
            mask = F.pad(mask, (self.length, 0), value=value)
        elif self._leaves_causality_to_the_kernel(hidden, kwargs.get("is_causal")):
            kept = hidden.shape[1]
            mask = hidden.new_ones(kept, self.length + kept, dtype=torch.bool)
            mask = mask.tril(self.length)[None, None]
        cache = _read("past_key_values", self.cache_at, given, kwargs)
        _write("attention_mask", self.mask_at, given, kwargs, mask)
        stand_in = _InFront(cache, *self.states(), kept)
        _write("past_key_values", self.cache_at, given, kwargs, stand_in)
        return call(*given, **kwargs)

    def _leaves_causality_to_the_kernel(self, hidden: Tensor, is_causal: bool | None) -> bool:
        """Tell whether no mask means that a token sees those before it, as counted from key 0.

        torch's own kernel counts so; flash attention counts from the last key, which is right with
        a prefix, and the eager one always gets a mask.
        """
        causal = self.causal if is_causal is None else is_causal
        kernel = getattr(self.config, "_attn_implementation", None)
        return causal and kernel == "sdpa" and hidden.shape[1] > 1


class Encoder(nn.Module):
    """tanh(E W₁ + b₁), [T, h]: what all layers share of the re-parametrisation."""

    def __init__(self, layer: LayerInfo, length: int, inner: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, layer.out_features, **_made(layer)))
        self.down = nn.Linear(layer.out_features, inner, **_made(layer))

    def forward(self) -> Tensor:
        """Return the inner vectors."""
        return torch.tanh(self.down(self.embedding))


class ProjectedPrefix(LearnedPrefix):
    """[P_K; P_V] = tanh(E W₁ + b₁) W₂ + b₂ (Li & Liang 2021, section 4.3).

    The paper's W₂ has the columns of all layers; each layer holds its own of them here. The
    encoder is a submodule of the first layer's piece only; the others refer to it.
    """

    def __init__(
        self, site: Site, length: int, key_width: int, value_width: int, *, encoder: Encoder,
        owns: bool,
    ):  # fmt: skip
        super().__init__(site, length, key_width, value_width)
        self.referred = (encoder,)
        if owns:
            self.encoder = encoder
        inner = encoder.down.out_features
        self.up_key = nn.Linear(inner, key_width, **_made(site.layer))
        self.up_value = nn.Linear(inner, value_width, **_made(site.layer))

    def _make(self, layer: LayerInfo, key_width: int, value_width: int) -> None:
        """Make no free prefix."""

    def states(self) -> tuple[Tensor, Tensor]:
        """Return P_K and P_V, [T, heads x head width] each."""
        inner = self.referred[0]().to(self.up_key.weight.device)
        return self.up_key(inner), self.up_value(inner)


class _InFront:
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


def arguments_of(module: nn.Module) -> list[str]:
    """Return the names of what the forward of a module takes, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]


def _read(name: str, at: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[at] if at < len(args) else kwargs.get(name)


def _write(name: str, at: int, args: list[Any], kwargs: dict[str, Any], value: Any) -> None:
    if at < len(args):
        args[at] = value
    else:
        kwargs[name] = value


def _made(layer: LayerInfo) -> dict[str, Any]:
    return {"dtype": trainable_dtype(layer.dtype), "device": layer.device}
