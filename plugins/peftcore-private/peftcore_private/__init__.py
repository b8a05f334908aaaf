"""Differentially private and federated training of adapters."""

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands: DP-SGD, and federated averaging."""
    return [
        CommandSpec(
            name="private",
            summary="Train a recipe with differential privacy, at one or several budgets.",
            command="peftcore_private.cli:private",
            reads=(".yaml", ".yml"),
            section=True,
        ),
        CommandSpec(
            name="federated",
            summary="Train an adapter on the rows of several clients, which send no rows.",
            command="peftcore_private.cli:federated",
            reads=(".yaml", ".yml"),
            section=True,
        ),
    ]
