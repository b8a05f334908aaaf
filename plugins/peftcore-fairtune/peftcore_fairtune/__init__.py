"""FairTune: which parts of each block to train, searched for by how the worst group fares."""

from peftcore import CommandSpec, MethodSpec, hookimpl

_PAPER = "Dutt et al. 2024, FairTune, https://arxiv.org/abs/2310.05055"


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method: a mask over parts of the blocks."""
    return MethodSpec(
        name="fairtune",
        summary="Train the parts of each block that a mask picks; the mask is searched for.",
        config="peftcore_fairtune.config:FairtuneConfig",
        method="peftcore_fairtune.method:Fairtune",
        paper=_PAPER,
        needs=("attention",),
    )


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that searches for a mask."""
    return CommandSpec(
        name="fairtune",
        summary="Search for a mask by how groups of people fare, and train with the best one.",
        command="peftcore_fairtune.cli:fairtune",
        reads=(".yaml", ".yml"),
        function="peftcore_fairtune.api:fairtune",
        section=True,
    )
