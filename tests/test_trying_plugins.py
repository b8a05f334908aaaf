"""``peftcore test`` and ``-p``: what is tried, the one line of its result, and exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import peftcore
from peftcore.testing import run_cli, run_in_process

LIGHT = """
from peftcore import MethodSpec, SourceSpec, hookimpl

@hookimpl
def peftcore_register_methods():
    return MethodSpec("strange", "Add a number.", "strange_inside:Config", "strange_inside:Strange")
"""
INSIDE = """
import torch
from pydantic import Field
from torch import nn

from peftcore import Delta, Method, MethodConfig, Targets, hookimpl


class Config(MethodConfig):
    targets: Targets = Field(Targets.model_validate(["mlp.up"]), description="Where.")
    start: float = Field(0.0, description="Value at the start.")


class Number(Delta):
    def __init__(self, width, start):
        super().__init__()
        self.number = nn.Parameter(torch.full((width,), start))

    def forward(self, x):
        return self.number + 0 * x[..., :1]


class Strange(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site):
        if site.matches(self.config.targets):
            return Number(site.layer.out_features, self.config.start)
"""


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, which holds a method of a stranger that is not installed."""
    (tmp_path / "strange.py").write_text(LIGHT)
    (tmp_path / "strange_inside.py").write_text(INSIDE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return tmp_path


# --- peftcore test ----------------------------------------------------------------------------


def test_an_installed_plugin_keeps_its_contract() -> None:
    done = run_in_process("test", "peftcore-bitfit", "--toys", "-k", "configuration or brings")
    assert done.exit_code == 0, done.output
    assert done.stdout == "peftcore-bitfit keeps its contract: 4 checks passed.\n"
    assert "4 passed" in done.stderr


def test_what_a_strangers_module_fails_is_said_in_one_line(strange: Path) -> None:
    done = run_in_process(
        "-p", "strange", "test", "strange", "--set", "start=1.0", "-k", "starts or plan"
    )
    assert done.exit_code == 1
    assert done.stdout == (
        "strange breaks its contract: 1 of 2 checks fail:"
        " it starts as the base or says that it does not.\n"
    )
    assert "strange changes the base at its start" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("peftcore-lorra",), 3, "called 'peftcore-lorra'. Did you mean peftcore-lora?"),
        (("lora", "--no-such-option"), 2, "pytest does not take --no-such-option"),
        (("bert", "--set", "rank=2"), 2, "--set is for one method"),
        (("lora", "--set", "rank"), 2, "--set rank: write KEY=VALUE"),
        (("lora", "--set", "rank=["), 2, "'[' is not readable as YAML"),
    ],
)
def test_what_cannot_be_tried_is_said(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    done = run_in_process("test", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr


# --- plugins that are not installed -------------------------------------------------------------


def test_a_module_of_the_command_line_is_listed_and_gone_after_it(strange: Path) -> None:
    done = run_in_process("-p", "strange", "list", "methods")
    assert done.exit_code == 0
    assert "strange (this-process)" in done.stdout
    assert "strange" not in peftcore.installed().methods
    assert "PEFTCORE_PLUGINS" not in os.environ


def test_a_module_named_in_the_environment_is_found_in_the_working_folder(strange: Path) -> None:
    done = run_cli("list", "methods", env={"PEFTCORE_PLUGINS": "strange"}, cwd=strange)
    assert done.returncode == 0, done.stderr
    assert "Add a number." in done.stdout


@pytest.mark.parametrize("command", ["show lora", "test lora", "nothing"])
def test_a_module_that_is_broken_stops_every_command(command: str, strange: Path) -> None:
    (strange / "broken.py").write_text("raise ValueError('no such thing')\n")
    done = run_in_process("-p", "broken", *command.split())
    assert done.exit_code == 3 and done.stdout == ""
    assert "error: broken (this-process) is broken: ValueError: no such thing" in done.stderr


def test_a_module_that_is_broken_is_explained_by_list_and_doctor(strange: Path) -> None:
    (strange / "broken.py").write_text("raise ValueError('no such thing')\n")
    listed = run_in_process("-p", "broken", "list")
    assert listed.exit_code == 0
    assert "broken: broken (this-process): ValueError: no such thing" in listed.stdout
    explained = run_in_process("-p", "broken", "doctor")
    assert explained.exit_code == 1 and 'broken.py", line 1' in explained.stdout
    absent = run_in_process("-p", "absent", "show", "lora")
    assert absent.exit_code == 3 and "No module named 'absent'" in absent.stderr
