"""Prefix tuning: which layers get a prefix, and how wide it is there."""

from collections.abc import Sequence

from peftcore import Method, MethodConfig, Site, TargetError, hookimpl
from peftcore_prefix.config import PrefixConfig
from peftcore_prefix.pieces import Encoder, LearnedPrefix, ProjectedPrefix, arguments_of


class Prefix(Method):
    """Prefix tuning, Li & Liang 2021."""

    config: PrefixConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._widths: dict[str, tuple[int, int]] = {}
        self._encoder: Encoder | None = None

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find the attention that gets a prefix, and the widths of its keys and values.

        Raises:
            TargetError: there is none; or one takes no cache, so that nothing can be put in front
                of its keys; or the prefix is longer than the model's positions.
        """
        targets = self.config.targets
        chosen = [s for s in sites if (s.matches(targets) if targets else s.role == "attention")]
        if not chosen:
            raise TargetError(
                f"{self.label} puts keys and values in front of those that attention keeps in a"
                " cache (past_key_values), and this model is not known to have such attention."
                " Choose a method that needs none, such as lora."
            )
        for site in chosen:
            self._check(site)
            widths = [_width(sites, site, role) for role in ("key", "value")]
            if not all(widths):
                raise TargetError(
                    f"{self.label}: {site.path} ({site.role}) has no one projection to keys and"
                    " one to values, from which the widths of the prefix are read. Leave it out"
                    " with targets."
                )
            self._widths[site.name] = widths[0], widths[1]

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> LearnedPrefix | None:
        """Return the prefix of a chosen layer."""
        widths = self._widths.get(site.name)
        if widths is None or site.layer.kind != "module":
            return None
        length = self.config.num_virtual_tokens
        if not self.config.prefix_projection:
            return LearnedPrefix(site, length, *widths)
        owns = self._encoder is None
        if self._encoder is None:
            inner = self.config.encoder_hidden_size or site.layer.out_features
            self._encoder = Encoder(site.layer, length, inner)
        return ProjectedPrefix(site, length, *widths, encoder=self._encoder, owns=owns)

    def _check(self, site: Site) -> None:
        where = f"{self.label}: {site.here}"
        if not {"past_key_values", "attention_mask"} <= set(arguments_of(site.module)):
            raise TargetError(
                f"{where} takes no cache (past_key_values), so that no keys and values can be put"
                " in front of its own. Leave it out with targets, or choose a method that needs no"
                " cache, such as lora."
            )
        config = getattr(site.module, "config", None)
        if getattr(config, "_attn_implementation", "") == "flex_attention":
            raise TargetError(
                f"{where} runs flex_attention, whose masks cannot be widened by a prefix. Load the"
                " model with attn_implementation='sdpa'."
            )
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and self.config.num_virtual_tokens > positions:
            raise TargetError(
                f"{self.label}.num_virtual_tokens: {self.config.num_virtual_tokens} is more than"
                f" the {positions} positions of the model."
            )


def _width(sites: Sequence[Site], attention: Site, part: str) -> int:
    """Return the width of the keys or values of an attention; 0 where it is not known."""
    inside = [
        site.layer.out_features
        for site in sites
        if site.path.startswith(f"{attention.path}.") and site.role == f"attention.{part}"
    ]
    return inside[0] if len(inside) == 1 else 0
