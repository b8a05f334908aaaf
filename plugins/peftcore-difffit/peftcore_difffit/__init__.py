"""DiffFit: biases, norms, and a scale on every branch of the residual stream."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``difffit``."""
    return MethodSpec(
        name="difffit",
        summary="Train biases and norms, and scale each attention and feed-forward branch.",
        config="peftcore_difffit.config:DiffFitConfig",
        method="peftcore_difffit.method:DiffFit",
        paper="Xie et al. 2023, DiffFit, https://arxiv.org/abs/2304.06648",
    )
