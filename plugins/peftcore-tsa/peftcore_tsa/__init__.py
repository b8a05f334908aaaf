"""TSA: residual adapters beside the 3x3 convolutions of a network."""

from peftcore import FeatureSpec, MethodSpec, hookimpl


@hookimpl
def peftcore_register_features() -> FeatureSpec:
    """Return what TSA puts its adapters beside."""
    return FeatureSpec(
        "convolutions-of-kernel-3", "convolutions of kernel 3", "peftcore_tsa.method:has_kernel_3"
    )


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``tsa``."""
    return MethodSpec(
        name="tsa",
        summary="Adapters of kernel 1 beside the 3x3 convolutions of a network; mergeable.",
        config="peftcore_tsa.config:TsaConfig",
        method="peftcore_tsa.method:Tsa",
        paper="Li, Liu & Bilen 2022, Cross-domain Few-shot Learning with Task-specific Adapters,"
        " https://arxiv.org/abs/2107.00358",
        # the released start is a small multiple of the identity
        identity_at_start=False,
        needs=("convolutions-of-kernel-3",),
    )
