"""Tinylora for peftcore."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    return MethodSpec(
        name="tinylora",
        summary="Low-rank update of linear layers.",
        needs=("linear",),
        config="peftcore_tinylora.method:TinyloraConfig",
        method="peftcore_tinylora.method:Tinylora",
    )
