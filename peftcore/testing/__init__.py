"""The contract kit: what every plugin, ours or a stranger's, is tested with.

Subclass :class:`MethodContract` or :class:`BackboneContract` in a test file and name the plugin::

    from peftcore.testing import MethodContract

    class TestLora(MethodContract):
        method = "lora"
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftcore.testing.backbone_contract import BackboneContract as BackboneContract
    from peftcore.testing.fake_plugins import make_plugin as make_plugin, run_cli as run_cli
    from peftcore.testing.matrix import Pair as Pair, check_pair as check_pair, pairs as pairs
    from peftcore.testing.method_contract import MethodContract as MethodContract
    from peftcore.testing.toy import FakeQuantLinear as FakeQuantLinear, Toy as Toy

_LAZY = {
    "BackboneContract": "backbone_contract",
    "FakeQuantLinear": "toy",
    "MethodContract": "method_contract",
    "Pair": "matrix",
    "Toy": "toy",
    "check_pair": "matrix",
    "make_plugin": "fake_plugins",
    "pairs": "matrix",
    "run_cli": "fake_plugins",
}

__all__ = sorted(_LAZY)  # pyright: ignore


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'peftcore.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"peftcore.testing.{_LAZY[name]}"), name)
