"""Differentially private training of adapters."""

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands: DP-SGD."""
    return [
        CommandSpec(
            name="private",
            summary="Train a recipe with differential privacy, at one or several budgets.",
            command="peftcore_private.cli:private",
            reads=(".yaml", ".yml"),
            section=True,
        ),
    ]
