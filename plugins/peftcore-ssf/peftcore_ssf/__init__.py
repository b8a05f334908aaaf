"""SSF: scaling and shifting the features after every layer."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``ssf``."""
    return MethodSpec(
        name="ssf",
        summary="Scale and shift the output of linears, convolutions and norms; mergeable.",
        config="peftcore_ssf.config:SsfConfig",
        method="peftcore_ssf.method:Ssf",
        paper="Lian et al. 2022, SSF, https://arxiv.org/abs/2210.08823",
        # the released start is random
        identity_at_start=False,
    )
