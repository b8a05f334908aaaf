"""Sparse fine-tuning: a mask says which weights train; the rest is frozen or removed."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``sparse``; with ``prune: zero`` it does not start as the base."""
    return MethodSpec(
        name="sparse",
        summary="Train the highest-scored weights; the rest is frozen or removed. Mergeable.",
        config="peftcore_sparse.config:SparseConfig",
        method="peftcore_sparse.method:Sparse",
        paper="Sung et al. 2021, FISH mask, https://arxiv.org/abs/2111.09839; Ansell et al. 2022,"
        " LT-SFT, https://arxiv.org/abs/2110.07560",
    )
