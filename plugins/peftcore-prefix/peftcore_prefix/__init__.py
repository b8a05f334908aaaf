"""Prefix tuning: learned keys and values in front of those of every attention layer."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``prefix``."""
    return MethodSpec(
        name="prefix",
        summary="Learned keys and values in front of those of every attention layer.",
        config="peftcore_prefix.config:PrefixConfig",
        method="peftcore_prefix.method:Prefix",
        paper="Li & Liang 2021, Prefix-Tuning, https://arxiv.org/abs/2101.00190",
        identity_at_start=False,
        needs=("cache",),
    )
