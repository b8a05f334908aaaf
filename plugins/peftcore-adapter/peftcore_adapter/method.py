"""The methods: which piece goes where, and where none can go."""

from collections.abc import Sequence
from typing import Any

from peftcore import Method, MethodConfig, ParameterInfo, Site, TargetError, Targets, hookimpl
from peftcore_adapter.pieces import After, Before, Begin, Bottleneck, End, Handover, Parallel


def _made(config: Any, site: Site, width_in: int, width_out: int) -> Bottleneck:
    fields = config.model_dump(exclude={"targets", "placement", "train_norms", "bottleneck"})
    width = site.setting(config.bottleneck)
    return Bottleneck(site.layer, width_in, width_out, bottleneck=width, **fields)


class Adapter(Method):
    """Bottleneck adapters at single layers or modules: Houlsby 2019, Pfeiffer 2021, Hu 2023."""

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> After | Before | Parallel | None:
        """Return the adapter of a targeted module.

        Raises:
            TargetError: no adapter can be put there.
        """
        if not site.matches(self.config.targets):
            return None
        placement = site.setting(self.config.placement)
        self._check(site, placement)
        in_, out = site.layer.in_features, site.layer.out_features
        if placement == "before":
            return Before(_made(self.config, site, in_, in_))
        if placement == "after":
            return After(_made(self.config, site, out, out))
        return Parallel(_made(self.config, site, in_, out))

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the norms that train along, where the configuration asks for them.

        Raises:
            TargetError: the model has no norm there.
        """
        if not getattr(self.config, "train_norms", False):
            return []
        norms = Targets(roles=("norm",), layers=self.config.targets.layers)
        chosen = [p.name for p in parameters if p.matches(norms)]
        if not chosen:
            raise TargetError(f"{self.label}: there is no norm to train. Write train_norms: false.")
        return chosen

    def _check(self, site: Site, placement: str) -> None:
        kind, place = site.layer.kind, site.here
        where = f"{self.label}.targets: {place}"
        if kind.startswith("conv") or site.layer.out_features == 0:
            raise TargetError(
                f"{where} is a {kind}, whose last dimension holds no features of a known width; a"
                " bottleneck adapter needs that. Leave it out with exclude."
            )
        if kind == "embedding" and placement != "after":
            raise TargetError(
                f"{where} takes token numbers, so an adapter cannot read its input."
                f' Write placement: {{"{site.role}": "after", "default": "{placement}"}}.'
            )
        if site.features is not None and placement != "parallel":
            raise TargetError(
                f"{where} is a slice of a fused layer; an adapter {placement} it would act on the"
                " other slices too. Write placement: parallel, or name the whole layer."
            )


class BesideFeedForward(Method):
    """One adapter beside the whole feed-forward part of a block: He 2022, Chen 2022.

    Many models have no module for that part, so the adapter is put on its two ends.
    """

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._handover = Handover()
        self._begun: dict[int | None, Begin] = {}
        self._ended: set[int | None] = set()

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Begin | End | None:
        """Return the reading end for the first target of a block, the adding one for the second.

        Raises:
            TargetError: a block has more than two targets, or ends of unequal width.
        """
        if not site.matches(self.config.targets):
            return None
        self._check(site)
        begin = self._begun.get(site.block)
        if begin is None:
            width = site.layer.in_features
            self._begun[site.block] = Begin(_made(self.config, site, width, width), self._handover)
            return self._begun[site.block]
        width = begin.bottleneck.up.out_features
        if site.block in self._ended or site.layer.out_features != width:
            raise TargetError(
                f"{self.label}.targets: {site.path} ({site.role}), of width"
                f" {site.layer.out_features}, is no end of a part that begins with width {width}:"
                f" {_TWO}"
            )
        self._ended.add(site.block)
        return End(self._handover)

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return nothing; by now every part that begins must end.

        Raises:
            TargetError: a block has only one target.
        """
        open_ = [block for block in self._begun if block not in self._ended]
        if open_:
            raise TargetError(f"{self.label}.targets: block {open_[0]} has only one: {_TWO}")
        return []

    def _check(self, site: Site) -> None:
        if site.layer.kind != "linear" or site.features is not None:
            raise TargetError(f"{self.label}.targets: {site.here} is no whole linear layer: {_TWO}")


_TWO = (
    "name two linear layers of each block, where its feed-forward part begins and ends, such as"
    " mlp.up and mlp.down."
)
