"""Which rows to label next, and in which order to train on them."""

from collections.abc import Sequence

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> Sequence[CommandSpec]:
    """Return the commands: an experiment, a choice of rows to label, and curricula."""
    return (
        CommandSpec(
            name="active",
            summary="Label a pool round by round, by several strategies and at random.",
            command="peftcore_active.cli:active",
            reads=(".yaml", ".yml"),
            function="peftcore_active.api:active",
            section=True,
        ),
        CommandSpec(
            name="query",
            summary="Choose the rows of an unlabelled file that a run would learn most from.",
            command="peftcore_active.cli:query",
        ),
        CommandSpec(
            name="curriculum",
            summary="Train on easy rows first, on hard ones first, and in any order.",
            command="peftcore_active.cli:curriculum",
            reads=(".yaml", ".yml"),
            function="peftcore_active.api:curriculum",
            section=True,
        ),
    )
