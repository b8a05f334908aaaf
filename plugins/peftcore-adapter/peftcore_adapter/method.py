"""The methods: which piece goes where, and where none can go."""

from collections.abc import Sequence
from typing import Any

from peftcore import MethodConfig, ParameterInfo, Site, Targeted, TargetError, hookimpl
from peftcore_adapter.pieces import After, Before, Begin, Bottleneck, End, Handover, Parallel


class Adapter(Targeted):
    """Bottleneck adapters at single layers or modules: Houlsby 2019, Pfeiffer 2021, Hu 2023."""

    kinds = ("linear", "embedding", "norm", "module")
    needs_width = True

    def piece(self, site: Site, config: Any) -> After | Before | Parallel:
        """Return the adapter before, after or beside a module."""
        in_, out = site.layer.in_features, site.layer.out_features
        if config.placement == "before":
            return Before(Bottleneck(in_, in_, config))
        if config.placement == "after":
            return After(Bottleneck(out, out, config))
        return Parallel(Bottleneck(in_, out, config))

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the norms that train along, where the configuration asks for them.

        Raises:
            TargetError: the model has no norm there.
        """
        if not getattr(self.config, "train_norms", False):
            return []
        norms = self.config.targets.model_copy(update={"roles": ("norm",), "exclude": ()})
        chosen = [p.name for p in parameters if p.matches(norms)]
        if not chosen:
            raise TargetError(f"{self.label}: there is no norm to train. Write train_norms: false.")
        return chosen


class BesideFeedForward(Targeted):
    """One adapter beside the whole feed-forward part of a block: He 2022, Chen 2022.

    Many models have no module for that part, so the adapter is put on its two ends. The norm before
    it may be the first of them: the adapter then reads what enters the norm.
    """

    kinds = ("linear", "norm")
    needs_width = True

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._handover = Handover()
        self._first: dict[int | None, Site] = {}
        self._ended: set[int | None] = set()

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find where the part of each block begins: its norm, wherever its block registers it."""
        for site in self.chosen(sites):
            first = self._first.setdefault(site.block, site)
            if site.kind == "norm" and first.kind != "norm":
                self._first[site.block] = site

    def piece(self, site: Site, config: Any) -> Begin | End:
        """Return the reading end for the first target of a block, the adding one for the second.

        Raises:
            TargetError: a block has more than two targets, or ends of unequal width.
        """
        first = self._first[site.block]
        if site.path == first.path:
            released = getattr(config, "released", False)
            if released and site.kind != "norm":
                raise TargetError(
                    f"{self.label}.released: the authors' adapter reads what enters the norm of the"
                    f" feed-forward part, and {site.here} is none. {_NORM}"
                )
            width = site.layer.in_features
            return Begin(Bottleneck(width, width, config), self._handover, released)
        width = first.layer.in_features
        if site.block in self._ended or site.layer.out_features != width:
            raise TargetError(
                f"{self.label}.targets: {site.here}, of width {site.layer.out_features}, is no end"
                f" of a part that begins with width {width}: {_TWO}"
            )
        self._ended.add(site.block)
        return End(self._handover)

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return nothing; by now every part that begins must end.

        Raises:
            TargetError: a block has only one target.
        """
        open_ = [block for block in self._first if block not in self._ended]
        if open_:
            raise TargetError(f"{self.label}.targets: block {open_[0]} has only one: {_TWO}")
        return []


_NORM = (
    "Name it as the first of the targets, such as of WavLM targets:"
    " ['path:**.layers.*.layer_norm', mlp.down]."
)
_TWO = (
    "name two linear layers of each block, where its feed-forward part begins and ends, such as"
    " mlp.up and mlp.down."
)
