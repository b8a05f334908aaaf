"""Methods that put one kind of thing at the layers which their targets choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

from torch import nn

from peftcore.errors import TargetError
from peftcore.method.config import Mark, MethodConfig
from peftcore.method.method import Method
from peftcore.method.pieces import Piece
from peftcore.model.layers import has_forward_of_its_own
from peftcore.model.sites import Site
from peftcore.model.walk import bare_class
from peftcore.registry.hookspecs import hookimpl

#: Kind of layer to what sentences call it.
_KINDS = {
    "linear": "linear layers",
    "embedding": "embeddings",
    "conv": "convolutions",
    "norm": "norms",
    "experts": "experts",
    "module": "whole modules",
}
_PLAIN: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "embedding": nn.Embedding,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


class Targeted(Method):
    """A method with a field ``targets``: :meth:`piece` is asked for each layer that they choose.

    What a layer must be is declared: its kinds here, the values that fit it as marks of the
    configuration's fields (:class:`AtMost`, :class:`Divides`, :class:`NeedsCall`). The core refuses
    the others, with the same words for every method.
    """

    #: Kinds of layers that the method knows; ``conv`` is any convolution.
    kinds: ClassVar[tuple[str, ...]] = ("linear",)
    #: Of these, those at which the piece repeats the layer's own call, so that a subclass of
    #: torch's layer that computes more is refused.
    plain: ClassVar[tuple[str, ...]] = ()
    #: The width of what a layer returns must be known; that of some norms and modules is not.
    needs_width: ClassVar[bool] = False

    def piece(self, site: Site, config: Any) -> Piece | Mapping[str, Piece] | None:
        """Return the piece of a targeted layer, several by name, or None to leave it alone.

        Args:
            site: the layer.
            config: the configuration with per-role fields settled for it.
        """
        raise NotImplementedError

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | Mapping[str, Piece] | None:
        """Return the piece of a targeted layer.

        Raises:
            TargetError: the layer is of another kind, or a setting does not fit it.
        """
        targets = self.config.targets
        if targets is None or not site.matches(targets):
            return None
        return self.piece(site, self.settled(site))

    def chosen(self, sites: Iterable[Site]) -> list[Site]:
        """Return the sites for which :meth:`piece` will be asked, in order.

        A slice is left out where the fused layer that it is of is chosen too.

        Args:
            sites: those of the model.
        """
        targets, found = self.config.targets, list[Site]()
        for site in sites if targets is not None else ():
            if not site.matches(targets):
                continue
            if site.features is None or not any(site.inside(other) for other in found):
                found.append(site)
        return found

    def settled(self, site: Site, chosen_by: str = "targets") -> Any:
        """Return the configuration for a targeted site, after checking that they go together.

        Args:
            site: the layer.
            chosen_by: the field of targets that chooses it, for the sentence.

        Raises:
            TargetError: the layer is of another kind, or a setting does not fit it.
        """
        self._check_kind(site, chosen_by)
        config: MethodConfig = self.config.at(site)
        values = config.__dict__  # a model's attributes are slow to get
        for field, mark in _marks(type(config)):
            if why := mark.refusal(field, values[field], site, self.config.__dict__[field]):
                raise TargetError(f"{self.label}.{field}: {why}")
        return config

    def _check_kind(self, site: Site, chosen_by: str) -> None:
        kind = site.layer.kind
        whole = "conv" if kind.startswith("conv") else kind
        if whole not in self.kinds:
            known = [_KINDS[k] for k in self.kinds]
            listed = " and ".join(filter(None, (", ".join(known[:-1]), known[-1])))
            inside = "Name the layers inside it, or leave" if kind == "module" else "Leave"
            raise TargetError(
                f"{self._where(site, chosen_by)} is of kind {kind}; {self.name} acts on {listed}."
                f" {inside} it out with exclude."
            )
        if self.needs_width and not site.layer.out_features:
            raise TargetError(
                f"{self._where(site, chosen_by)} returns features of a number that is not known,"
                f" and {self.name} needs their number. Leave it out with exclude."
            )
        if whole not in self.plain:
            return
        plain, cls = _PLAIN[kind], bare_class(site.module)
        # a linear layer whose forward a handler knows is as good; of others more is repeated
        if whole == "linear":
            more = has_forward_of_its_own(site.module)
        else:
            more = getattr(cls, "forward", None) is not plain.forward
        if more and not site.direct:
            raise TargetError(
                f"{self._where(site, chosen_by)} is a {cls.__name__}, which does more than a plain"
                f" {plain.__name__}; {self.name} cannot act beside what else it does. Leave it out"
                " with exclude."
            )

    def _where(self, site: Site, chosen_by: str) -> str:
        return f"{self.label}.{chosen_by}: {site.here}"


@cache
def _marks(kind: type[MethodConfig]) -> list[tuple[str, Mark]]:
    """Return the marks of a configuration, each with its field."""
    fields = kind.model_fields.items()
    return [(name, m) for name, info in fields for m in info.metadata if isinstance(m, Mark)]
