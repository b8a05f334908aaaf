"""FourierFT: the change of a weight by a few of its frequencies."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``fourierft``."""
    return MethodSpec(
        name="fourierft",
        summary="A few learned Fourier coefficients of the change of a weight; mergeable.",
        config="peftcore_fourierft.config:FourierFtConfig",
        method="peftcore_fourierft.method:FourierFt",
        paper="Gao et al. 2024, FourierFT, https://arxiv.org/abs/2405.03003",
        needs=("linear",),
    )
