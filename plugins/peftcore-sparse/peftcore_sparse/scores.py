"""Scores of weights. w is a weight, g its gradient; the higher, the sooner it trains."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from peftcore import (
    AttachError,
    Examples,
    InProjection,
    Site,
    base_modules,
    device_of,
    layer_of,
    trainable_dtype,
)
from peftcore_sparse.config import FROM_TUNING, SparseConfig, parameter_of


def from_weights(config: SparseConfig, sites: Sequence[Site]) -> list[Tensor]:
    """Return |w| of each site, or random numbers, [out, in, ...]."""
    if config.score == "magnitude":
        return [site.weight().abs() for site in sites]
    generator = torch.Generator().manual_seed(config.seed)
    drawn = (torch.rand(s.layer.weight_shape, generator=generator, device="cpu") for s in sites)
    return [one.to(site.layer.device) for one, site in zip(drawn, sites, strict=True)]


def from_examples(
    config: SparseConfig, model: nn.Module, sites: Sequence[Site], examples: Examples
) -> list[Tensor]:
    """Return the scores of each site, [out, in, ...], that examples give.

    The model runs in evaluation mode and is afterwards as it was.

    Raises:
        AttachError: there are too few examples, or no gradient comes of them; the model is
            offloaded, so that gradients would not reach its parameters.
    """
    away = next((name for name, p in model.named_parameters() if p.is_meta), None)
    if away is not None:
        raise AttachError(
            f"score: {config.score} needs gradients of the weights, and {away} is offloaded. Write"
            " score: magnitude, or load the model without offloading."
        )
    parameters = {id(parameter_of(site)): parameter_of(site) for site in sites}
    targeted = [p for p in parameters.values() if p is not None]
    if config.score in FROM_TUNING:
        found = _tuned(config, model, targeted, examples)
    else:
        found = _averaged(config, model, targeted, examples)
    by_parameter = dict(zip(parameters, found, strict=True))
    return [_part(site, by_parameter[id(parameter_of(site))]) for site in sites]


def _part(site: Site, stored: Tensor) -> Tensor:
    """Turn a tensor in the layout of the parameter into [out, in, ...] of the site."""
    layer = None if site.weight_name == InProjection.weight_name else layer_of(site.module)
    whole = layer.stored(stored) if layer else stored  # each other's transpose or the same
    return whole[slice(*site.features)] if site.features else whole


def _averaged(
    config: SparseConfig, model: nn.Module, targeted: Sequence[nn.Parameter], examples: Examples
) -> list[Tensor]:
    """Return mean g², |mean g| or |w mean g| of each parameter."""
    fisher, n = config.score == "fisher", config.samples
    sums = [_zeros(p) for p in targeted]
    sampled = _SampledLabels(config.seed) if config.labels == "sampled" else None
    with _differentiable(model, targeted):
        for batch in examples.first(n):
            if fisher:
                _check_single(batch)
            with sampled or nullcontext():
                loss = examples.loss(model, batch)
            for total, g in zip(sums, _gradients(loss, targeted), strict=True):
                if g is not None:
                    g = g.to(total.dtype)
                    total.add_(g.square() if fisher else g, alpha=1 / n)
    if sampled is not None and not sampled.drawn:
        raise AttachError(
            "labels: sampled draws the labels where the loss calls cross_entropy, and this loss"
            " never does. Write labels: gold."
        )
    if fisher:
        return sums
    if config.score == "gradient":
        return [total.abs_() for total in sums]
    return [total.mul_(w.detach()).abs_() for total, w in zip(sums, targeted, strict=True)]


def _tuned(
    config: SparseConfig, model: nn.Module, targeted: Sequence[nn.Parameter], examples: Examples
) -> list[Tensor]:
    """Tune the whole model for some steps; return the sum of -w g, or |w - w₀|.

    The tuned values are tensors of their own, in fp32 at least; the model's are never written to.
    """
    modules = {id(m): m for _, m, _ in base_modules(model)}.values()
    every = {id(p): p for m in modules for p in m._parameters.values() if p is not None}
    tuned = [p for p in every.values() if p.is_floating_point()]
    first = [p.data for p in tuned]
    own = [nn.Parameter(p.detach().to(trainable_dtype(p.dtype), copy=True)) for p in tuned]
    place = {id(p): i for i, p in enumerate(tuned)}
    chosen = [place[id(p)] for p in targeted]
    moved = [_zeros(p) for p in targeted]
    optimizer = torch.optim.AdamW(own, lr=config.learning_rate, weight_decay=0)
    n, steps, since = config.samples, config.steps, 0
    try:
        with _differentiable(model, tuned):
            _show(tuned, own)
            for i, batch in enumerate(examples.first(n)):
                since += 1
                _accumulate(own, _gradients(examples.loss(model, batch), tuned))
                if (i + 1) * steps // n == i * steps // n:
                    continue  # the steps share the samples as evenly as they can
                for p in own:
                    p.grad = None if p.grad is None else p.grad / since
                for total, w in zip(moved, (own[j] for j in chosen), strict=True):
                    if w.grad is not None:
                        total.addcmul_(w.detach(), w.grad, value=-1)
                optimizer.step()
                optimizer.zero_grad()
                _show(tuned, own)
                since = 0
        if config.score == "movement":
            return moved
        return [(own[j].detach() - first[j]).abs_() for j in chosen]
    finally:
        for p, value in zip(tuned, first, strict=True):
            p.data = value


def _show(tuned: Sequence[nn.Parameter], own: Sequence[nn.Parameter]) -> None:
    """Let the model compute with the tuned values, in its own dtype."""
    for p, value in zip(tuned, own, strict=True):
        p.data = value.detach().to(p.dtype)


def _accumulate(own: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for p, g in zip(own, gradients, strict=True):
        if g is not None:
            p.grad = g.to(p.dtype) if p.grad is None else p.grad + g


def _zeros(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter, dtype=trainable_dtype(parameter.dtype), requires_grad=False)


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:
        raise AttachError("the loss of an example does not depend on the targeted weights.")
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def _check_single(batch: Any) -> None:
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and labels.dim() > 0 and len(labels) > 1:
        raise AttachError(
            f"score: fisher squares the gradient of each example, and a batch has {len(labels)}."
            " Give batches of one example each."
        )


@contextmanager
def _differentiable(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach some parameters, in evaluation mode; then put everything back."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    buffers = [(dict(m._buffers), m._buffers) for m in modules]
    values = [(b, b.clone()) for kept, _ in buffers for b in kept.values() if b is not None]
    device, wanted = device_of(model), {id(p) for p in parameters}
    try:
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.enable_grad(),
        ):
            for module in modules:
                module.training = False
            for p, _ in flags:
                p.requires_grad_(id(p) in wanted)
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)
        for kept, now in buffers:
            now.clear()
            now.update(kept)
        for buffer, value in values:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


class _SampledLabels(TorchFunctionMode):
    """Draws the labels of every cross-entropy from the very logits that it is given.

    So the labels stand where the loss expects them, shifted or not, and those that it leaves out
    (``ignore_index``) stay so.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace the target of a cross-entropy; run everything else as it is."""
        kwargs = kwargs or {}
        if func is not F.cross_entropy:
            return func(*args, **kwargs)
        bound = signature(F.cross_entropy).bind(*args, **kwargs).arguments
        target, ignored = bound["target"], bound.get("ignore_index", -100)
        logits = bound["input"].detach()
        if target.is_floating_point():
            raise AttachError(
                "labels: sampled needs classes as labels, and these are probabilities. Write"
                " labels: gold."
            )
        last = logits.movedim(1, -1) if logits.dim() > 1 else logits
        chances = last.reshape(-1, last.shape[-1]).double().softmax(-1).cpu()
        drawn = torch.multinomial(chances, 1, generator=self.generator).to(target.device)
        bound["target"] = torch.where(target == ignored, target, drawn.view(target.shape))
        self.drawn = True
        return func(**bound)
