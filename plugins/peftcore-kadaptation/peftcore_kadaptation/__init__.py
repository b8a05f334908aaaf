"""KAdaptation and Compacter: sums of Kronecker products whose factors are shared by all layers."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the methods ``kadaptation`` and ``compacter``."""
    return [
        MethodSpec(
            name="kadaptation",
            summary="Update of linears by Kronecker products, one factor shared; mergeable.",
            config="peftcore_kadaptation.config:KadaptationConfig",
            method="peftcore_kadaptation.method:Kadaptation",
            paper="He et al. 2023, KAdaptation, https://arxiv.org/abs/2203.16329",
            needs=("linear",),
        ),
        MethodSpec(
            name="compacter",
            summary="Bottleneck adapter whose projections are sums of Kronecker products.",
            config="peftcore_kadaptation.config:CompacterConfig",
            method="peftcore_kadaptation.method:Compacter",
            paper="Karimi Mahabadi et al. 2021, Compacter, https://arxiv.org/abs/2106.04647",
            # the released start is random
            identity_at_start=False,
            needs=("linear", "tokens"),
        ),
    ]
