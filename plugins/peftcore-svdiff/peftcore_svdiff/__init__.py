"""SVDiff: shifts of the singular values of weights."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``svdiff``."""
    return MethodSpec(
        name="svdiff",
        summary="Shifts of the singular values of linears and convolutions; mergeable.",
        config="peftcore_svdiff.config:SvdiffConfig",
        method="peftcore_svdiff.method:Svdiff",
        paper="Han et al. 2023, SVDiff, https://arxiv.org/abs/2303.11305",
    )
