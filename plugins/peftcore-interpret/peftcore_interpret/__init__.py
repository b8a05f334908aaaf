"""What a tuned model looks at, and what its adapter changed."""

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that looks into a run."""
    return CommandSpec(
        name="interpret",
        summary="Show what a tuned model looks at, and what its adapter changed.",
        command="peftcore_interpret.cli:interpret",
        function="peftcore_interpret.api:interpret",
    )
