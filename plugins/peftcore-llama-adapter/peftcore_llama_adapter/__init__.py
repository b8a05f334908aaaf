"""LLaMA-Adapter: attention to learned prompts, through gates that start at zero."""

from peftcore import MethodSpec, hookimpl

_IMPOSSIBLE = {
    "toy": "its attention does not say how many heads it has",
    "wavlm": "it reads the weights of its projections and never calls them, so that nothing can"
    " take their queries",
    "deberta": "its projection of queries serves positions as well",
}


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``llama_adapter``."""
    return MethodSpec(
        name="llama_adapter",
        summary="Attention to learned prompts in the upper layers, gated from zero.",
        config="peftcore_llama_adapter.config:LlamaAdapterConfig",
        method="peftcore_llama_adapter.method:LlamaAdapter",
        paper="Zhang et al. 2023, LLaMA-Adapter, https://arxiv.org/abs/2303.16199",
        needs=("attention",),
        impossible=_IMPOSSIBLE,
    )
