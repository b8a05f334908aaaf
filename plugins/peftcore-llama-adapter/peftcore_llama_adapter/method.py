"""LLaMA-Adapter: which layers get prompts, and where in them the pieces go."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature, unwrap
from typing import Any

from torch import nn

from peftcore import MethodConfig, Piece, Site, Targeted, TargetError, bare_class, hookimpl
from peftcore_llama_adapter.config import LlamaAdapterConfig
from peftcore_llama_adapter.pieces import AddPrompts, Parts, Running, TakeQuery, TakeRotary

_HEADS = ("num_heads", "num_attention_heads", "n_heads")


class LlamaAdapter(Targeted):
    """Zero-initialised attention, Zhang et al. 2023."""

    kinds = ("module",)
    config: LlamaAdapterConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        #: path of a module to what makes the piece there
        self._makers: dict[str, Callable[[], Piece]] = {}

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Find the chosen layers and their projections.

        Raises:
            TargetError: the model has fewer layers; or one has no projections that are called.
        """
        layers = self.chosen(sites)
        count = self.config.adapter_layers or max(1, len(layers) - 2)
        if count > len(layers):
            raise TargetError(
                f"{self.label}.adapter_layers: {count} layers are more than the {len(layers)} whose"
                f" attention is targeted. Write adapter_layers: {len(layers)} or less."
            )
        for site in layers[-count:]:
            config = self.settled(site)
            inside = [s for s in sites if s.path.startswith(f"{site.path}.")]
            query, key, value, output = (
                self._part(site, inside, part) for part in ("query", "key", "value", "output")
            )
            parts, running = self._parts(site, query, key, value), Running()
            self._makers[site.path] = partial(TakeRotary, site.module, running)
            self._makers[query.path] = partial(TakeQuery, running)
            self._makers[output.path] = partial(AddPrompts, parts, config, running)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        """Return the prompts at a projection to outputs, or what hands them what they need."""
        make = self._makers.pop(site.path, None) if site.features is None else None
        return make() if make else None

    def _part(self, attention: Site, inside: Sequence[Site], part: str) -> Site:
        """Return the site of a projection, which may be a slice of a fused one."""
        found = [site for site in inside if site.role == f"attention.{part}"]
        if len(found) != 1 or found[0].direct:
            raise TargetError(
                f"{self.label}: {attention.here} does not call one projection for its {part}, so"
                " that prompts cannot pass through it. Target attention whose projections are"
                " layers of their own."
            )
        return found[0]

    def _parts(self, site: Site, query: Site, key: Site, value: Site) -> Parts:
        heads = _heads(site.module)
        width, rest = divmod(query.layer.out_features, heads) if heads else (0, 1)
        fits = not rest and key.layer.out_features % width == 0
        if not fits or key.layer.out_features != value.layer.out_features:
            raise TargetError(
                f"{self.label}: {site.here} does not say how many heads it has, or its keys and"
                " values do not divide into them. Leave it out with targets."
            )
        # some models multiply their queries themselves, and say so by a scale of one
        scale = getattr(site.module, "scaling", 1.0)
        return Parts(
            heads, width, key.layer.in_features, scale if scale != 1 else width**-0.5,
            (query.features, key.features, value.features), key.module, value.module,
            getattr(site.module, "q_norm", None), getattr(site.module, "k_norm", None),
            self._turn(site), getattr(site.module, "rotary_ndims", width),
        )  # fmt: skip

    def _turn(self, site: Site) -> Callable[..., Any] | None:
        """Return what turns the queries of an attention; None where it is given no embedding."""
        classes = (c for c in bare_class(site.module).__mro__ if "forward" in vars(c))
        forward: Any = next((c.forward for c in classes if _takes_rotary(c)), None)
        if forward is None:
            return None
        # pairs of features are halves of a head in some families and neighbours in others
        turn: Any = unwrap(forward).__globals__.get("apply_rotary_pos_emb")
        if turn is None or [*signature(turn).parameters][:4] != ["q", "k", "cos", "sin"]:
            raise TargetError(
                f"{self.label}: {site.here} turns its queries in a way of its own: its code has no"
                " apply_rotary_pos_emb(q, k, cos, sin) with which those that prompts are read by"
                " could be turned. Leave it out with targets."
            )
        return turn  # type: ignore[no-any-return]


def _takes_rotary(attention: Any) -> bool:
    return "position_embeddings" in signature(attention.forward).parameters


def _heads(attention: nn.Module) -> int:
    """Return the number of heads that an attention or its configuration tells; 0 for none."""
    for module in attention.modules():
        for teller in (module, getattr(module, "config", None)):
            for name in _HEADS:
                heads: Any = getattr(teller, name, None)
                if isinstance(heads, int):
                    return heads
    return 0
