"""VeRA: two learned vectors a layer, between random matrices that all layers share."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``vera``."""
    return MethodSpec(
        name="vera",
        summary="Two learned vectors a layer between frozen random matrices; mergeable.",
        config="peftcore_vera.config:VeraConfig",
        method="peftcore_vera.method:Vera",
        paper="Kopiczko et al. 2024, VeRA, https://arxiv.org/abs/2310.11454",
        needs=("linear",),
    )
