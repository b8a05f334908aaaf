"""Pages about runs and comparisons."""

from peftcore import CommandSpec, hookimpl


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that writes a page."""
    return CommandSpec(
        name="report",
        summary="Write a page about a run or a comparison, in one file.",
        command="peftcore_report.cli:report",
        function="peftcore_report.api:report",
    )
