"""DoRA: the magnitude of each row of a weight is trained, its direction gets a low-rank update."""

from peftcore import MethodSpec, hookimpl


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``dora``."""
    return MethodSpec(
        name="dora",
        summary="Low-rank update of a weight's directions, and its row magnitudes; mergeable.",
        config="peftcore_dora.config:DoraConfig",
        method="peftcore_dora.method:Dora",
        paper="Liu et al. 2024, DoRA, https://arxiv.org/abs/2402.09353",
        needs=("linear",),
    )
