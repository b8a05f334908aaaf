"""IA3: keys, values and inner activations, each scaled by a learned vector."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``ia3``."""
    return MethodSpec(
        name="ia3",
        summary="Learned scales of keys, values and inner activations; very small, mergeable.",
        config="peftcore_ia3.config:Ia3Config",
        method="peftcore_ia3.method:Ia3",
        paper="Liu et al. 2022, (IA)³, https://arxiv.org/abs/2205.05638",
        needs=("linear",),
    )
