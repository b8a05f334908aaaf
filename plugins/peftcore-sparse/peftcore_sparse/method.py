"""The method: which weights train, by score, pattern and share, and what cannot be done."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import (
    AttachError,
    CheckpointError,
    Examples,
    Method,
    MethodConfig,
    Site,
    TargetError,
    bare_class,
    base_modules,
    hookimpl,
)
from peftcore_sparse.choosing import choose, counts
from peftcore_sparse.config import FROM_DATA, SparseConfig
from peftcore_sparse.pieces import SparseLinear, SparseWeight
from peftcore_sparse.scores import from_examples, from_weights, parameter_of

_PLAIN: dict[str, Any] = {
    "embedding": nn.Embedding,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


class Sparse(Method):
    """Sparse fine-tuning: the highest-scored weights train, as many as p leaves."""

    config: SparseConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._index: dict[str, Tensor] = {}
        self._loading = False

    @property
    def examples(self) -> int:
        """Number of examples that the score looks at."""
        return self.config.samples if self.config.score in FROM_DATA else 0

    @hookimpl
    def peftcore_prepare(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        examples: Examples | None,
        tensors: Mapping[str, Tensor] | None,
    ) -> None:
        """Choose the weights that train: by score, or those of the checkpoint.

        In a plan, where there are no scores, places are only counted.

        Raises:
            TargetError: a target cannot be tuned sparsely, or not with these settings.
            AttachError: a score is not finite, or the examples do not suffice.
            CheckpointError: stored places do not fit their layer.
        """
        targeted = [site for site in sites if site.matches(self.config.targets)]
        self._check(model, targeted)
        self._loading = tensors is not None
        if tensors is not None:
            found = [self._stored(site, tensors) for site in targeted]
        elif any(site.layer.device.type == "meta" for site in targeted):
            found = self._counted(targeted)
        else:
            found = self._chosen(model, targeted, examples)
        self._index = {site.name: index for site, index in zip(targeted, found, strict=True)}

    def _counted(self, sites: Sequence[Site]) -> list[Tensor]:
        together = self.config.scope == "global"
        shapes = [site.layer.weight_shape for site in sites]
        many = counts(shapes, self.config.p, together=together, pattern=self.config.pattern)
        return [torch.empty(k, dtype=torch.int64, device="meta") for k in many]

    def _chosen(
        self, model: nn.Module, sites: Sequence[Site], examples: Examples | None
    ) -> list[Tensor]:
        config = self.config
        with torch.no_grad():
            if examples is None:
                scores = from_weights(config, sites)
            else:
                scores = from_examples(config, model, sites, examples)
            for site, score in zip(sites, scores, strict=True):
                if not bool(torch.isfinite(score).all()):
                    raise AttachError(
                        f"{self.label}: the {config.score} of {site.name} is NaN or infinite."
                    )
            return choose(
                scores, config.p, together=config.scope == "global", pattern=config.pattern
            )

    def _stored(self, site: Site, state: Mapping[str, Tensor]) -> Tensor:
        """Return the places of a checkpoint; none where it has nothing for this site."""
        name = ".".join(part for part in (site.name, self.label, "index") if part)
        device, size = site.layer.device, math.prod(site.layer.weight_shape)
        if name not in state:
            return torch.empty(0, dtype=torch.int64, device=device)
        index = state[name]
        if index.dim() != 1 or index.dtype not in (torch.int32, torch.int64):
            raise CheckpointError(f"{name} is no vector of int32 or int64.")
        index = index.to(torch.int64)
        if len(index) and not (
            int(index[0]) >= 0 and int(index[-1]) < size and bool((index.diff() > 0).all())
        ):
            raise CheckpointError(
                f"{name} does not hold ascending places among the {size:,} weights of"
                f" {site.name or 'the model'}."
            )
        return index.to(device)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> SparseWeight | None:
        """Return the values of the weights that train here; None where the base stays whole."""
        index = self._index.pop(site.name, None)
        zero = self.config.prune == "zero"
        if index is None or not (len(index) or zero):
            return None
        known = self._loading or index.is_meta
        # of a slice, the core would run the whole layer beside it
        made = SparseLinear if site.kind == "linear" and site.features is None else SparseWeight
        return made(site.layer, index, None if known else site.weight(), zero=zero)

    @hookimpl
    def peftcore_save_state(self, site: Site, piece: SparseWeight) -> dict[str, Tensor]:
        """Return values and places, these as int32 where that is enough."""
        small = math.prod(site.layer.weight_shape) <= torch.iinfo(torch.int32).max
        index = piece.index.to(torch.int32) if small else piece.index
        return {"values": piece.values, "index": index}

    def _check(self, model: nn.Module, sites: Sequence[Site]) -> None:
        names: dict[int, list[str]] = {}
        for path, module in {id(m): (path, m) for path, m, _ in base_modules(model)}.values():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    names.setdefault(id(parameter), []).append(f"{path}.{leaf}" if path else leaf)
        for site in sites:
            self._check_layer(site)
            tied = names.get(id(site.module._parameters.get(site.weight_name)), [])
            if len(tied) > 1:
                raise self._refused(
                    site,
                    f"{tied[0]} and {tied[1]} are one tied parameter, and it would change in one"
                    " of the two places only. Give one of the modules its own copy",
                )

    def _check_layer(self, site: Site) -> None:
        config, kind, cls = self.config, site.layer.kind, bare_class(site.module)
        plain = _PLAIN.get(kind)
        if kind != "linear" and plain is None:
            raise self._refused(
                site,
                f"it is of kind {kind}; sparse tuning is for linear layers, convolutions and"
                " embeddings. Name those inside it",
            )
        if plain is not None and cls.forward is not plain.forward:  # type: ignore[attr-defined]
            raise self._refused(
                site,
                f"a {cls.__name__} does more than a plain {plain.__name__} and cannot be run with"
                " a new weight. Choose others",
            )
        if config.pattern == "2:4" and site.layer.weight_shape[1] % 4:
            raise self._refused(
                site,
                f"pattern 2:4 needs inputs in fours, its weight has {site.layer.weight_shape[1]}."
                " Choose others",
            )
        if config.score in FROM_DATA and parameter_of(site) is None:
            raise self._refused(
                site,
                f"score {config.score} needs a gradient of the weight, and this"
                f" {cls.__name__} keeps it quantised or computes it. Write score: magnitude",
            )

    def _refused(self, site: Site, why: str) -> TargetError:
        return TargetError(
            f"{self.label}.targets: {site.here}: {why}, or leave it out with exclude."
        )
