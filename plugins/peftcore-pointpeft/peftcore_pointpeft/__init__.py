"""Point-PEFT: prompts, a memory bank and geometry-aware adapters for networks on point clouds."""

from peftcore import CommandSpec, FeatureSpec, MethodSpec, hookimpl


@hookimpl
def peftcore_register_features() -> FeatureSpec:
    """Return what Point-PEFT regroups."""
    return FeatureSpec(
        "point-groups",
        "groups of points around centres, all of one scale",
        "peftcore_pointpeft.method:has_groups",
    )


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``pointpeft``."""
    return MethodSpec(
        name="pointpeft",
        summary="Prompts, a memory bank and geometry-aware adapters for point clouds.",
        config="peftcore_pointpeft.config:PointPeftConfig",
        method="peftcore_pointpeft.method:PointPeft",
        paper="Tang et al. 2024, Point-PEFT, https://arxiv.org/abs/2310.03059",
        identity_at_start=False,
        needs=("point-groups",),
    )


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that makes a memory bank."""
    return CommandSpec(
        name="point-bank",
        summary="Make the memory bank of Point-PEFT from the training clouds of a recipe.",
        command="peftcore_pointpeft.cli:point_bank",
        reads=(".yaml", ".yml"),
    )
