"""FacT: the updates of all layers from one pair of shared factors."""

from peftcore import MethodSpec, hookimpl

_PAPER = "Jie & Deng 2023, FacT, https://arxiv.org/abs/2212.03145"


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods ``fact_tt`` and ``fact_tk``."""
    return [
        MethodSpec(
            name="fact_tt",
            summary="Tensor-train update of all linears, outer factors shared; mergeable.",
            config="peftcore_fact.config:FactConfig",
            method="peftcore_fact.method:FactTT",
            paper=_PAPER,
            needs=("linear",),
        ),
        MethodSpec(
            name="fact_tk",
            summary="Tucker update of all linears, outer factors and core shared; mergeable.",
            config="peftcore_fact.config:FactConfig",
            method="peftcore_fact.method:FactTK",
            paper=_PAPER,
            needs=("linear",),
        ),
    ]
