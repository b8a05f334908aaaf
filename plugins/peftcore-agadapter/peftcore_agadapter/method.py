"""The method: where bottlenecks begin and end, and which blocks of which towers share a middle."""

from collections.abc import Hashable, Sequence
from typing import Any

from peftcore import MethodConfig, ParameterInfo, Site, Targeted, TargetError, hookimpl
from peftcore_agadapter.pieces import AddBottleneck, KaBottleneck, Middle, Running

#: The blocks of one tower, (first, stop), and the number of one of them.
_Place = tuple[tuple[int, int], int | None]


class KaAdapter(Targeted):
    """KaAdapter, reconstructed from the abstract of Fang et al. 2023.

    Of towers of unequal depth the least number of blocks, L, is how many middle layers there are:
    block l of a tower of n uses the one of number floor(L l / n). CLIP's bigG has 48 and 32.
    """

    needs_width = True

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._depth = 0
        #: of each block that has begun: the width, and what its two ends share
        self._begun: dict[_Place, tuple[int, Running]] = {}
        self._ended: set[_Place] = set()

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find how many blocks the shallowest of the chosen towers has."""
        towers = {site.stack_blocks for site in self.chosen(sites) if site.block is not None}
        self._depth = min((stop - first for first, stop in towers), default=0)

    def piece(self, site: Site, config: Any) -> KaBottleneck | AddBottleneck:
        """Return the beginning at the first target of a block, the end at the second.

        Raises:
            TargetError: a block has more than two targets, or ends of unequal width.
        """
        place = (site.stack_blocks, site.block)
        if place not in self._begun:
            width, running = site.layer.in_features, Running()
            self._begun[place] = width, running
            middle = self.shared(self._level(site), lambda: Middle(config.rank))
            return KaBottleneck(width, middle, config.scale, running)
        width, running = self._begun[place]
        if place in self._ended or site.layer.out_features != width:
            raise TargetError(
                f"{self.label}.targets: {site.here}, of width {site.layer.out_features}, is no end"
                f" of an MLP that begins with width {width}: {_TWO}"
            )
        self._ended.add(place)
        return AddBottleneck(running)

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return nothing; by now every MLP that begins must end.

        Raises:
            TargetError: a block has only one target.
        """
        if open_ := [block for (_, block) in self._begun.keys() - self._ended]:
            raise TargetError(f"{self.label}.targets: block {open_[0]} has only one: {_TWO}")
        return []

    def _level(self, site: Site) -> Hashable:
        """Return what tells the middle layer of a block from others."""
        first, stop = site.stack_blocks
        if not self.config.shared or site.block is None:
            return first, site.block
        return self._depth * (site.block - first) // (stop - first)


_TWO = (
    "name two linear layers of each block, where its MLP begins and ends, such as mlp.up and"
    " mlp.down."
)
