"""BitFit: training the bias terms only."""

from peftcore import MethodSpec, hookimpl

#: Families with members that have no bias at all.
_BIAS_FREE = ("gemma", "llama", "mistral", "qwen", "t5")


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``bitfit``."""
    return MethodSpec(
        name="bitfit",
        summary="Train the bias terms only; can add them where layers have none.",
        config="peftcore_bitfit.config:BitFitConfig",
        method="peftcore_bitfit.method:BitFit",
        config_for={name: {"add_missing": True} for name in _BIAS_FREE},
        paper="Ben Zaken et al. 2022, BitFit, https://arxiv.org/abs/2106.10199",
    )
