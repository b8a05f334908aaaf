"""FacT: the updates of all layers from one pair of shared factors."""

from peftcore import MethodSpec, hookimpl

#: Name to (class, summary).
_METHODS = {
    "fact_tt": ("FactTT", "Tensor-train update of all linears, outer factors shared; mergeable."),
    "fact_tk": (
        "FactTK",
        "Tucker update of all linears, outer factors and core shared; mergeable.",
    ),
}


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods ``fact_tt`` and ``fact_tk``."""
    return [
        MethodSpec(
            name=name,
            summary=summary,
            config="peftcore_fact.config:FactConfig",
            method=f"peftcore_fact.method:{method}",
            paper="Jie & Deng 2023, FacT, https://arxiv.org/abs/2212.03145",
            needs=("linear",),
        )
        for name, (method, summary) in _METHODS.items()
    ]
