"""Prefix tuning: which layers get a prefix, and how wide it is there."""

from collections.abc import Sequence

from peftcore import Site, Targeted, TargetError, argument_names, hookimpl
from peftcore_prefix.config import PrefixConfig
from peftcore_prefix.pieces import Encoder, Learned, Projected, runs_flash


class Prefix(Targeted):
    """Prefix tuning, Li & Liang 2021."""

    kinds = ("module",)
    config: PrefixConfig

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Note how wide the keys and values of the model are."""
        parts = ("attention.key", "attention.value")
        self._widths = {(s.role, s.path): s.layer.out_features for s in sites if s.role in parts}

    def piece(self, site: Site, config: PrefixConfig) -> Learned | Projected:
        """Return the prefix of an attention.

        Raises:
            TargetError: it takes no cache, so that nothing can be put in front of its keys; or the
                widths of its keys and values are not known.
        """
        self._check(site)
        length, widths = config.num_virtual_tokens, self._widths_at(site)
        if not config.prefix_projection:
            return Learned(site.module, length, *widths)
        width = site.layer.out_features
        inner = config.encoder_hidden_size or width
        encoder = self.shared("encoder", lambda: Encoder(length, width, inner))
        return Projected(site.module, length, *widths, encoder=encoder)

    def _check(self, site: Site) -> None:
        where = f"{self.label}: {site.here}"
        if not {"past_key_values", "attention_mask"} <= set(argument_names(site.module)):
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
        window = getattr(site.module, "sliding_window", getattr(config, "sliding_window", None))
        if window is not None and runs_flash(site.module):
            raise TargetError(
                f"{where} runs flash attention, whose window of {window} tokens would slide over"
                " the prefix too, so that later tokens do not see it. Load the model with"
                " attn_implementation='sdpa', where the window is in the mask."
            )

    def _widths_at(self, site: Site) -> tuple[int, int]:
        """Return the widths of an attention's keys and values."""
        inside = {k: w for k, w in self._widths.items() if k[1].startswith(f"{site.path}.")}
        if sorted(role for role, _ in inside) != ["attention.key", "attention.value"]:
            raise TargetError(
                f"{self.label}: {site.here} has no one projection to keys and one to values, from"
                " which the widths of the prefix are read. Leave it out with targets."
            )
        key, value = (inside[where] for where in sorted(inside))
        return key, value
