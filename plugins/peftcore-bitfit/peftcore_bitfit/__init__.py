"""BitFit: training the bias terms only."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``bitfit``."""
    return MethodSpec(
        name="bitfit",
        summary="Train the bias terms only; can add them where layers have none.",
        config="peftcore_bitfit.config:BitFitConfig",
        method="peftcore_bitfit.method:BitFit",
        paper="Ben Zaken et al. 2022, BitFit, https://arxiv.org/abs/2106.10199",
    )
