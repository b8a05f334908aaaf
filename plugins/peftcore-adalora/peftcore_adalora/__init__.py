"""AdaLoRA: low-rank updates that share a budget of ranks, given to the layers that need them."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``adalora``."""
    return MethodSpec(
        name="adalora",
        summary="Low-rank updates whose ranks move to the layers that need them; mergeable.",
        config="peftcore_adalora.config:AdaLoraConfig",
        method="peftcore_adalora.method:AdaLora",
        paper="Zhang et al. 2023, AdaLoRA, https://arxiv.org/abs/2303.10512",
        needs=("linear",),
    )
