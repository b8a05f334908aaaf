"""Prompt tuning: where the vectors go, and what they start from."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import (
    ConfigError,
    Method,
    MethodConfig,
    Piece,
    Site,
    TargetError,
    argument_names,
    backbone_of,
    hookimpl,
    resolve_source,
)
from peftcore_prompt.config import PromptConfig
from peftcore_prompt.network import Filled, Handover, Places, Prompted


class Prompt(Method):
    """Prompt tuning, Lester et al. 2021: p trained vectors among the embedded tokens."""

    config: PromptConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        #: path of a module to what makes the piece there
        self._makers: dict[str, Callable[[], Piece]] = {}

    @hookimpl
    def peftcore_prepare(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        tensors: Mapping[str, Tensor] | None,
        tokenizer: Any,
    ) -> None:
        """Find the network and its table of tokens, and read the text to start from.

        Raises:
            TargetError: there is no such network or table, or it has too few positions.
            ConfigError: the start cannot be made.
        """
        config, network, table = self.config, self._network(sites), self._table(sites)
        count, positions = config.num_virtual_tokens, self._positions(sites)
        if positions is not None and count >= len(positions):
            raise TargetError(
                f"{self.label}.num_virtual_tokens: {count} virtual tokens leave no room in the"
                f" {len(positions)} positions of this model. Write a lower number."
            )
        causal = "bidirectional" not in backbone_of(model).has
        before = config.where == "before" or (config.where == "auto" and causal)
        places, handover = Places(0 if before else 1, count, positions), Handover()
        # nothing is read for a plan, nor where the vectors come from a checkpoint
        fresh = tensors is None and table.layer.device.type != "meta"
        ids = self._ids(table, tokenizer, fresh=fresh)
        width, names = table.layer.out_features, argument_names(network.module)
        first: Callable[[], Tensor] = partial(_looked_up, table, ids, count)
        if config.init == "random":
            first = partial(_uniform, count, width)
        self._makers = {
            network.path: partial(Prompted, width, names, places, handover, first),
            table.path: partial(Filled, places, handover),
        }

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        """Return the piece of the network, or that of its table of tokens."""
        make = self._makers.pop(site.path, None)
        return make() if make else None

    def _network(self, sites: Sequence[Site]) -> Site:
        found = next((site for site in sites if site.role == "model"), None)
        if found is None:
            raise TargetError(
                f"{self.label}: the backbone names no network (role model) that takes tokens. Use"
                " embedding_prompt, which needs blocks only."
            )
        if self.label != self.name:
            raise ConfigError(
                f"{self.label}: an adapter has one prompt; raise num_virtual_tokens of the first."
            )
        return found

    def _table(self, sites: Sequence[Site]) -> Site:
        found = [s for s in sites if s.role == "embeddings" and s.kind == "embedding"]
        if len(found) != 1 or found[0].direct:
            raise TargetError(
                f"{self.label}: the model has {len(found)} tables of token embeddings (role"
                " embeddings) where one is needed. Use vpt or embedding_prompt, which need blocks"
                " only."
            )
        return found[0]

    @staticmethod
    def _positions(sites: Sequence[Site]) -> range | None:
        """Return the numbers of the positions that the model has a table of; None without one."""
        for site in sites:
            if site.role == "embeddings.position" and site.kind == "embedding" and not site.direct:
                padding = getattr(site.module, "padding_idx", None)
                return range(0 if padding is None else padding + 1, site.layer.in_features)
        return None

    def _ids(self, table: Site, tokenizer: Any, *, fresh: bool) -> tuple[int, ...]:
        """Return the tokens to start from; none where they are to be drawn."""
        config, size = self.config, table.layer.in_features
        ids = config.init_ids or ()
        if config.init_text is not None and fresh:
            ids = self._read(config.init_text, tokenizer)
        if ids and not 0 <= min(ids) <= max(ids) < size:
            raise ConfigError(
                f"{self.label}.{'init_ids' if config.init_ids else 'tokenizer'}: the vocabulary has"
                f" the ids 0 to {size - 1}, not {min(ids)} to {max(ids)}."
            )
        return ids

    def _read(self, text: str, tokenizer: Any) -> tuple[int, ...]:
        given = self.config.tokenizer if tokenizer is None else tokenizer
        if given is None:
            raise ConfigError(
                f"{self.label}.init_text: no tokenizer reads it. Give attach(..., tokenizer=...),"
                " or init_ids instead of a text."
            )
        known = self._load(given) if isinstance(given, str) else given
        ids = tuple(known(text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise ConfigError(f"{self.label}.init_text: {text!r} holds no tokens.")
        return ids

    def _load(self, tokenizer: str) -> Any:
        from transformers import AutoTokenizer

        place = str(resolve_source(tokenizer, "model") or tokenizer)
        try:
            return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except Exception as error:
            raise ConfigError(
                f"{self.label}.tokenizer: {tokenizer} cannot be read as a tokenizer. Name a folder"
                " that save_pretrained wrote, or give init_ids."
            ) from error


def _looked_up(table: Site, ids: Sequence[int], count: int) -> Tensor:
    """Return what a table gives for ids, repeated or cut, or for random ones, [P, d]."""
    if ids:
        chosen = torch.tensor([ids[i % len(ids)] for i in range(count)])
    else:
        chosen = torch.randint(table.layer.in_features, (count,))
    # through the module: Gemma's multiplies what it looks up
    found: Tensor = table.module(chosen.to(table.layer.device))
    return found


def _uniform(count: int, width: int) -> Tensor:
    return torch.rand(count, width) - 0.5
