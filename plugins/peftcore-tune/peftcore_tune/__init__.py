"""A search for the settings of a recipe."""

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that searches."""
    return CommandSpec(
        name="tune",
        summary="Search for the settings of a recipe by its validation score.",
        command="peftcore_tune.cli:tune",
        reads=(".yaml", ".yml"),
        function="peftcore_tune.api:tune",
        section=True,
    )
