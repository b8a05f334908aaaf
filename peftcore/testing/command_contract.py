"""What every subcommand must do that a plugin adds to the program."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import click

from peftcore.registry.installed import CORE, installed
from peftcore.registry.references import resolve
from peftcore.testing.fake_plugins import run_cli

#: What help must not import.
_HEAVY = ("torch", "transformers", "numpy", "pandas")


class CommandContract:
    """Subclass it, set ``command``, and pytest runs the contract.

    Attributes:
        command: name of the command.
    """

    command: ClassVar[str]

    def test_the_name_is_free_and_the_command_can_be_imported(self) -> None:
        spec = installed().commands[self.command]
        assert self.command not in CORE["commands"]
        found = resolve(spec.command)
        assert isinstance(found, click.Command), f"{spec.command} is no click.Command"
        assert spec.summary.strip().endswith("."), "the summary is no sentence"

    def test_every_option_says_what_it_does(self) -> None:
        command = resolve(installed().commands[self.command].command)
        options = [p for p in command.params if isinstance(p, click.Option)]
        bare = [p.opts[0] for p in options if not p.help and not p.hidden]
        assert not bare, f"without help: {', '.join(bare)}"
        assert command.help, "the command says not what it does"

    def test_help_is_printed_without_torch(self) -> None:
        code = (
            "import sys\n"
            "from peftcore.cli import main\n"
            f"try: main([{self.command!r}, '--help'], prog_name='peftcore')\n"
            "except SystemExit as done: assert not done.code, done.code\n"
            f"print(sorted(set({_HEAVY}) & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert f"peftcore {self.command}" in done.stdout
        heavy = done.stderr.strip().splitlines()[-1]
        assert heavy == "[]", f"help of {self.command} imports {heavy}"

    def test_the_program_lists_it(self) -> None:
        done = run_cli("--help")
        assert done.returncode == 0 and f"\n  {self.command} " in done.stdout

    def test_an_unknown_option_ends_with_2_and_a_word_on_stderr(self) -> None:
        done = run_cli(self.command, "--no-such-option-anywhere")
        assert done.returncode == 2, f"exit code {done.returncode}, not 2: {done.stderr}"
        assert "no-such-option-anywhere" in done.stderr and "Traceback" not in done.stderr
        assert done.stdout == "", "errors belong on stderr"
