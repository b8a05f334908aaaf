"""Starts for tasks with few rows: learned by Reptile, or composed of trained adapters."""

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> list[CommandSpec]:
    """Return the commands: meta-learning, and composition."""
    return [
        CommandSpec(
            name="meta",
            summary="Learn a start of an adapter from several tasks, and try it on few rows.",
            command="peftcore_meta.cli:meta",
            reads=(".yaml", ".yml"),
            section=True,
        ),
        CommandSpec(
            name="compose",
            summary="Add trained adapters up, with weights that are given or fitted to few rows.",
            command="peftcore_meta.cli:compose",
            reads=(".yaml", ".yml"),
            section=True,
        ),
    ]
