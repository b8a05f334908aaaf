"""Prompt tuning: where the vectors go, and what they start from."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peftcore import (
    ConfigError,
    Method,
    MethodConfig,
    Piece,
    Site,
    TargetError,
    backbone_of,
    hookimpl,
    trainable_dtype,
)
from peftcore_prompt.config import PromptConfig
from peftcore_prompt.network import Filled, Handover, Places, Prompted
from peftcore_prompt.splicing import argument_names


class Prompt(Method):
    """Prompt tuning, Lester et al. 2021: p trained vectors among the embedded tokens."""

    config: PromptConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._pieces: dict[tuple[str, str], Piece] = {}

    @hookimpl
    def peftcore_prepare(
        self, model: nn.Module, sites: Sequence[Site], tensors: Mapping[str, Tensor] | None
    ) -> None:
        """Find the network and its table of tokens, and make the two pieces.

        Raises:
            TargetError: there is no such network or table, or it has too few positions.
            ConfigError: the start cannot be made.
        """
        network, table = self._network(sites), self._table(sites)
        count = self.config.num_virtual_tokens
        positions = self._positions(sites)
        if positions is not None and count >= len(positions):
            raise TargetError(
                f"{self.label}.num_virtual_tokens: {count} virtual tokens leave no room in the"
                f" {len(positions)} positions of this model. Write a lower number."
            )
        before = self.config.where == "before" or (
            self.config.where == "auto" and getattr(backbone_of(model), "causal", False)
        )
        start = self._start(table, planned=tensors is not None or table.layer.device.type == "meta")
        handover = Handover()
        places = Places(0 if before else 1, count, positions)
        names = argument_names(network.module)
        self._pieces = {
            (network.path, network.role): Prompted(start, names, places, handover),
            (table.path, table.role): Filled(places, handover),
        }

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        """Return the piece of the network, or that of its table of tokens."""
        return self._pieces.get((site.path, site.role))

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
        config = getattr(found.module, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            raise TargetError(
                f"{self.label}: the network has an encoder and a decoder, and generation runs them"
                " apart. Use embedding_prompt on the blocks of the encoder."
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

    def _start(self, table: Site, *, planned: bool) -> Tensor:
        """Return the vectors to start from, [P, d], as the table gives them to the model."""
        config, layer = self.config, table.layer
        shape = (config.num_virtual_tokens, layer.out_features)
        start = torch.empty(shape, dtype=trainable_dtype(layer.dtype), device=layer.device)
        words = config.init_ids or ()
        if config.init_text and not planned:
            words = self._read(config.init_text, str(config.tokenizer))
        if words and not 0 <= min(words) <= max(words) < layer.in_features:
            raise ConfigError(
                f"{self.label}.{'init_ids' if config.init_ids else 'tokenizer'}: the vocabulary has"
                f" the ids 0 to {layer.in_features - 1}, not {min(words)} to {max(words)}."
            )
        if planned:  # nothing is read for a plan, and what is loaded comes later
            return start
        if config.init == "random":
            return start.uniform_(-0.5, 0.5)
        ids = torch.randint(layer.in_features, shape[:1])
        if words:
            ids = torch.tensor([words[i % len(words)] for i in range(shape[0])])
        with torch.no_grad():
            # through the module: Gemma's table multiplies what it looks up
            return start.copy_(table.module(ids.to(layer.device)))

    def _read(self, text: str, tokenizer: str) -> tuple[int, ...]:
        from transformers import AutoTokenizer

        from peftcore import resolve_source

        place = str(resolve_source(tokenizer, "model") or tokenizer)
        try:
            known = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        except Exception as error:
            raise ConfigError(
                f"{self.label}.tokenizer: {tokenizer} cannot be read as a tokenizer. Name a folder"
                " that save_pretrained wrote, or give init_ids."
            ) from error
        ids = tuple(known(text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise ConfigError(f"{self.label}.init_text: {text!r} holds no tokens.")
        return ids
