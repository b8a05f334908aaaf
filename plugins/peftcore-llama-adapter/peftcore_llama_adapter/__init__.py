"""LLaMA-Adapter: attention to learned prompts, through gates that start at zero."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``llama_adapter``."""
    return MethodSpec(
        name="llama_adapter",
        summary="Attention to learned prompts in the upper layers, gated from zero.",
        config="peftcore_llama_adapter.config:LlamaAdapterConfig",
        method="peftcore_llama_adapter.method:LlamaAdapter",
        paper="Zhang et al. 2023, LLaMA-Adapter, https://arxiv.org/abs/2303.16199",
        needs=("attention", "own-queries"),
    )
