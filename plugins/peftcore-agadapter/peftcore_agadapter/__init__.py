"""KaAdapter of AGAdapter: bottlenecks in two towers, whose middle layer they share.

A reconstruction: only the abstract of Fang et al. 2023 could be read. That an alignment adapter
with knowledge sharing works in frozen CLIP is theirs; where it stands, what is shared, by which
layers and how all starts is chosen here.
"""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``kaadapter``."""
    return MethodSpec(
        name="kaadapter",
        summary="Bottlenecks beside the MLPs of towers that share their middle; a reconstruction.",
        config="peftcore_agadapter.config:KaAdapterConfig",
        method="peftcore_agadapter.method:KaAdapter",
        paper="Fang et al. 2023, AGAdapter, from its abstract",
        needs=("linear",),
    )
