"""The methods: which piece goes where, what the pieces share, what sizes fit."""

from math import gcd

from peftcore import Method, MethodConfig, Site, TargetError, hookimpl
from peftcore_kadaptation.config import CompacterConfig, KadaptationConfig
from peftcore_kadaptation.pieces import (
    Bias,
    CompacterAdapter,
    Kronecker,
    KroneckerWithBias,
    Rule,
    Slow,
)


class Kadaptation(Method):
    """Kronecker adaptation, He et al. 2023; slow weights per role, one bias per block."""

    config: KadaptationConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._slow: dict[str, Slow] = {}
        self._bias: dict[tuple[int | None, int], Bias] = {}

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Kronecker | None:
        """Return the update of a targeted linear layer.

        Raises:
            TargetError: it is no linear layer, n does not divide its sizes, or the model reads its
                weight where a bias or dropout is asked for.
        """
        if not site.matches(self.config.targets):
            return None
        config, layer, n = self.config, site.layer, self.config.phm_dim
        self._check(site)
        owns = site.role not in self._slow
        if owns:
            self._slow[site.role] = Slow(layer, n)
        made = KroneckerWithBias if config.bias else Kronecker
        piece = made(
            layer, self._slow[site.role], owns=owns, n=n, scale=config.scale,
            dropout=config.dropout, released=config.init == "released",
        )  # fmt: skip
        if isinstance(piece, KroneckerWithBias):
            key = site.block, layer.out_features
            owns = key not in self._bias
            if owns:
                self._bias[key] = Bias(layer)
            piece.refer_to(self._bias[key], owns=owns)
        return piece

    def _check(self, site: Site) -> None:
        where = f"{self.label}.targets: {site.here}"
        self.check_linear(site, "KAdaptation updates linear layers")
        _divides(self.label, site, self.config.phm_dim, site.layer.in_features)
        _divides(self.label, site, self.config.phm_dim, site.layer.out_features)
        if site.direct and (self.config.bias or self.config.dropout):
            raise TargetError(
                f"{where}: the model reads the weight there and never calls the layer. Write"
                " bias: false and dropout: 0."
            )


class Compacter(Method):
    """Compacter, Karimi Mahabadi et al. 2021: one rule shared by the adapters of all layers."""

    config: CompacterConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._rule: Rule | None = None

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> CompacterAdapter | None:
        """Return the adapter after a targeted layer.

        Raises:
            TargetError: its output is no sequence of vectors whose width n divides.
        """
        if not site.matches(self.config.targets):
            return None
        layer, n = site.layer, self.config.phm_dim
        if layer.kind.startswith("conv") or site.features is not None or not layer.out_features:
            what = "a slice of a fused layer" if site.features is not None else f"a {layer.kind}"
            raise TargetError(
                f"{self.label}.targets: {site.here} is {what}; an"
                " adapter needs the whole output of a layer, features last. Leave it out with"
                " exclude."
            )
        _divides(self.label, site, n, layer.out_features)
        owns = self._rule is None
        rule = self._rule = self._rule or Rule(layer, n, train=self.config.train_rule)
        fields = self.config.model_dump(include={"bottleneck", "act_fn", "layer_norm"})
        return CompacterAdapter(layer, rule, owns=owns, n=n, **fields)


def _divides(label: str, site: Site, n: int, width: int) -> None:
    if width % n:
        raise TargetError(
            f"{label}.phm_dim: {n} does not divide {width}, a size of {site.name or 'the model'}"
            f" ({site.role}). Write phm_dim: {gcd(n, width)}."
        )
