"""What pytest knows once peftcore is installed: fixtures, a marker, and asserts that explain.

It is loaded in every run of pytest, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from peftcore.testing import fake_plugins

if TYPE_CHECKING:
    from torch import nn

    from peftcore.registry.records import PluginRecord

# the asserts of the contracts shall show their values, as those of a test file do
for _name in (
    "against_peft", "backbone_contract", "command_contract", "configuration", "declared",
    "layer_contract", "matrix", "method.computed", "method.described", "method.on_toy",
    "method.stored", "method.switched", "method.trained", "plugin_contract", "refusals",
    "source_contract",
):  # fmt: skip
    pytest.register_assert_rewrite(f"peftcore.testing.{_name}")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "backbones: tries a method on every installed backbone; without them, on toys alone, a"
        " contract takes seconds",
    )


@pytest.fixture
def toy() -> nn.Module:
    """Return the toy, a small text classifier with every common role, in evaluation mode."""
    from peftcore.testing.matrix import tiny

    return tiny("toy")[1]


@pytest.fixture
def tiny() -> Callable[..., tuple[Any, Any, dict[str, Any]]]:
    """Return the function that gives a backbone's knowledge, a small model of it and a batch."""
    from peftcore.testing import matrix

    return matrix.tiny


@pytest.fixture
def with_plugin() -> Iterator[Callable[..., PluginRecord]]:
    """Return the function that has a plugin, an object with hooks or specs, until the test ends."""
    from peftcore.registry.installed import installed

    with ExitStack() as stack:

        def have(*plugin: object, name: str = "test") -> PluginRecord:
            return stack.enter_context(installed().with_plugin(*plugin, name=name))

        yield have


@pytest.fixture
def run_cli() -> Callable[..., Any]:
    """Return the function that runs ``peftcore`` in a fresh process."""
    return fake_plugins.run_cli
