"""Bottleneck adapters: small networks before, after or beside the modules of a frozen model."""

from peftcore import MethodSpec, hookimpl

_HU = "Hu et al. 2023, LLM-Adapters, https://arxiv.org/abs/2304.01933"
_HOULSBY = "Houlsby et al. 2019, https://arxiv.org/abs/1902.00751"
_PFEIFFER = "Pfeiffer et al. 2021, AdapterFusion, https://arxiv.org/abs/2005.00247"
_HE = "He et al. 2022, Towards a unified view, https://arxiv.org/abs/2110.04366"
_FENG = "Feng and Narayanan 2023, https://arxiv.org/abs/2306.05350"
_CHEN = "Chen et al. 2022, AdaptFormer, https://arxiv.org/abs/2205.13535"


@hookimpl
def peftcore_register_methods() -> list[MethodSpec]:
    """Return the adapters by the names of their papers."""
    return [
        _spec("adapter", "Bottleneck before, after or beside any layer; the series adapter.", _HU),
        _spec("parallel_adapter", "Bottleneck beside the linears of the feed-forward part.", _HU),
        _spec("houlsby", "Bottlenecks after attention and after the feed-forward part.", _HOULSBY),
        _spec("pfeiffer", "One bottleneck a block, after the feed-forward part.", _PFEIFFER),
        _spec("he_parallel", "Scaled bottleneck beside the whole feed-forward part.", _HE),
        _spec("adaptformer", "Bottleneck beside the whole feed-forward part of a ViT.", _CHEN),
        _spec(
            "ser_adapter", "Weak bottleneck beside the feed-forward part of speech models.", _FENG
        ),
    ]


def _spec(name: str, summary: str, paper: str) -> MethodSpec:
    whole = name in ("he_parallel", "adaptformer", "ser_adapter")
    config = "".join(part.capitalize() for part in name.split("_"))
    return MethodSpec(
        name=name,
        summary=summary,
        config=f"peftcore_adapter.config:{config}Config",
        method=f"peftcore_adapter.method:{'BesideFeedForward' if whole else 'Adapter'}",
        paper=paper,
        needs=("linear", "tokens"),
        # an up-projection of zero; the others start at small random values
        identity_at_start=whole,
    )
