"""Point-PEFT: which places get pieces, and which parameters of the base train."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from peftcore import (
    ConfigError,
    Method,
    ParameterInfo,
    Piece,
    Site,
    Survey,
    TargetError,
    hookimpl,
)
from peftcore_pointpeft.bank import FEATURES, Memory, encoder_digest, read_bank
from peftcore_pointpeft.config import PointPeftConfig
from peftcore_pointpeft.pieces import Geometric, Inner, Nearby, Prompted, Regrouping, Watching

#: Roles of layers whose biases train.
_BIASES = ("attention.output", "mlp.up", "mlp.down")
#: Parameters of the network itself that train.
_TOKENS = ("cls_token", "cls_pos")
_BANK = f".memory.{FEATURES}"


class PointPeft(Method):
    """Point-PEFT, Tang et al. 2024.

    Of a network it needs a grouping of points, ``group_divider``, that returns the groups'
    ``centres``, ``index`` and ``centre_index``, and ``pooled_tokens`` for the memory bank.
    """

    config: PointPeftConfig

    @hookimpl
    def peftcore_prepare(
        self, model: nn.Module, sites: Sequence[Site], tensors: Mapping[str, Tensor] | None
    ) -> None:
        """Find the network, and read the memory bank.

        Raises:
            ConfigError: the bank is missing, or another encoder made it.
            TargetError: fewer blocks are there than shall have prompts.
        """
        place = _networks(dict(model.named_modules()))[0]
        self._prefix = f"{place}." if place else ""
        network = model.get_submodule(place)
        blocks = sum(site.role == "block" for site in sites)
        if self.config.prompt_blocks > blocks:
            raise TargetError(
                f"{self.label}.prompt_blocks: {self.config.prompt_blocks}, and the network has"
                f" {blocks} blocks. Write prompt_blocks: {max(blocks // 2, 1)}."
            )
        memory = None
        if self.config.bank is not None:
            features = self._features(network, tensors)
            memory = Memory(model, network, features, self.config.num_virtual_tokens)
        self._watching = Watching()
        divider = network.get_submodule("group_divider")
        self._regrouping = Regrouping(divider, self.config, self._watching, memory)
        self._embeddings = next(site.path for site in sites if site.role == "embeddings")

    def _features(self, network: nn.Module, tensors: Mapping[str, Tensor] | None) -> Tensor:
        """Return the bank, of the checkpoint that is loaded or of its file."""
        if tensors is not None:
            return next(t for name, t in tensors.items() if name.endswith(_BANK)).clone()
        assert self.config.bank is not None
        features, encoder = read_bank(self.config.bank)
        width = int(network.norm.weight.shape[0])  # type: ignore[union-attr, index]
        if features.shape[1] != width:
            raise ConfigError(
                f"{self.label}.bank: {self.config.bank} holds features of width"
                f" {features.shape[1]}, the network's is {width}. Make the bank from this backbone."
            )
        on_meta = any(p.is_meta for p in network.parameters())
        if not on_meta and encoder != encoder_digest(network):
            raise ConfigError(
                f"{self.label}.bank: {self.config.bank} was made by an encoder with other weights."
                " Make it from this backbone: peftcore point-bank RECIPE --output FILE"
            )
        if len(features) < self.config.num_virtual_tokens - 2:
            raise ConfigError(
                f"{self.label}.bank: {self.config.bank} holds {len(features)} clouds, fewer than"
                f" num_virtual_tokens - 2: {self.config.num_virtual_tokens - 2}."
            )
        return features

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        """Return the piece at the grouping, the embedding, a block, or its feed-forward part."""
        if site.path == f"{self._prefix}group_divider":
            return self._watching
        if site.path == self._embeddings:
            return self._regrouping
        if site.block is None:
            return None
        if site.role == "mlp":
            return Inner(site.layer.out_features, self.config)
        return self._around(site) if site.role == "block" else None

    def _around(self, site: Site) -> Geometric:
        config, width = self.config, site.layer.out_features
        inner, heads = config.attention_width, config.attention_heads
        nearby = self.shared("nearby", lambda: Nearby(width, inner, heads))
        takes = site.block is not None and site.block < config.prompt_blocks
        prompted = None
        if takes or config.released:
            prompted = Prompted(width, config, remembers=config.bank is not None)
        return Geometric(
            site.module, width, config, self._regrouping, nearby, prompted, takes=takes
        )

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> Iterable[str]:
        """Return the biases, the last norm and the class token, which the release trains too."""
        return [p.name for p in parameters if self._trains(p)]

    def _trains(self, found: ParameterInfo) -> bool:
        own = found.name.removeprefix(self._prefix)
        if own in _TOKENS or own.startswith("norm."):
            return True
        if found.block is None or found.leaf != "bias":
            return False
        return found.role in _BIASES or found.kind == "norm"


def has_groups(found: Survey) -> bool:
    """Tell whether a model groups points around centres of one scale."""
    return len(_networks(found.modules)) == 1


def network_of(model: nn.Module) -> nn.Module | None:
    """Return the network in a model that Point-PEFT knows its way in, or None."""
    places = _networks(dict(model.named_modules()))
    return model.get_submodule(places[0]) if len(places) == 1 else None


def _networks(modules: Mapping[str, Any]) -> list[str]:
    """Return the paths of networks that Point-PEFT knows its way in."""
    return [
        path
        for path, module in modules.items()
        if hasattr(module, "group_divider") and hasattr(module, "pooled_tokens")
    ]
